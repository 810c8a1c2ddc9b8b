"""Compares what `rpm --verify` says of an image with the differences that have a reason.

verification.toml lists these.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# rpm(8), "Verify options": what differs, then perhaps the kind of file, then its path.
LINE = re.compile(r"(?P<what>missing|[.?SM5DLUGTP]{9}) +(?:[acdglnr] )?(?P<path>/.*)")


@dataclass(frozen=True)
class Difference:
    """A difference between files and their package that has a reason.

    path is a pattern for the whole path, what is "missing" or rpm's nine letters and dots. An empty
    images stands for all of them.
    """

    path: re.Pattern[str]
    what: str
    reason: str
    images: frozenset[str] = frozenset()

    def explains(self, what: str, path: str) -> bool:
        """Whether this is the reason for rpm's finding what about path."""
        return what == self.what and self.path.fullmatch(path) is not None


@cache
def explained(image: str) -> tuple[Difference, ...]:
    """The entries of verification.toml for an image."""
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())["difference"]
    every = (
        Difference(
            re.compile(path), table["what"], table["reason"], frozenset(table.get("images", ()))
        )
        for table in tables
        for path in table["paths"]
    )
    return tuple(one for one in every if not one.images or image in one.images)


def complaints(said: str, differences: Sequence[Difference]) -> list[str]:
    """Return what rpm says that no difference explains, and the differences that are gone."""
    used: set[Difference] = set()
    wrong = []
    for line in said.splitlines():
        reasons = set(_reasons(line, differences))
        used |= reasons
        if not reasons:
            wrong.append(f"unexplained: {line}")
    return [
        *wrong,
        *(f"no longer so: {one.what} {one.path.pattern}" for one in differences if one not in used),
    ]


def _reasons(line: str, differences: Sequence[Difference]) -> Iterator[Difference]:
    if found := LINE.fullmatch(line):
        yield from (one for one in differences if one.explains(found["what"], found["path"]))
