"""Reads disk images on the host without mounting them.

The layout of the GPT is from UEFI 2.10, section 5.3; that of the ext4 superblock is from the
kernel's Documentation/filesystems/ext4/super.rst.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.mkosi.sandbox import Tools
from scripts.system import process

SECTOR = 512  # bytes; the default of systemd-repart and of QEMU's virtio-blk
HEADER = 92  # bytes of the GPT's header, in the second sector
FIRST = 2  # the first sector after it
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"

# Flags of the ext4 superblock. Only ext4 has extents, so they tell it from ext2 and ext3.
COMPAT_ORPHAN_FILE = 0x1000
INCOMPAT_RECOVER = 0x4
INCOMPAT_EXTENTS = 0x40
STATE_CLEAN = 0x1

# The signatures of file systems: name, offset in bytes from the partition's start, the bytes.
MAGICS = (
    ("ext4", 1024 + 0x38, b"\x53\xef"),
    ("xfs", 0, b"XFSB"),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("squashfs", 0, b"hsqs"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("vfat", 82, b"FAT32"),
    ("vfat", 54, b"FAT1"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
)
PROBE = 0x11000  # bytes from the start of a partition that contain every signature


# A table of partitions has at least 128 entries; sfdisk and the kernel read no more than this.
MOST_ENTRIES = 1024

# The size of an entry is 128 times a power of two; no tool writes larger ones.
ENTRY_SIZES = (128, 256, 512, 1024, 2048, 4096)  # bytes

# The bytes of the superblock up to the last flags that are read.
SUPERBLOCK = 0x64


class DiskError(Exception):
    """The image has no readable partition table."""


@dataclass(frozen=True)
class Partition:
    """An entry of the GPT: offset and size in bytes, type and uuid in lower case."""

    number: int
    type: str
    uuid: str
    label: str
    offset: int
    size: int


@dataclass(frozen=True)
class FileSystem:
    """The contents of a partition.

    name is the type of the file system, "unknown" for other data, or "" if there are only zeros.
    """

    name: str
    orphan_file: bool = False
    clean: bool = True


def partitions(image: Path) -> tuple[Partition, ...]:
    """Return the entries of image's GPT. Raises DiskError if it has none, or an impossible one."""
    end = image.stat().st_size
    with image.open("rb") as file:
        file.seek(SECTOR)
        header = file.read(HEADER)
        if header[:8] != b"EFI PART" or len(header) < HEADER:
            raise DiskError("the disk has no GPT")
        start, count, size = struct.unpack_from("<QII", header, 72)
        is_sound = count <= MOST_ENTRIES and size in ENTRY_SIZES
        if not is_sound or start < FIRST or start * SECTOR + count * size > end:
            raise DiskError("the GPT gives its table an impossible position or size")
        file.seek(start * SECTOR)
        table = file.read(count * size)
    entries = (table[i * size : (i + 1) * size] for i in range(count))
    found = tuple(_partition(n, entry) for n, entry in enumerate(entries, 1) if any(entry[:16]))
    _check(found, end)
    return found


def _check(found: Sequence[Partition], end: int) -> None:
    """Raise DiskError unless partitions are on a disk of end bytes, and do not overlap."""
    before = FIRST * SECTOR
    for partition in sorted(found, key=lambda partition: partition.offset):
        if partition.offset < before or partition.size <= 0:
            raise DiskError(f"partition {partition.number} overlaps another or has no size")
        before = partition.offset + partition.size
        if before > end:
            raise DiskError(f"partition {partition.number} ends outside the disk")


def _partition(number: int, entry: bytes) -> Partition:
    first, last = struct.unpack_from("<QQ", entry, 32)
    return Partition(
        number=number,
        type=str(uuid.UUID(bytes_le=entry[:16])),
        uuid=str(uuid.UUID(bytes_le=entry[16:32])),
        label=entry[56:128].decode("utf-16-le", errors="replace").partition("\0")[0],
        offset=first * SECTOR,
        size=(last - first + 1) * SECTOR,
    )


def of_type(table: Sequence[Partition], type_: str) -> Partition | None:
    """The first partition of a type (a UUID in lower case), or None."""
    return next((partition for partition in table if partition.type == type_), None)


def file_system(image: Path, partition: Partition) -> FileSystem:
    """Recognise the file system in a partition of image."""
    with image.open("rb") as file:
        file.seek(min(partition.offset, image.stat().st_size))
        data = file.read(max(0, min(PROBE, partition.size)))
    name = next((name for name, at, magic in MAGICS if data[at:].startswith(magic)), "")
    if name == "ext4":
        superblock = data[1024:2048]
        return _ext4(superblock) if len(superblock) >= SUPERBLOCK + 4 else FileSystem("unknown")
    return FileSystem(name or ("unknown" if any(data) else ""))


def _ext4(superblock: bytes) -> FileSystem:
    (state,) = struct.unpack_from("<H", superblock, 0x3A)
    compat, incompat = struct.unpack_from("<II", superblock, 0x5C)
    return FileSystem(
        "ext4" if incompat & INCOMPAT_EXTENTS else "ext2 or ext3",
        orphan_file=bool(compat & COMPAT_ORPHAN_FILE),
        clean=bool(state & STATE_CLEAN) and not incompat & INCOMPAT_RECOVER,
    )


def copy_from_esp(tools: Tools, image: Path, esp: Partition, path: str, target: Path) -> str:
    """Copy the file at path on the ESP to target. Returns mtools' complaint, or ""."""
    copy: list[process.Arg] = ["mcopy", "-n", "-i", f"{image}@@{esp.offset}", f"::/{path}", target]
    try:
        process.run(tools.command(copy, read=[image], write=[target.parent]))
    except process.CommandError as error:
        return error.output.strip()
    return ""


def list_esp(tools: Tools, image: Path, esp: Partition) -> tuple[str, ...] | None:
    """Return the paths of the files on the ESP, or None if mtools cannot read it."""
    show: list[process.Arg] = ["mdir", "-b", "-/", "-i", f"{image}@@{esp.offset}", "::/"]
    done = process.run(tools.command(show, read=[image]), check=False)
    lines = (line.removeprefix("::/") for line in done.stdout.splitlines())
    files = tuple(sorted(line for line in lines if line and not line.endswith("/")))
    return None if done.returncode else files


def read_file(tools: Tools, image: Path, partition: Partition, path: str) -> str | None:
    """The text of the file at path in an ext4 partition, or None if it cannot be read."""
    done = process.run(
        tools.command(
            ["debugfs", "-R", f"cat {path}", f"{image.absolute()}?offset={partition.offset}"],
            read=[image.resolve(), image],
        ),
        check=False,
    )
    # debugfs prints a greeting on stderr, then its complaints, and ends with status 0 all the same.
    return done.stdout if not done.returncode and len(done.stderr.splitlines()) < 2 else None
