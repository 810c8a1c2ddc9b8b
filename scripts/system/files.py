"""Writing files so that they appear whole, and removing folders with everything in them."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import IO

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

    Of a link, only the link is removed, and a file is removed as well. That includes files that a
    user's build gave to subordinate UIDs. Raises HarnessError if something cannot be removed.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        folder.unlink()
        return
    try:
        shutil.rmtree(folder)
    except RecursionError:
        # rm copes with any depth, and a script of a package can make folders of any depth.
        _remove_deep(folder)
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


def _remove_deep(folder: Path) -> None:
    try:
        run(["rm", "--recursive", "--force", "--", folder])
    except CommandError as error:
        raise HarnessError(
            f"{folder} cannot be removed: {error.output.strip()}", hint=f"sudo rm -rf '{folder}'"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write text to path so that it appears whole. A file that has that text is left alone."""
    is_file = path.is_file() and not path.is_symlink()
    if is_file and path.read_bytes() == text.encode():
        return
    _replace(path, text, 0o644)


def write_private(path: Path, text: str) -> None:
    """Write text, which holds a secret, to path so that only this user can ever read it."""
    _replace(path, text, 0o600)


def _replace(path: Path, text: str, mode: int) -> None:
    """Put a new file with text and mode in the place of path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A new name each time, so that nobody can put a link there beforehand.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(descriptor, mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def open_plain(path: Path) -> IO[bytes]:
    """Open the file at path for reading and writing, as it is; create it if it does not exist.

    Raises OSError if it is a link, has other names (its contents could be another file's) or is not
    a regular file.
    """
    return open(path, "r+b", opener=_plain)


def _plain(path: str, _: int) -> int:
    """Open path for `open_plain`, and return its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise FileExistsError(f"{path} is not a plain file with one name")
