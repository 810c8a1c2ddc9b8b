"""Lists and reads the files of an ext4 file system in a disk image, without mounting it.

The layout is from the kernel's Documentation/filesystems/ext4. An image may be damaged or hostile.
The partition's size limits the bytes that the reader reads, whatever the image contains.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from scripts.formats.disk import DiskError, Partition

ROOT_INODE = 2

# Features that change the layout in a way that this reader does not know: compression, a journal to
# replay, metadata block groups, attributes in inodes of their own, directory data in inodes' data,
# file data in inodes, encryption.
UNKNOWN_FEATURES = 0x1 | 0x4 | 0x10 | 0x400 | 0x1000 | 0x8000 | 0x10000
FEATURE_64BIT = 0x80

EXTENTS = 0x80000  # flag of an inode whose i_block holds an extent tree
EXTENT_MAGIC = 0xF30A
MAX_DEPTH = 5  # of an extent tree
MAX_PATH = 4096  # bytes, as for the kernel

# How much a reader reads in all, in bytes: every file twice at most, every inode a few times.
READS_OF_PARTITION = 4
READS_OF_METADATA = 1 << 28

UNWRITTEN = 32768  # an extent of more blocks than this reads as zeros

XATTR_MAGIC = 0xEA020000
XATTR_SECURITY = 6  # the number of the prefix "security."
FAST_LINK = 60  # bytes; a shorter target stands in the inode itself


@dataclass(frozen=True)
class Entry:
    """A file, folder or link in the file system, by its absolute path.

    mode has the type and the permissions as in stat(2), size is in bytes, target is where a link
    points, and capabilities are the permitted ones as a bit mask (capabilities(7)). Bytes of a path
    that are not UTF-8 become escapes.
    """

    path: str
    inode: int
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    target: str = ""
    capabilities: int = 0

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


@dataclass(frozen=True)
class _Inode:
    """The fields of an inode that matter here; block is i_block, and raw the whole inode."""

    mode: int
    uid: int
    gid: int
    size: int
    flags: int
    block: bytes
    xattr_block: int
    raw: bytes


class Ext4:
    """The ext4 file system in a partition of an opened disk image."""

    def __init__(self, image: BinaryIO, partition: Partition) -> None:
        """Read the superblock. Raises DiskError if it is not ext4 or has an unknown feature."""
        self._image, self._partition = image, partition
        self._left = READS_OF_PARTITION * partition.size + READS_OF_METADATA
        block = self._bytes(1024, 1024)
        if block[0x38:0x3A] != b"\x53\xef":
            raise DiskError("the root partition holds no ext4 file system")
        (self._count,) = struct.unpack_from("<I", block, 0)
        size, _, _, _, self._per_group = struct.unpack_from("<5I", block, 0x18)
        (incompat,) = struct.unpack_from("<I", block, 0x60)
        if incompat & UNKNOWN_FEATURES or size > 6 or not self._per_group:
            raise DiskError(f"the root file system has features that are unknown: {incompat:#x}")
        self.block_size = 1024 << size
        (first,) = struct.unpack_from("<I", block, 0x14)
        self._inode_size = struct.unpack_from("<H", block, 0x58)[0]
        wide = struct.unpack_from("<H", block, 0xFE)[0] if incompat & FEATURE_64BIT else 32
        self._groups, self._group_size = (first + 1) * self.block_size, wide
        if self._inode_size < 128 or wide < 32:
            raise DiskError("the root file system has inodes or groups of an impossible size")

    def walk(self) -> Iterator[Entry]:
        """Yield every entry below the root folder, each folder before what is in it.

        Raises DiskError if the file system is damaged, for example if a folder contains itself.
        """
        seen = {ROOT_INODE}
        todo = [("", ROOT_INODE)]
        while todo:
            folder, number = todo.pop()
            for name, child in self._children(self._inode(number)):
                entry = self._entry(f"{folder}/{name}", child)
                yield entry
                if entry.is_folder:
                    if child in seen or len(entry.path) > MAX_PATH:
                        raise DiskError(f"the folder {entry.path[:80]} contains itself")
                    seen.add(child)
                    todo.append((entry.path, child))

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """Yield the contents of a regular file in pieces of at most 128 MiB, without its holes."""
        yield from self._contents(self._inode(entry.inode))

    def read(self, entry: Entry, limit: int = 1 << 20) -> bytes:
        """Return at most limit bytes of a regular file, without its holes."""
        data = b""
        for chunk in self.chunks(entry):
            data += chunk
            if len(data) >= limit:
                break
        return data[:limit]

    def _bytes(self, offset: int, size: int) -> bytes:
        if offset + size > self._partition.size:
            raise DiskError("the root file system points beyond its partition")
        self._left -= size
        if self._left < 0:
            raise DiskError("the root file system names the same blocks again and again")
        self._image.seek(self._partition.offset + offset)
        data = self._image.read(size)
        if len(data) != size:
            raise DiskError("the disk image is cut off")
        return data

    def _entry(self, path: str, number: int) -> Entry:
        inode = self._inode(number)
        target = b""
        if stat.S_ISLNK(inode.mode):
            is_fast = inode.size < FAST_LINK and not inode.flags & EXTENTS
            target = inode.block[: inode.size] if is_fast else b"".join(self._contents(inode))
        return Entry(
            path,
            number,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.size,
            _text(target),
            self._capabilities(inode) if stat.S_ISREG(inode.mode) else 0,
        )

    @lru_cache(maxsize=4096)  # noqa: B019 - a reader lives as long as its image is open
    def _table(self, group: int) -> int:
        """Return the block at which the inodes of a group begin."""
        descriptor = self._bytes(self._groups + group * self._group_size, self._group_size)
        (low,) = struct.unpack_from("<I", descriptor, 8)
        high = struct.unpack_from("<I", descriptor, 0x28)[0] if self._group_size >= 64 else 0
        return int(low | high << 32)

    def _inode(self, number: int) -> _Inode:
        if not 0 < number <= self._count:
            raise DiskError(f"the root file system has no inode {number}")
        group, index = divmod(number - 1, self._per_group)
        start = self._table(group) * self.block_size + index * self._inode_size
        raw = self._bytes(start, self._inode_size)
        mode, uid, size = struct.unpack_from("<HHI", raw, 0)
        (gid,) = struct.unpack_from("<H", raw, 0x18)
        (flags,) = struct.unpack_from("<I", raw, 0x20)
        acl, size_high = struct.unpack_from("<II", raw, 0x68)
        acl_high, uid_high, gid_high = struct.unpack_from("<HHH", raw, 0x76)
        return _Inode(
            mode,
            uid | uid_high << 16,
            gid | gid_high << 16,
            size | size_high << 32,
            flags,
            raw[0x28:0x64],
            acl | acl_high << 32,
            raw,
        )

    def _children(self, folder: _Inode) -> Iterator[tuple[str, int]]:
        """Yield the name and the inode of everything in a folder."""
        # A hashed folder reads as a plain one: the blocks of its index look like empty entries.
        for chunk in self._contents(folder):
            for start in range(0, len(chunk), self.block_size):
                yield from _names(chunk[start : start + self.block_size])

    def _contents(self, inode: _Inode) -> Iterator[bytes]:
        if inode.size > self._partition.size and not stat.S_ISREG(inode.mode):
            raise DiskError("a folder or link is larger than the file system")
        if not inode.flags & EXTENTS:
            if inode.size and any(inode.block):
                raise DiskError("a file of the root file system is not stored in extents")
            return
        for block, start, count in self._extents(inode.block, MAX_DEPTH):
            left = inode.size - block * self.block_size
            if left > 0:
                length = min(count * self.block_size, left)
                yield self._bytes(start * self.block_size, length)

    def _extents(self, node: bytes, depth: int) -> Iterator[tuple[int, int, int]]:
        """Yield the extents below a node: first block in file, first on disk, number of blocks.

        Unwritten extents read as zeros and are left out.
        """
        magic, count, _, level = struct.unpack_from("<4H", node, 0)
        if magic != EXTENT_MAGIC or level > depth or 12 * (count + 1) > len(node):
            raise DiskError("the root file system has a damaged extent tree")
        for at in range(12, 12 * (count + 1), 12):
            if level:
                low, high = struct.unpack_from("<IH", node, at + 4)
                child = self._bytes((low | high << 32) * self.block_size, self.block_size)
                yield from self._extents(child, level - 1)
                continue
            block, length, high, low = struct.unpack_from("<IHHI", node, at)
            if length <= UNWRITTEN:
                yield block, low | high << 32, length

    def _capabilities(self, inode: _Inode) -> int:
        """Return the permitted capabilities of a file as a bit mask, 0 if it has none."""
        values = [*_in_inode(inode.raw)]
        if inode.xattr_block:
            start = inode.xattr_block * self.block_size
            values += _attributes(self._bytes(start, self.block_size), 32, 0)
        for name, value in values:
            if name == b"capability" and len(value) >= 12:
                low = struct.unpack_from("<I", value, 4)[0]
                high = struct.unpack_from("<I", value, 12)[0] if len(value) >= 20 else 0
                return int(low | high << 32)
        return 0


def _names(block: bytes) -> Iterator[tuple[str, int]]:
    """Yield the names in a block of a folder, apart from . and .., each with its inode."""
    at = 0
    while at + 8 <= len(block):
        inode, length, size = struct.unpack_from("<IHB", block, at)
        if length < 8 or at + length > len(block) or size > length - 8:
            raise DiskError("the root file system has a damaged folder")
        name = block[at + 8 : at + 8 + size]
        if inode and name not in (b"", b".", b".."):
            yield _text(name), inode
        at += length


def _in_inode(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the attributes of the kind "security." in the inode itself, by name."""
    if len(raw) <= 128 + 4:
        return
    start = 128 + struct.unpack_from("<H", raw, 128)[0]
    if start + 4 <= len(raw) and struct.unpack_from("<I", raw, start)[0] == XATTR_MAGIC:
        yield from _attributes(raw, start + 4, start + 4)


def _attributes(data: bytes, at: int, origin: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the attributes of the kind "security." whose list begins at at in data.

    The offsets of their values count from origin.
    """
    while at + 16 <= len(data) and data[at : at + 4] != bytes(4):
        name_size, index, offset, _, size = struct.unpack_from("<BBHII", data, at)
        if index == XATTR_SECURITY:
            start = origin + offset
            yield data[at + 16 : at + 16 + name_size], data[start : start + size]
        at += (16 + name_size + 3) & ~3


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def entries(image: Path, partition: Partition) -> tuple[Entry, ...]:
    """Return every entry of the ext4 file system in a partition of image. Raises DiskError."""
    with image.open("rb") as file:
        return tuple(Ext4(file, partition).walk())
