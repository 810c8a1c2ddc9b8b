"""Which mkosi is pinned: mkosi/pin.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from scripts.system.errors import UsageError


@dataclass(frozen=True)
class Pin:
    """The contents of mkosi/pin.toml.

    full_tree are the names of the patches that need more of mkosi's source tree than the packaged
    form has, newest the URL of upstream's newest source tree, of which no digest can be pinned.
    """

    version: str
    url: str
    sha256: str
    newest: str
    package: str
    suites: tuple[str, ...]
    full_tree: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Pin:
        """The pin at path. Raises UsageError that says what is wrong with it."""
        try:
            data = tomllib.loads(path.read_text())
            return cls(
                version=data["version"],
                url=data["upstream"]["url"],
                sha256=data["upstream"]["sha256"],
                newest=data["upstream"]["newest"],
                package=data["debian"]["package"],
                suites=tuple(data["debian"]["suites"]),
                full_tree=tuple(data.get("patches", {}).get("full-tree", ())),
            )
        except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
            raise UsageError(f"{path} is no mkosi pin: {error!r}") from error


def version_of(tree: Path) -> str:
    """The version of the mkosi whose package is in tree."""
    match = re.search(
        r'^__version__ = "(.+)"$', (tree / "mkosi/sandbox.py").read_text(), re.MULTILINE
    )
    return match[1] if match else "unknown"
