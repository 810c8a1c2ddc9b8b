"""Unpacks archives that may be hostile: a tarball, or the files of a Debian package.

A member that would leave the folder is refused before it is written. This does not rely on Python's
own filter alone, which an archive can escape in some Python versions (CVE-2025-4517).
"""

from __future__ import annotations

import bz2
import copy
import gzip
import lzma
import posixpath
import stat
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, cast

from scripts.system.errors import HarnessError
from scripts.system.process import Arg, last_line, running, start

# Limits above the size of any archive here: mkosi has 700 members, and Debian's QEMU 200 MB of
# programs.
MEMBERS = 20_000
BYTES = 1 << 30

# The number of bytes that are read at once.
BUFFER = 1 << 20

# Longer names are refused: Linux allows 255 bytes between slashes and 4096 in all, and archives
# that escape from Python's filter need paths beyond that (CVE-2025-4517).
COMPONENT_BYTES = 255
NAME_BYTES = 1024

# Python's own filter, as a second check. Debian 12's Python 3.11.2 has none.
FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}

# What the standard library raises for a broken archive. gzip and bz2 raise OSError without errno.
BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)

Skip = Callable[[str], bool]


class Readable(Protocol):
    """Something to read bytes from."""

    def read(self, count: int = -1, /) -> bytes:
        """Return up to count bytes."""


class ArchiveError(HarnessError):
    """An archive is broken, or has a member that may not be unpacked."""


def extract(archive: Path, folder: Path, *, skip: Skip | None = None, limit: int = BYTES) -> None:
    """Unpack archive, a tarball or a .deb, into folder, which is made and must not exist.

    skip returns whether to leave out a member by its path, such as "mkosi-27.1/.git/config". limit
    is the largest decompressed size of the archive, in bytes. Raises ArchiveError if the archive is
    broken or hostile; what was unpacked until then is of no use.
    """
    folder.mkdir(parents=True)
    _extract(archive, folder, _Guard(is_rooted=archive.suffix == ".deb"), skip, limit)


def extract_packages(packages: Iterable[Path], folder: Path) -> None:
    """Unpack several .debs into one folder, which is made and must not exist, as `extract` does."""
    folder.mkdir(parents=True)
    guard = _Guard(is_rooted=True)
    for package in packages:
        _extract(package, folder, guard, None, BYTES)


def _extract(archive: Path, folder: Path, guard: _Guard, skip: Skip | None, limit: int) -> None:
    """Unpack the members that guard allows. Raises ArchiveError that names the archive."""
    try:
        with (_package if guard.is_rooted else _tarball)(archive) as stream:
            bounded = _Bounded(stream, limit)
            with tarfile.open(fileobj=cast("IO[bytes]", bounded), mode="r|", bufsize=BUFFER) as tar:
                for member in tar:
                    is_skipped = skip and skip(posixpath.normpath(member.name))
                    if not is_skipped and (checked := guard.check(member)):
                        tar.extract(checked, folder, **FILTER)
            while bounded.read(BUFFER):  # dpkg-deb fails if nobody reads its padding
                pass
    except ArchiveError as error:
        raise ArchiveError(f"{archive} may not be unpacked: {error.message}") from None
    except BROKEN as error:
        raise ArchiveError(f"{archive} cannot be unpacked: {error}") from error
    except OSError as error:
        if error.errno:
            raise
        raise ArchiveError(f"{archive} cannot be unpacked: {error}") from error


