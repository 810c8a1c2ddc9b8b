"""Writing files so that they appear whole, and removing folders with everything in them."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from scripts.system.errors import HarnessError
from scripts.system.process import CommandError, run


def nearest(path: Path) -> Path:
    """Return path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where this user may not look
        path = path.parent
    return path


def make_private(folder: Path) -> None:
    """Make folder and those above it, and close it to other users. Raises OSError.

    What a build leaves in it includes setuid programs of images and copies of passwords for package
    archives. A folder that others share, such as /tmp, stays as it is.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX:
        folder.chmod(0o700)


def remove(folder: Path) -> None:
    """Remove folder and everything in it; do nothing if it does not exist.

    That includes files that a user's build gave to subordinate UIDs. Raises HarnessError if
    something cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except PermissionError as error:
        if os.geteuid() == 0:
            raise HarnessError(f"{folder} cannot be removed: {error}") from error
        try:
            run(["unshare", "--map-root-user", "--map-auto", "--", "rm", "-rf", "--", folder])
        except (CommandError, FileNotFoundError) as failure:
            raise HarnessError(
                f"{folder} cannot be removed: {error}", hint=f"sudo rm -rf '{folder}'"
            ) from failure


def write_text(path: Path, text: str) -> None:
    """Write text to path so that it appears whole. A file that has that text is left alone."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
