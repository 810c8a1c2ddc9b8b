"""mkosi's Python package: its digest, and the bytecode that Python leaves in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from scripts.system.digests import describe, text_digest


def digest(package: Path) -> str:
    """Return the sha256 of the folder: of names, contents and executability of all files in it.

    Bytecode counts as well, since Python would run it instead of the source. A folder that does not
    exist is like an empty one.
    """
    found = {
        path.relative_to(package).as_posix(): _describe(path)
        for path in sorted(package.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }
    return text_digest(json.dumps(found))


def _describe(path: Path) -> str:
    """Describe a file as a build sees it, or say that it is none."""
    # Reading a FIFO would wait forever.
    return describe(path) if path.is_symlink() or path.is_file() else "special"


def drop_bytecode(package: Path) -> None:
    """Remove the bytecode in the folder, because nothing verifies it; Python makes it again."""
    for cache in [*package.rglob("__pycache__")]:
        if not cache.is_symlink():
            shutil.rmtree(cache, ignore_errors=True)
