"""Unpack mkosi from a folder, a tarball or a Debian package."""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePosixPath

from scripts.mkosi import package
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.extraction import extract

# Where the package mkosi/ is in a source tree, in a tarball and in Debian's package.
PLACES = (".", "*", "usr/lib/python3/dist-packages")

# Files in a folder in use that are not part of the program. Python would run bytecode instead of
# the source that can be read.
IGNORED = {"__pycache__", "mkosi.cache", "mkosi.tools"}

# Files of version control, which could change its behaviour, such as .git and .gitattributes.
VERSION_CONTROL = (".git", ".hg", ".svn", ".bzr", ".jj")

# Built manual pages, which Debian's package adds. Without them the package is the same wherever it
# comes from.
MANUALS = "mkosi/resources/man"
MANUAL = re.compile(r".+\.[0-9]")

# More than the decompressed size of mkosi's sources, 5 MB.
BYTES = 256 << 20


def unpack(source: Path, scratch: Path) -> Path:
    """Copy or extract source below scratch and return the folder that holds the package mkosi/.

    Version control's files, bytecode and built manual pages are left out. Raises UsageError if
    source does not exist, HarnessError if it does not hold mkosi or may not be unpacked.
    """
    tree = scratch / "tree"
    if source.is_dir():
        try:
            shutil.copytree(find_package(source), tree, symlinks=True, ignore=_ignored)
        except shutil.Error as error:
            raise HarnessError(f"{source} cannot be copied: {error.args[0][0][2]}") from error
        return tree
    _check_existence(source)
    extract(source, tree, skip=_is_ignored_below, limit=BYTES)
    return find_package(tree)


def find_package(folder: Path) -> Path:
    """Return the folder at or below folder that holds mkosi/sandbox.py.

    Raises HarnessError if there is none.
    """
    for pattern in PLACES:
        for candidate in [folder] if pattern == "." else sorted(folder.glob(pattern)):
            found = candidate / "mkosi"
            if (found / "sandbox.py").is_file() and not found.is_symlink():
                return candidate
    raise HarnessError(
        f"{folder} does not contain mkosi",
        hint="it must contain the folder mkosi/ with sandbox.py",
    )


def digest_of(given: Path) -> str:
    """Return a digest that changes whenever the mkosi in given (a folder or an archive) does."""
    if given.is_dir():
        return package.digest(find_package(given) / "mkosi")
    _check_existence(given)
    return file_digest(given)


def _check_existence(given: Path) -> None:
    if not given.exists():
        raise UsageError(
            f"MKOSI_SOURCE={given} does not exist", hint="name a folder or an archive of mkosi"
        )


def _ignored(folder: str, names: list[str]) -> set[str]:
    """Return which of names in folder are not copied."""
    return {name for name in names if _is_ignored(PurePosixPath(folder), name)}


def _is_ignored_below(path: str) -> bool:
    """Return whether a member of an archive, or a folder that it is in, is left out."""
    whole = PurePosixPath(path)
    return any(_is_ignored(one.parent, one.name) for one in (whole, *whole.parents))


def _is_ignored(folder: PurePosixPath, name: str) -> bool:
    is_manual = MANUAL.fullmatch(name) and folder.as_posix().endswith(MANUALS)
    return bool(is_manual) or name in IGNORED or name.startswith(VERSION_CONTROL)
