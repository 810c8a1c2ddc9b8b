"""The release manifest, by which Finch finds a release: its contents, and how long it is valid.

It is in the form that finch-core's updater reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from scripts import catalog
from scripts.publish.release import RUN_OF_NAME, Build, Image, platforms, published
from scripts.system import strict
from scripts.system.errors import HarnessError

# The name in the bucket of a copy of the newest release's manifest.
LATEST = "manifest.json"

# Half a year, as for finch-core's releases; Finch tells users who have not updated by then.
LONGEST = 183  # days

# How far the clocks of two machines that publish may differ.
SKEW = timedelta(minutes=10)

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


def manifest(
    builds: Iterable[Build],
    images: Iterable[Image],
    *,
    run: str,
    base_url: str,
    repository: str,
    validity: Validity,
) -> bytes:
    """Return the release manifest. The same arguments always give the same bytes.

    digest repeats sha512 in the form that finch-core's updater reads.
    """
    downloads = [
        {
            "platform": platform,
            "arch": build.arch.debian,  # as Go's GOARCH
            "url": f"{base_url.rstrip('/')}/{build.named(published()[name], run)}",
            "sha512": build.sha512[name],
            "digest": f"sha512:{build.sha512[name]}",
        }
        for build in builds
        for name, platform in platforms().items()
        if name in build.sha512
    ]
    data = {
        "published_at": _stamp(validity.published),
        "expires_at": _stamp(validity.expires),
        "artifacts": downloads,
        "container_images": [
            {
                "arch": one.arch.debian,
                "image": f"{repository}:{one.tag}",
                "digest": one.digest,
            }
            for one in images
            if repository
        ],
    }
    return (json.dumps(data, indent=2) + "\n").encode()


def validity_of(there: bytes, where: str, now: datetime) -> Validity:
    """Return the dates of a release manifest that is published already.

    Only the dates are taken from it: the rest is made anew, and must give the same bytes. where is
    its address, for messages. Raises HarnessError if we would not have written such dates.
    """
    try:
        found = Validity.read(there)
        found.check(now)
    except strict.ODDITIES as error:
        raise HarnessError(
            f"{where} is not a release manifest that can be published: {error}",
            hint=f"publish with another {catalog.flag('run-id')}",
        ) from error
    return found


def newest_run(text: bytes) -> int:
    """Return the largest run number in the names that a release manifest lists, or 0."""
    try:
        data: Mapping[str, Any] = strict.loads(text)
        names = [one["url"] for one in data["artifacts"]]
        names += [one["image"] for one in data["container_images"]]
        found = [RUN_OF_NAME.search(name) for name in names]
    except strict.ODDITIES:
        return 0
    return max((int(match[1]) for match in found if match), default=0)


def _moment(stamp: str) -> datetime:
    """Return the moment of stamp. Raises ValueError or TypeError unless we would write it so."""
    moment = datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)
    if _stamp(moment) != stamp:
        raise ValueError(f"{stamp!r} is not a date of the form {STAMP}")
    return moment


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(STAMP)
