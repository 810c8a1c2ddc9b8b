"""Digests of texts, files and whole folders."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path


def text_digest(text: str) -> str:
    """Return the sha256 of text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of the file at path, in hex. Memory stays small, whatever its size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def describe(path: Path) -> str:
    """Describe a file as a build sees it: a link's target, or contents and executability.

    A file is executable if its owner may execute it.
    """
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return describe_file(path, runs=bool(path.stat().st_mode & stat.S_IXUSR))


def describe_file(path: Path, *, runs: bool) -> str:
    """Describe a file as `describe` does; runs tells whether it counts as executable."""
    return f"{'x' if runs else '-'} {file_digest(path)}"


def describe_tree(folder: Path) -> dict[str, str]:
    """Return what `describe` says of each file below folder, by its path relative to folder."""
    return {
        path.relative_to(folder).as_posix(): describe(path)
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file()) and "__pycache__" not in path.parts
    }


def tree_digest(folder: Path) -> str:
    """Return the sha256 of a folder: of names, contents and executability of all files in it."""
    return text_digest(json.dumps(describe_tree(folder)))
