"""What the jobs of one CI run publish together, and how a job adds to what others have published.

Nothing of another run is accepted, nor anything that a job of this one would not have written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from scripts import arch as arches
from scripts.arch import Arch
from scripts.publish import release
from scripts.publish.announcement import Announcement
from scripts.stages.artifacts import CHECKSUMS
from scripts.system.errors import UsageError

# A line of SHA512SUMS, as sha512sum(1) writes it.
LINE = re.compile(r"(?P<sha512>[0-9a-f]{128})  (?P<key>[^\n]+)\n")


def checked_number(text: str, hint: str) -> str:
    """Return text, the number of a run. Raises UsageError with hint if it is none, or missing."""
    if not text:
        raise UsageError("the run ID is missing", hint=hint)
    if not release.RUN_ID.fullmatch(text):
        raise UsageError(
            f"the run ID must be a number without leading zeros, not {text!r}", hint=hint
        )
    return text


class ClashError(Exception):
    """Something is published already for the same architecture, with other contents."""


@dataclass(frozen=True)
class Run:
    """A run of CI, whose jobs publish files of product under its number.

    base_url is where people download the bucket's files. repository is where container images go,
    "" for any.
    """

    product: str
    number: str
    base_url: str
    repository: str = ""

    @property
    def sums(self) -> str:
        """The key of its checksums."""
        return f"finch-{self.product}-{self.number}.{CHECKSUMS}"

    @property
    def manifest(self) -> str:
        """The key of its release manifest."""
        return f"finch-{self.product}-manifest-{self.number}.json"

    def keys(self) -> dict[str, Arch]:
        """Map the key of each file that the run may publish to its architecture, in order."""
        return {
            key: arch
            for arch in arches.ARCHES
            for key in release.names(self.product, arch, self.number)
        }

    def url(self, key: str) -> str:
        """Return the address people download key from."""
        return f"{self.base_url.rstrip('/')}/{key}"

    def downloads(self) -> list[tuple[str, str, str]]:
        """Return platform, architecture (in Go's words) and URL of all downloads, in order."""
        templates = release.published()
        return [
            (
                platform,
                arch.debian,
                self.url(release.named(templates[name], self.product, arch, self.number)),
            )
            for arch in arches.ARCHES
            for name, platform in release.platforms().items()
        ]

    def parse_sums(self, text: bytes) -> dict[str, str]:
        """Return the sha512 by key in text. Raises ValueError unless jobs of this run wrote it."""
        found = {line["key"]: line["sha512"] for line in LINE.finditer(text.decode())}
        if release.checksums(found) != text or not found.keys() <= self.keys().keys():
            raise ValueError(f"it is not the list of run {self.number}")
        return found

    def parse_manifest(self, text: bytes, now: datetime) -> Announcement:
        """Return what the release manifest in text announces.

        Raises one of `strict.ODDITIES` unless jobs of this run wrote it and it is valid now.
        """
        found = Announcement.parse(text)
        found.validity.check(now)
        known = self.downloads()
        listed = [(one.platform, one.arch, one.url) for one in found.downloads]
        pushed = [one.arch for one in found.images]
        odd = [one[-1] for one in listed if one not in known or listed.count(one) > 1]
        odd += [one.image for one in found.images
                if not self._has(one.image, one.arch) or pushed.count(one.arch) > 1]  # fmt: skip
        odd += [one.digest for one in found.images if not release.DIGEST.fullmatch(one.digest)]
        if odd:
            raise ValueError(f"run {self.number} would not list {odd[0]!r}")
        return found

    def _has(self, image: str, arch: str) -> bool:
        """Whether this run may have pushed image for arch, an architecture in Go's words."""
        repository, _, tag = image.rpartition(":")
        if not repository or self.repository not in {"", repository}:
            return False
        return any(
            one.debian == arch and release.first_tag([tag], one, self.number)
            for one in arches.ARCHES
        )


@dataclass(frozen=True)
class Own:
    """What one job publishes: its architectures, the sha512 by key, and what it announces."""

    archs: Sequence[Arch]
    sums: Mapping[str, str]
    announced: Announcement


def merge_sums(run: Run, own: Own, there: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums in there and own's, in the order of the run's files.

    Raises ClashError if there has others for own's architectures.
    """
    keys = run.keys()
    ours = {key: sha512 for key, sha512 in there.items() if keys[key] in own.archs}
    if ours and ours != own.sums:
        raise ClashError
    return {key: sha512 for key in keys if (sha512 := {**there, **own.sums}.get(key))}


def merge_manifest(run: Run, own: Own, there: Announcement) -> Announcement:
    """Return what there and own announce, with the dates of there.

    Raises ClashError if there announces something else for own's architectures.
    """
    ours, made = _part(there, own.archs), _part(own.announced, own.archs)
    if (ours.downloads or ours.images) and ordered(run, ours) != ordered(
        run, replace(made, validity=there.validity)
    ):
        raise ClashError
    return ordered(
        run,
        replace(
            there,
            downloads=tuple({*there.downloads, *made.downloads}),
            images=tuple({*there.images, *made.images}),
        ),
    )


def ordered(run: Run, announced: Announcement) -> Announcement:
    """Return announced in the order in which the run's manifest lists things."""
    urls = [url for _, _, url in run.downloads()]
    ranks = [arch.debian for arch in arches.ARCHES]
    return replace(
        announced,
        downloads=tuple(sorted(announced.downloads, key=lambda one: urls.index(one.url))),
        images=tuple(sorted(announced.images, key=lambda one: ranks.index(one.arch))),
    )


def _part(announced: Announcement, archs: Sequence[Arch]) -> Announcement:
    """Return the part of announced that is for archs."""
    names = {arch.debian for arch in archs}
    return replace(
        announced,
        downloads=tuple(one for one in announced.downloads if one.arch in names),
        images=tuple(one for one in announced.images if one.arch in names),
    )
