"""Unpack mkosi from a folder, a tarball or a Debian package."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zlib
from pathlib import Path

from scripts.system.digests import file_digest, tree_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import CommandError, last_line, run

# Where the package mkosi/ is in a source tree, in a tarball and in Debian's package.
PLACES = (".", "*", "usr/lib/python3/dist-packages")

# What a folder in use holds that is not part of the program.
IGNORED = {".git", "__pycache__", "mkosi.cache", "mkosi.tools"}


def unpack(source: Path, scratch: Path) -> Path:
    """Copy or extract source below scratch and return the folder that holds the package mkosi/.

    Raises UsageError if source does not exist, HarnessError if it does not hold mkosi.
    """
    tree = scratch / "tree"
    if source.is_dir():
        shutil.copytree(find_package(source), tree, symlinks=True, ignore=_ignored)
        return tree
    _check_existence(source)
    tree.mkdir()
    try:
        if source.suffix == ".deb":
            run(["dpkg-deb", "--extract", source.absolute(), tree])
        else:
            with tarfile.open(source) as archive:
                archive.extractall(tree, filter="data")
    except (CommandError, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        cause = last_line(getattr(error, "output", "")) or str(error)
        raise HarnessError(f"{source} is not an archive of mkosi: {cause}") from error
    return find_package(tree)


def find_package(folder: Path) -> Path:
    """Return the folder at or below folder that holds mkosi/sandbox.py.

    Raises HarnessError if there is none.
    """
    for pattern in PLACES:
        for candidate in [folder] if pattern == "." else sorted(folder.glob(pattern)):
            if (candidate / "mkosi/sandbox.py").exists():
                return candidate
    raise HarnessError(
        f"{folder} does not contain mkosi",
        hint="it must contain the folder mkosi/ with sandbox.py",
    )


def digest_of(given: Path) -> str:
    """Return a digest that changes whenever the mkosi in given (a folder or an archive) does."""
    if given.is_dir():
        return tree_digest(find_package(given) / "mkosi")
    _check_existence(given)
    return file_digest(given)


def _check_existence(given: Path) -> None:
    if not given.exists():
        raise UsageError(
            f"MKOSI_SOURCE={given} does not exist", hint="name a folder or an archive of mkosi"
        )


def _ignored(_folder: str, names: list[str]) -> set[str]:
    return IGNORED & set(names)