@dataclass
class _Guard:
    """Decides which members of one archive are written, and remembers them.

    Links may lead only to members that are unpacked beside them. In a package (is_rooted), whose
    root is the folder, an absolute link is rewritten to a relative one; elsewhere it is refused.
    """

    is_rooted: bool
    folders: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    count: int = 0

    def check(self, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Return member as it is to be written, None if it is the folder itself.

        Raises ArchiveError.
        """
        self.count += 1
        name = self._name(member.name)
        if self.count > MEMBERS:
            raise ArchiveError(f"it has more than {MEMBERS} members")
        if name == "." and member.isdir():
            return None
        if reason := self._fault(name, member):
            raise ArchiveError(f"{member.name!r} {reason}")
        written = _plain(member)
        written.name = name
        if member.issym():
            written.linkname = self._target(name, member.linkname)
        elif member.islnk():
            written.linkname = self._original(name, member.linkname)
        known = self.folders if member.isdir() else self.links if member.issym() else self.files
        known.add(name)
        return written

    def _name(self, name: str) -> str:
        """Return a name without empty parts. ".." stays in it."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        is_absolute = name.startswith("/") and not self.is_rooted
        return "/" * is_absolute + "/".join(parts) or "."

    def _fault(self, name: str, member: tarfile.TarInfo) -> str:
        """Return why the member cannot be written under name, "" if it can."""
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or name == ".":
            return "leaves the folder"
        encoded = [part.encode(errors="surrogateescape") for part in parts]
        if len(b"/".join(encoded)) > NAME_BYTES or max(map(len, encoded)) > COMPONENT_BYTES:
            return "has a name that is too long"
        if not (member.isdir() or member.isreg() or member.issym() or member.islnk()):
            return "is neither a file, a folder nor a link"
        if member.issparse():
            return "is a sparse file"
        parents = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if blocked := parents & (self.files | self.links):
            return f"lies below {min(blocked)!r}, which is not a folder"
        self.folders |= parents
        is_known = name in self.files | self.links
        if is_known or (name in self.folders and not member.isdir()):
            return "is there twice"
        return ""

    def _target(self, name: str, target: str) -> str:
        """Return the target to write for the symbolic link called name.

        A target goes up first, no higher than the folder, and then only down. So it stays inside
        even if it leads through other links, as each of those stays inside, too.
        """
        depth = name.count("/")
        if self.is_rooted and target.startswith("/"):
            target = "../" * depth + posixpath.normpath(target).lstrip("/")
        parts = [part for part in target.split("/") if part not in ("", ".")]
        ups = parts.count("..")
        if target.startswith("/") or parts[:ups] != [".."] * ups or ups > depth:
            raise ArchiveError(f"the link {name!r} leads to {target!r}, which may be outside")
        return target

    def _original(self, name: str, target: str) -> str:
        """Return the path of the unpacked file that the hard link called name is to be."""
        original = self._name(target)
        if original not in self.files:
            raise ArchiveError(f"{name!r} is a hard link to {target!r}, which is no file before it")
        return original


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a copy of member that belongs to root where root unpacks it, with a usual mode."""
    plain = copy.copy(member)
    plain.uid, plain.gid, plain.uname, plain.gname = 0, 0, "", ""
    runs = member.isdir() or member.mode & stat.S_IXUSR
    plain.mode = 0o755 if runs else 0o644
    return plain


@dataclass
class _Bounded:
    """Reads from a stream, up to a number of bytes."""

    stream: Readable
    left: int

    def read(self, count: int = -1) -> bytes:
        """Return up to count bytes. Raises ArchiveError beyond the limit."""
        data = self.stream.read(count if count >= 0 else self.left + 1)
        self.left -= len(data)
        if self.left < 0:
            raise ArchiveError("it is too large once it is decompressed")
        return data


@contextmanager
def _tarball(archive: Path) -> Iterator[Readable]:
    """Read the decompressed contents of a tarball in the with block."""
    with archive.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"\x1f\x8b"):
            with gzip.open(file) as gz:
                yield gz
        elif magic == b"\xfd7zXZ\0":
            with lzma.open(file) as xz:
                yield xz
        elif magic.startswith(b"BZh"):
            with bz2.open(file) as bz:
                yield bz
        else:
            yield file


@contextmanager
def _package(archive: Path) -> Iterator[Readable]:
    """Read the files of a Debian package, as an uncompressed tarball, in the with block."""
    with tempfile.TemporaryFile() as log:
        command: list[Arg] = ["dpkg-deb", "--fsys-tarfile", archive.absolute()]
        process = start(command, stdout=subprocess.PIPE, stderr=log)
        with running(process):
            assert process.stdout
            failure: Exception | None = None
            try:
                yield process.stdout
            except BROKEN as error:
                failure = error
            if process.wait() or failure:
                log.seek(0)
                cause = last_line(log.read().decode(errors="replace"))
                raise tarfile.ReadError(cause or str(failure))
