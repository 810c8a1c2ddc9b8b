"""Deletes older container images of releases from a registry.

Only tags that a release gives are ever deleted. An image stays if it is among the newest of its
architecture, if a file of finch-core's `deps` names its run, its tag or its digest, or if a tag
that stays refers to it too, such as `latest-<arch>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts import catalog
from scripts.arch import ARCHES
from scripts.publish import conf
from scripts.publish.deps import FILES
from scripts.publish.registry import Registry
from scripts.publish.release import DAY, RUN_ID
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Task
from scripts.system.text import say

# The tag that a release gives to its image: the date without leading zeros, the run, and mkosi's
# name of the architecture.
TAG = re.compile(
    rf"{DAY}-build-(?P<run>{RUN_ID.pattern})-(?P<arch>{'|'.join(arch.mkosi for arch in ARCHES)})"
    r"-with-kernel"
)

# A number in a file of deps that may be a run's: neither part of a digest nor of a longer word.
NUMBER = re.compile(rf"(?<![0-9A-Za-z])({RUN_ID.pattern})(?![0-9A-Za-z])")

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Named:
    """What the files of a `deps` folder name: runs, and digests of images; and their whole text."""

    runs: frozenset[int]
    digests: frozenset[str]
    text: str

    @classmethod
    def read(cls, folder: Path) -> Named:
        """Return what the files in folder name. Raises UsageError if it is another folder."""
        if not any((folder / name).exists() for name in FILES.values()):
            raise UsageError(
                f"{folder} has no {' or '.join(FILES.values())}, so nobody knows which images are "
                "in use",
                hint=f"name finch-core's folder with {catalog.option('deps')}",
            )
        text = "\n".join(conf.read(path) for path in sorted(folder.glob("*.conf")))
        runs = frozenset(int(number) for number in NUMBER.findall(text))
        return cls(runs, frozenset(DIGEST.findall(text)), text)

    def has_tag(self, tag: str) -> bool:
        """Whether a file names tag itself."""
        return re.search(rf"(?<![\w.-]){re.escape(tag)}(?![\w.-])", self.text) is not None


@dataclass(frozen=True)
class Verdict:
    """What becomes of a tag, and why it stays ("" if it is deleted)."""

    tag: str
    digest: str
    arch: str
    run: int
    reason: str


def judged(tags: Mapping[str, str], named: Named, keep: int) -> list[Verdict]:
    """Judge the tags of releases, newest first; tags has the digest of every tag in the registry.

    keep is the number of runs that stay for each architecture.
    """
    ours = {tag: match for tag in tags if (match := TAG.fullmatch(tag))}
    newest = _newest(list(ours.values()), keep)
    reasons = {tag: _reason(match, tags[tag], named, newest) for tag, match in ours.items()}
    staying = {tags[tag]: tag for tag in tags if tag not in ours or reasons[tag]}
    found = [
        Verdict(
            tag, tags[tag], match["arch"], int(match["run"]),
            reasons[tag] or _shared(staying.get(tags[tag], "")),
        )
        for tag, match in ours.items()
    ]  # fmt: skip
    return sorted(found, key=lambda one: (one.arch, -one.run, one.tag))


def _newest(matches: Sequence[re.Match[str]], keep: int) -> set[tuple[str, int]]:
    """Return the architecture and run of the newest runs, keep of each architecture."""
    runs = {(match["arch"], int(match["run"])) for match in matches}
    return {
        one
        for arch in ARCHES
        for one in sorted((one for one in runs if one[0] == arch.mkosi), reverse=True)[:keep]
    }


def _reason(
    match: re.Match[str], digest: str, named: Named, newest: set[tuple[str, int]]
) -> str:  # fmt: skip
    if int(match["run"]) in named.runs or named.has_tag(match[0]) or digest in named.digests:
        return "named in deps"
    return "among the newest" if (match["arch"], int(match["run"])) in newest else ""


def _shared(other: str) -> str:
    return f"also called {other}" if other else ""


def clean(registry: Registry, named: Named, keep: int, task: Task, *, dry_run: bool) -> None:
    """Delete what `judged` lets go, and print a table; with dry_run only print it.

    Raises HarnessError if a tag cannot be deleted, or if another one has gone with it.
    """
    task.step(f"reading the tags of {registry.repository}")
    tags = registry.images()
    verdicts = judged(tags, named, keep)
    leaving = [one.tag for one in verdicts if not one.reason]
    for number, tag in enumerate([] if dry_run else leaving, 1):
        task.step(f"deleting {tag} ({number} of {len(leaving)})")
        registry.delete(tag)
    say(_table(verdicts, dry_run=dry_run))
    if leaving and not dry_run:
        _confirm(registry, {*tags} - {*leaving})


def _confirm(registry: Registry, staying: set[str]) -> None:
    """Raise HarnessError unless all these tags are there: some registries delete whole images."""
    if lost := sorted(staying - registry.images().keys()):
        raise HarnessError(
            f"{registry.repository}:{lost[0]} should have stayed, but it has gone",
            hint="look for another program that deletes images there",
        )


def _table(verdicts: Sequence[Verdict], *, dry_run: bool) -> str:
    """Return a line for each tag, under a heading."""
    gone = "would be deleted" if dry_run else "deleted"
    width = max((len(one.tag) for one in verdicts), default=0)
    lines = [
        f"{one.tag:{width}}  {one.digest[:19]}  {f'stays: {one.reason}' if one.reason else gone}"
        for one in verdicts
    ]
    return "\n".join([f"{len(verdicts)} images of releases:", *lines])
