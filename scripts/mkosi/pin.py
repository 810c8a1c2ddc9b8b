"""Read the pin of mkosi (mkosi/pin.toml), and the version of mkosi in a tree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from scripts.system import strict
from scripts.system.errors import UsageError

# The tables of the sources that have a pinned version, in the order in which they are asked.
SOURCES = ("upstream", "debian")


@dataclass(frozen=True)
class Pin:
    """The contents of mkosi/pin.toml.

    Attributes:
        version: the version of mkosi.
        url: upstream's tarball of that version.
        sha256: the digest of the tarball.
        newest: upstream's newest source tree, whose digest cannot be pinned.
        package: the name of Debian's package.
        suites: the suites of the Debian archive to look for it in.
        digests: the digests that the package mkosi/ of that version may have with our patches, one
            for each source; they are equal unless a source packages it differently.
        package_sha256: the digest of the package of that version, "" if it is not known.
        full_tree: the names of the patches that change files which a package does not have.
        proposed: the patches, below the folder of the pin, that no build applies: they are for
            upstream alone.

    """

    version: str
    url: str
    sha256: str
    newest: str
    package: str
    suites: tuple[str, ...]
    digests: frozenset[str]
    full_tree: tuple[str, ...] = ()
    proposed: tuple[str, ...] = ()
    package_sha256: str = ""

    @classmethod
    def read(cls, path: Path) -> Pin:
        """Return the pin at path. Raises UsageError that says what is wrong with it."""
        try:
            data = strict.toml(path.read_text())
            return cls(
                version=data["version"],
                url=data["upstream"]["url"],
                sha256=data["upstream"]["sha256"],
                newest=data["upstream"]["newest"],
                package=data["debian"]["package"],
                suites=tuple(data["debian"]["suites"]),
                digests=frozenset(str(data[name]["patched"]) for name in SOURCES),
                package_sha256=data["debian"].get("sha256", ""),
                full_tree=tuple(data.get("patches", {}).get("full-tree", ())),
                proposed=tuple(data.get("patches", {}).get("proposed", ())),
            )
        except (OSError, *strict.ODDITIES) as error:
            raise UsageError(f"{path} is not a pin of mkosi: {error!r}") from error


def version_of(tree: Path) -> str:
    """Return the version of the mkosi in tree, "unknown" if it does not say."""
    text = (tree / "mkosi/sandbox.py").read_text(errors="replace")
    match = re.search(r'^__version__ = "([\w.~+-]+)"$', text, re.MULTILINE | re.ASCII)
    return match[1] if match else "unknown"
