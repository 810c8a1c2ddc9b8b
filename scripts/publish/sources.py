"""Reads the files of a build, never through a link that leads elsewhere."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path, PurePosixPath

from scripts.system.errors import HarnessError

CHUNK_BYTES = 1 << 20

AGAIN = "build it again"


def is_inside(name: str) -> bool:
    """Whether name is a relative path that stays in its folder and has no odd characters."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."}.intersection(parts)


def opened(folder: Path, name: str) -> BufferedReader:
    """Open the regular file called name below folder for reading.

    Raises HarnessError if it is missing, if it is not a regular file, or if a part of name is a
    symbolic link. folder itself may be behind a link.
    """
    path = folder / name
    try:
        descriptor = _open(folder, PurePosixPath(name).parts)
    except FileNotFoundError:
        raise HarnessError(f"{path} is missing", hint=AGAIN) from None
    except OSError as error:
        # A link in place of a folder is "not a directory"; so is a file.
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise HarnessError(
                f"{path} leads through a symbolic link or a file, so it is not part of this build",
                hint=AGAIN,
            ) from None
        raise HarnessError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HarnessError(f"{path} is not a regular file", hint=AGAIN)
    return os.fdopen(descriptor, "rb")


def _open(folder: Path, parts: tuple[str, ...]) -> int:
    """Open the file at parts below folder, one part after the other; see openat(2)."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(part, flags, dir_fd=at)
            os.close(at)
            at = below
        # O_NONBLOCK, because to open a FIFO without a writer would wait for one.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(parts[-1], flags, dir_fd=at)
    finally:
        os.close(at)


def digest(folder: Path, name: str) -> str:
    """Return the sha512 of the file called name below folder, in hex. Raises as `opened` does."""
    with opened(folder, name) as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def copy(folder: Path, name: str, target: Path, sha512: str) -> None:
    """Copy the file called name below folder to target, and hash the bytes that are copied.

    Raises HarnessError unless their digest is sha512, and as `opened` does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha512()
    with opened(folder, name) as source, target.open("wb") as copied:
        for chunk in chunks(source):
            found.update(chunk)
            copied.write(chunk)
    if found.hexdigest() != sha512:
        raise changed(folder / name)


def chunks(file: BufferedReader) -> Iterator[bytes]:
    """Yield the rest of file in pieces of at most CHUNK_BYTES."""
    return iter(lambda: file.read(CHUNK_BYTES), b"")


def changed(path: Path) -> HarnessError:
    """Return the error about a file that is not the one that was built."""
    return HarnessError(f"{path} has been changed since it was built", hint=AGAIN)
