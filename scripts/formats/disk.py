"""What a disk image holds, read on the host without mounting it.

Layouts: GPT from UEFI 2.10, 5.3; the ext4 superblock from the kernel's
Documentation/filesystems/ext4/super.rst.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.mkosi.sandbox import Tools
from scripts.system import process

SECTOR = 512  # bytes; systemd-repart's default, and what QEMU's virtio-blk presents
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"

COMPAT_ORPHAN_FILE = 0x1000
INCOMPAT_RECOVER = 0x4
STATE_CLEAN = 0x1

# How a file system is known: name, offset in bytes from the start of the
# partition, and the bytes there.
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
PROBE = 0x11000  # bytes: covers every magic


class DiskError(Exception):
    """The image holds no readable partition table."""


@dataclass(frozen=True)
class Partition:
    """An entry of the GPT; offset and size in bytes, type and uuid in lower case."""

    number: int
    type: str
    uuid: str
    label: str
    offset: int
    size: int


@dataclass(frozen=True)
class FileSystem:
    """What stands in a partition: `name` is empty for one of zeros, else "unknown" or a type."""

    name: str
    orphan_file: bool = False
    clean: bool = True


def partitions(image: Path) -> tuple[Partition, ...]:
    """The GPT of image. Raises DiskError."""
    with image.open("rb") as file:
        file.seek(SECTOR)
        header = file.read(92)
        if header[:8] != b"EFI PART":
            raise DiskError("the disk has no GPT")
        start, count, size = struct.unpack_from("<QII", header, 72)
        file.seek(start * SECTOR)
        table = file.read(count * size)
    entries = (table[i * size : (i + 1) * size] for i in range(count))
    return tuple(_partition(n, entry) for n, entry in enumerate(entries, 1) if any(entry[:16]))


def _partition(number: int, entry: bytes) -> Partition:
    first, last = struct.unpack_from("<QQ", entry, 32)
    return Partition(
        number=number,
        type=str(uuid.UUID(bytes_le=entry[:16])),
        uuid=str(uuid.UUID(bytes_le=entry[16:32])),
        label=entry[56:128].decode("utf-16-le").partition("\0")[0],
        offset=first * SECTOR,
        size=(last - first + 1) * SECTOR,
    )


def of_type(table: Sequence[Partition], type_: str) -> Partition | None:
    """The first partition of the GPT type."""
    return next((partition for partition in table if partition.type == type_), None)


def file_system(image: Path, partition: Partition) -> FileSystem:
    """What stands in partition."""
    with image.open("rb") as file:
        file.seek(partition.offset)
        data = file.read(min(PROBE, partition.size))
    name = next((name for name, at, magic in MAGICS if data[at:].startswith(magic)), "")
    if name == "ext4":
        return _ext4(data[1024:2048])
    return FileSystem(name or ("unknown" if any(data) else ""))


def _ext4(superblock: bytes) -> FileSystem:
    (state,) = struct.unpack_from("<H", superblock, 0x3A)
    compat, incompat = struct.unpack_from("<II", superblock, 0x5C)
    return FileSystem(
        "ext4" if incompat & 0x40 else "ext2 or ext3",  # 0x40: extents, which only ext4 has
        orphan_file=bool(compat & COMPAT_ORPHAN_FILE),
        clean=bool(state & STATE_CLEAN) and not incompat & INCOMPAT_RECOVER,
    )


def copy_from_esp(tools: Tools, image: Path, esp: Partition, path: str, target: Path) -> str:
    """Copy the file path of the ESP to target; returns what mtools complains of, or ""."""
    copy: list[process.Arg] = ["mcopy", "-n", "-i", f"{image}@@{esp.offset}", f"::/{path}", target]
    try:
        process.run(tools.command(copy, read=[image], write=[target.parent]))
    except process.CommandError as error:
        return error.output.strip()
    return ""


def read_file(tools: Tools, image: Path, partition: Partition, path: str) -> str | None:
    """The text of the file at path of an ext4 partition, None where it cannot be read."""
    done = process.run(
        tools.command(
            ["debugfs", "-R", f"cat {path}", f"{image.absolute()}?offset={partition.offset}"],
            read=[image.resolve(), image],
        ),
        check=False,
    )
    # debugfs greets on stderr, complains there, and ends with 0 all the same.
    return done.stdout if not done.returncode and len(done.stderr.splitlines()) < 2 else None
