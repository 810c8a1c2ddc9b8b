"""Digests of files, trees and texts."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def text_digest(text: str) -> str:
    """The sha256 of text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """The digest of the file at path, in hex; the file is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def describe(path: Path) -> str:
    """What of a file decides a build: where a link points, or contents and executability."""
    if path.is_symlink():
        return f"-> {path.readlink()}"
    runs = "x" if os.access(path, os.X_OK) else "-"
    return f"{runs} {file_digest(path)}"


def describe_tree(folder: Path) -> dict[str, str]:
    """`describe` of each file below folder, by its path relative to folder."""
    return {
        path.relative_to(folder).as_posix(): describe(path)
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file()) and "__pycache__" not in path.parts
    }


def tree_digest(folder: Path) -> str:
    """The sha256 over all files below folder, their names, contents and executable bits."""
    return text_digest(json.dumps(describe_tree(folder)))
