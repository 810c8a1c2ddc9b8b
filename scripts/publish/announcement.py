"""The release manifest, by which Finch finds a release: its contents, and how long it is valid.

It is in the form that finch-core's updater reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from scripts import arch as arches
from scripts import catalog
from scripts.publish.release import RUN_OF_NAME, RUN_OF_TAG, Build, platforms, published
from scripts.system import strict

# The name in the bucket of a copy of the newest release's manifest.
LATEST = "manifest.json"

# Half a year, as for finch-core's releases; Finch tells users who have not updated by then.
LONGEST = 183  # days

# The most that a file has that people download; a disk image has about half a gigabyte.
LARGEST = 16 << 30  # bytes

# How far the clocks of two machines that publish may differ.
SKEW = timedelta(minutes=10)

# A word in a release manifest that may be a name.
NAME = re.compile(r"[^\s\"]+")

STAMP = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Validity:
    """When a release was published, and when it expires, in UTC and whole seconds."""

    published: datetime
    expires: datetime

    @classmethod
    def starting(cls, now: datetime, days: int) -> Validity:
        """Return the validity of a release that is published now, for that number of days."""
        start = now.astimezone(UTC).replace(microsecond=0)
        return cls(start, start + timedelta(days=days))

    @classmethod
    def read(cls, text: bytes) -> Validity:
        """Return the dates in a release manifest. Raises ValueError, KeyError or TypeError."""
        data = strict.loads(text)
        return cls(_moment(data["published_at"]), _moment(data["expires_at"]))

    def check(self, now: datetime) -> None:
        """Raise ValueError unless the release is valid now, for at most LONGEST days in all."""
        if self.published > now + SKEW:
            raise ValueError(f"it is dated in the future: {_stamp(self.published)}")
        if self.expires <= now:
            raise ValueError(f"it expired at {_stamp(self.expires)}")
        if self.expires - self.published > timedelta(days=LONGEST):
            raise ValueError(f"it would be valid for more than {LONGEST} days")


@dataclass(frozen=True)
class Download:
    """A file that people download: their platform and architecture in Go's words, URL, sha512."""

    platform: str
    arch: str
    url: str
    sha512: str

    def to_json(self) -> dict[str, str]:
        """Return the entry; digest repeats sha512 in the form that Finch reads."""
        return {
            "platform": self.platform,
            "arch": self.arch,
            "url": self.url,
            "sha512": self.sha512,
            "digest": f"sha512:{self.sha512}",
        }


@dataclass(frozen=True)
class Pushed:
    """A container image: architecture in Go's words, its name in a registry, sha256:HEX."""

    arch: str
    image: str
    digest: str


@dataclass(frozen=True)
class Announcement:
    """What a release manifest says."""

    validity: Validity
    downloads: tuple[Download, ...]
    images: tuple[Pushed, ...] = ()

    @classmethod
    def parse(cls, text: bytes) -> Announcement:
        """Read a release manifest. Raises one of `strict.ODDITIES` unless we would write text."""
        data: Mapping[str, Any] = strict.loads(text)
        downloads = [(one["platform"], one["arch"], one["url"], one["sha512"])
                     for one in data["artifacts"]]  # fmt: skip
        images = [(one["arch"], one["image"], one["digest"]) for one in data["container_images"]]
        for value in (value for entry in (*downloads, *images) for value in entry):
            if not isinstance(value, str):
                raise TypeError(f"{value!r} is not a text")
        found = cls(
            Validity.read(text),
            tuple(Download(*one) for one in downloads),
            tuple(Pushed(*one) for one in images),
        )
        if found.text() != text:
            raise ValueError("it is not in the form in which releases are published")
        return found

    def text(self) -> bytes:
        """Return the manifest. The same announcement always has the same bytes."""
        data = {
            "published_at": _stamp(self.validity.published),
            "expires_at": _stamp(self.validity.expires),
            "artifacts": [one.to_json() for one in self.downloads],
            "container_images": [asdict(one) for one in self.images],
        }
        return (json.dumps(data, indent=2) + "\n").encode()

    def missing(self) -> list[str]:
        """Return the platforms of the catalogue that have no download in it, as in darwin/arm64."""
        there = {(one.platform, one.arch) for one in self.downloads}
        return sorted(f"{platform}/{arch}" for platform, arch in required() - there)


def required() -> set[tuple[str, str]]:
    """Return the platforms and architectures, in Go's words, that a whole release serves."""
    return {
        (platform, arches.parse(arch).debian)
        for image in catalog.IMAGES.values()
        for platform in image.platforms.values()
        for arch in image.arches
    }


def downloads(builds: Iterable[Build], *, run: str, base_url: str) -> list[Download]:
    """Return the files of builds that people download."""
    return [
        Download(
            platform,
            build.arch.debian,
            f"{base_url.rstrip('/')}/{build.named(published()[name], run)}",
            build.sha512[name],
        )
        for build in builds
        for name, platform in platforms().items()
        if name in build.sha512
    ]


def tags(text: bytes) -> list[str]:
    """Return the tags of the container images in text, none unless it is a release manifest."""
    try:
        return [one.image.rpartition(":")[2] for one in Announcement.parse(text).images]
    except strict.ODDITIES:
        return []


def newest_run(text: bytes) -> int:
    """Return the largest run number in the names that a release manifest has, or 0.

    Names count in any form of a manifest, also a damaged one: finch-core's own, which ours replace,
    is not like ours, and no run may take the place of a newer one.
    """
    names = NAME.findall(text.decode(errors="replace"))
    found = [form.search(name) for form in (RUN_OF_NAME, RUN_OF_TAG) for name in names]
    return max((int(match["run"]) for match in found if match), default=0)


def _moment(stamp: str) -> datetime:
    """Return the moment of stamp. Raises ValueError or TypeError unless we would write it so."""
    moment = datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)
    if _stamp(moment) != stamp:
        raise ValueError(f"{stamp!r} is not a date of the form {STAMP}")
    return moment


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(STAMP)
