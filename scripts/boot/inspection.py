"""Inspects the root file system of a built disk: its files, and traces of the builder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.formats.disk import DiskError, Partition
from scripts.formats.ext4 import Entry, Ext4

# The files whose text the checks read.
READ = ("/etc/group", "/etc/hosts", "/etc/machine-id", "/etc/passwd", "/etc/shadow")

# The most bytes of such a file; those of an image have a few KB.
TEXT_BYTES = 1 << 20

# Where packages keep settings and state. Here an address of a private network or a short path
# counts as a trace of the builder; programs elsewhere may contain one for reasons of their own.
SETTINGS = ("/etc/", "/home/", "/root/", "/var/")

# A URL with an address that only the builder can reach: loopback, RFC 1918, RFC 3927.
PRIVATE = re.compile(
    rb"\b[a-z+]{3,8}://(?:[^/@\s]*@)?(?:localhost|127\.\d|10\.\d|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\."
    rb"|169\.254\.|\[::1\])[^\s\"'<>]*"
)
# Any URL with a password.
PASSWORD = re.compile(rb"\b[a-z+]{3,8}://[^/@\s:\"'<>]+:[^/@\s\"'<>]+@[\w.-]+")

COMMENT = re.compile(rb"^[ \t]*[#;].*$", re.MULTILINE)

# How a private key begins: at the start of a file, and among settings at the start of any line,
# since a file may hold certificates before the key. Programs that read keys have the line too.
PRIVATE_KEY = re.compile(rb"\A\s*-----BEGIN [A-Z ]*PRIVATE KEY-----")
KEY_IN_SETTINGS = re.compile(rb"^[ \t]*-----BEGIN [A-Z ]*PRIVATE KEY-----", re.MULTILINE)

# Where mkosi mounts the tree of an image while it builds it.
MKOSI = ("/buildroot",)

# The overlap of two pieces of a file that are searched, in bytes. No mark is longer.
OVERLAP = 512

# How much of a trace is quoted, in characters.
QUOTED = 120


@dataclass(frozen=True)
class Files:
    """What the root file system of a disk holds.

    texts maps the paths of some small files to their text. traces maps paths to the traces of the
    builder in these files. private_keys has the paths of files with a private key. complaint says
    why the file system could not be read completely; it is "" if it could.
    """

    entries: Sequence[Entry] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    traces: Mapping[str, str] = field(default_factory=dict)
    private_keys: Sequence[str] = ()
    complaint: str = ""

    def below(self, *folders: str) -> list[Entry]:
        """Return the entries in folders, at any depth."""
        return [one for one in self.entries if one.path.startswith(tuple(f"{f}/" for f in folders))]

    def paths(self) -> set[str]:
        """Return the paths of all entries."""
        return {one.path for one in self.entries}


@dataclass(frozen=True)
class _Finding:
    """The findings in one file; see `Files`."""

    trace: str = ""
    is_private_key: bool = False


def inspect(image: Path, root: Partition, marks: Sequence[str]) -> Files:
    """Return the contents of the ext4 partition root of image, and the findings in them.

    marks are strings that identify the builder: absolute paths, and names of hosts.
    """
    entries: list[Entry] = []
    texts: dict[str, str] = {}
    found: dict[str, _Finding] = {}
    complaint = ""
    search = _Search([*marks, *MKOSI])
    try:
        with image.open("rb") as file:
            system = Ext4(file, root)
            entries += system.walk()
            for entry in entries:
                found[entry.path] = search.entry(system, entry)
                if entry.is_file and entry.path in READ:
                    texts[entry.path] = _text(system, entry)
    except DiskError as error:
        complaint = str(error)
    return Files(
        tuple(entries),
        texts,
        {path: one.trace for path, one in found.items() if one.trace},
        tuple(path for path, one in found.items() if one.is_private_key),
        complaint,
    )


def _text(system: Ext4, entry: Entry) -> str:
    """Return the text of a small file. Raises DiskError if it is not small."""
    if entry.size > TEXT_BYTES:
        raise DiskError(f"{entry.path} has more than {TEXT_BYTES >> 20} MiB")
    return system.read(entry, TEXT_BYTES).decode(errors="replace")


class _Search:
    """Searches files for traces of the builder and for private keys."""

    def __init__(self, marks: Sequence[str]) -> None:
        self._everywhere = [mark.encode() for mark in marks if is_specific(mark)]
        self._in_settings = [mark.encode() for mark in marks]

    def entry(self, system: Ext4, entry: Entry) -> _Finding:
        """Return the findings in a file, or in the target of a link."""
        is_setting = entry.path.startswith(SETTINGS)
        if entry.is_link:
            return _Finding(self._trace(entry.target.encode(), is_setting=is_setting))
        trace, is_key, tail = "", False, b""
        for chunk in system.chunks(entry) if entry.is_file else ():
            is_key = is_key or (not tail and bool(PRIVATE_KEY.match(chunk)))
            is_key = is_key or (is_setting and bool(KEY_IN_SETTINGS.search(tail + chunk)))
            trace = trace or self._trace(tail + chunk, is_setting=is_setting)
            tail = chunk[-OVERLAP:]
        return _Finding(trace, is_key)

    def _trace(self, data: bytes, *, is_setting: bool) -> str:
        if not is_setting:
            return _mark(self._everywhere, data)
        return _mark(self._in_settings, data) or _address(data)


def is_specific(mark: str) -> bool:
    """Return whether a mark is a path of two parts or more, or the name of a host.

    Programs that were compiled on another machine may also contain /src or /build.
    """
    return mark.count("/") > 1 or not mark.startswith("/")


def _mark(marks: Sequence[bytes], data: bytes) -> str:
    """Return the first of marks that data holds as a whole path or name, or ""."""
    for mark in marks:
        # The plain search is fast, and nearly always enough.
        if mark in data and re.search(rb"(?<![\w.-])" + re.escape(mark) + rb"(?![\w-])", data):
            return mark.decode()
    return ""


def _address(data: bytes) -> str:
    """Return the first URL in data that only the builder can use, or ""; comments do not count."""
    text = COMMENT.sub(b"", data)
    found = next((match for each in (PRIVATE, PASSWORD) for match in each.finditer(text)), None)
    return found[0].decode(errors="backslashreplace")[:QUOTED] if found else ""
