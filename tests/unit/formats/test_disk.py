"""What is read of disk images, made here byte for byte."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.arch import X86_64, native
from scripts.formats import disk
from scripts.formats.disk import ESP_TYPE, FileSystem, Partition
from tests.unit.boot.fakes import FakeTools, make_tools
from tests.unit.formats.test_uki import write_uki

MIB = 1 << 20
ESP = Partition(1, ESP_TYPE, "e495767f-d734-4659-b124-14318989e484", "esp", MIB, MIB)
ROOT = Partition(2, X86_64.root_type, "064af2d8-bb08-4424-8583-2b4b8b96fc7a", "root", 2 * MIB, MIB)


def entry(partition: Partition) -> bytes:
    first = partition.offset // disk.SECTOR
    last = (partition.offset + partition.size) // disk.SECTOR - 1
    return (
        uuid.UUID(partition.type).bytes_le
        + uuid.UUID(partition.uuid).bytes_le
        + struct.pack("<QQQ", first, last, 0)
        + partition.label.encode("utf-16-le").ljust(72, b"\0")
    )


def write_disk(path: Path, *parts: Partition, root: bytes = b"", at: int = 0) -> Path:
    """A disk with these partitions, and bytes at an offset into the root partition."""
    header = b"EFI PART".ljust(72, b"\0") + struct.pack("<QII", 2, 128, 128)
    with path.open("wb") as file:
        file.seek(disk.SECTOR)
        file.write(header)
        file.seek(2 * disk.SECTOR)
        file.write(b"".join(map(entry, parts)))
        file.seek(ROOT.offset + at)
        file.write(root)
        file.truncate(4 * MIB)
    return path


def write_native_disk(path: Path, *, root: bytes, at: int) -> Path:
    """A disk with an ESP and a root of this machine's architecture."""
    return write_disk(path, ESP, replace(ROOT, type=native().root_type), root=root, at=at)


def superblock(*, compat: int = 0, incompat: int = 0x42, state: int = 1) -> bytes:
    data = bytearray(1024)
    struct.pack_into("<HH", data, 0x38, 0xEF53, state)
    struct.pack_into("<II", data, 0x5C, compat, incompat)
    return bytes(data)


def test_the_partitions_of_a_gpt_are_read(tmp_path: Path) -> None:
    table = disk.partitions(write_disk(tmp_path / "disk", ESP, ROOT))
    assert table == (ESP, ROOT)
    assert disk.of_type(table, X86_64.root_type) == ROOT


def test_a_partition_may_be_larger_than_all_before_it(tmp_path: Path) -> None:
    large = replace(ESP, size=3 * MIB)
    assert disk.partitions(write_disk(tmp_path / "disk", large)) == (large,)


def test_a_disk_without_a_gpt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(MIB))
    with pytest.raises(disk.DiskError, match="no GPT"):
        disk.partitions(tmp_path / "disk")


@pytest.mark.parametrize(
    ("data", "at", "expected"),
    [
        (superblock(), 1024, FileSystem("ext4")),
        (superblock(compat=disk.COMPAT_ORPHAN_FILE), 1024, FileSystem("ext4", orphan_file=True)),
        (superblock(incompat=0x46), 1024, FileSystem("ext4", clean=False)),
        (superblock(state=2), 1024, FileSystem("ext4", clean=False)),
        (superblock(incompat=0x2), 1024, FileSystem("ext2 or ext3")),
        (superblock(incompat=0xFFFF_FFBB), 1024, FileSystem("ext2 or ext3")),
        (superblock(compat=0xFFFF_EFFF, incompat=0xFFFF_FFFB), 1024, FileSystem("ext4")),
        (b"XFSB", 0, FileSystem("xfs")),
        (b"hsqs", 0, FileSystem("squashfs")),
        (b"LUKS\xba\xbe", 0, FileSystem("LUKS")),
        (b"\xe2\xe1\xf5\xe0", 1024, FileSystem("erofs")),
        (b"FAT16   ", 54, FileSystem("vfat")),
        (b"_BHRfS_M", 0x10040, FileSystem("btrfs")),
        (b"FAT32   ", 82, FileSystem("vfat")),
        (b"", 0, FileSystem("")),
        (b"rubbish", 512, FileSystem("unknown")),
    ],
)
def test_the_file_system_of_a_partition_is_recognised(
    tmp_path: Path, data: bytes, at: int, expected: FileSystem
) -> None:
    image = write_disk(tmp_path / "disk", ESP, ROOT, root=data, at=at)
    assert disk.file_system(image, ROOT) == expected


def test_a_disk_without_a_partition_of_a_type_has_none(tmp_path: Path) -> None:
    table = disk.partitions(write_disk(tmp_path / "disk", ESP))
    assert disk.of_type(table, X86_64.root_type) is None


@pytest.fixture
def tools(tmp_path: Path) -> Callable[..., FakeTools]:
    """A tools tree whose mcopy and debugfs play what they are told."""
    uki = write_uki(tmp_path / "uki.efi", cmdline="quiet")
    return lambda **plays: make_tools(tmp_path / "tree", uki, **plays)


def test_a_file_is_copied_from_the_esp(tools: Callable[..., FakeTools], tmp_path: Path) -> None:
    target = tmp_path / "copy.efi"
    assert disk.copy_from_esp(tools(), tmp_path / "disk", ESP, "EFI/BOOT/X.EFI", target) == ""
    assert target.read_bytes() == (tmp_path / "uki.efi").read_bytes()


def test_the_complaint_about_a_file_that_the_esp_lacks_is_returned(
    tools: Callable[..., FakeTools], tmp_path: Path
) -> None:
    target = tmp_path / "copy.efi"
    complaint = disk.copy_from_esp(
        tools(mcopy=["missing"]), tmp_path / "disk", ESP, "EFI/BOOT/X.EFI", target
    )
    assert complaint == "mcopy: File not found"
    assert not target.exists()


@pytest.mark.parametrize(
    ("play", "files"), [("good", ("EFI/BOOT/BOOTX64.EFI",)), ("missing", None)]
)
def test_the_files_on_the_esp_are_listed_without_its_folders(
    tools: Callable[..., FakeTools], tmp_path: Path, play: str, files: tuple[str, ...] | None
) -> None:
    assert disk.list_esp(tools(mdir=[play]), tmp_path / "disk", ESP) == files


@pytest.mark.parametrize(
    ("play", "text"), [("good", "machine-id of the image\n"), ("missing", None)]
)
def test_a_file_of_the_root_is_read_if_it_is_there(
    tools: Callable[..., FakeTools], tmp_path: Path, play: str, text: str | None
) -> None:
    found = disk.read_file(tools(debugfs=[play]), tmp_path / "disk", ROOT, "/etc/machine-id")
    assert found == text


def write_header(path: Path, start: int, count: int, size: int) -> Path:
    """A disk of 4 MiB whose GPT has these fields: the table's first sector, its entries' number."""
    write_disk(path, ESP, ROOT)
    with path.open("r+b") as file:
        file.seek(disk.SECTOR + 72)
        file.write(struct.pack("<QII", start, count, size))
    return path


@pytest.mark.parametrize(
    ("start", "count", "size"),
    [
        (2, 0xFFFFFFFF, 128),
        (2, 0xFFFFFFFF, 0xFFFFFFFF),
        (2, 128, 0),
        (2, 128, 1),
        (2, 128, 127),
        (2, 4, 1 << 31),
        (1, 128, 128),
        (0, 128, 128),
        (8191, 128, 128),
        (1 << 62, 128, 128),
        ((1 << 64) - 1, 128, 128),
    ],
)
def test_a_gpt_that_points_nowhere_or_at_itself_is_refused(
    tmp_path: Path, start: int, count: int, size: int
) -> None:
    with pytest.raises(disk.DiskError, match="an impossible position or size"):
        disk.partitions(write_header(tmp_path / "disk", start, count, size))


@pytest.mark.parametrize(
    "parts",
    [
        (ESP, replace(ROOT, offset=ESP.offset)),
        (ESP, replace(ROOT, offset=ESP.offset + ESP.size - disk.SECTOR)),
        (replace(ESP, offset=disk.SECTOR), ROOT),
        (ESP, replace(ROOT, size=0)),
        (ESP, replace(ROOT, size=-MIB)),
        (ESP, replace(ROOT, size=3 * MIB)),
        (ESP, replace(ROOT, offset=1 << 60)),
    ],
)
def test_partitions_that_overlap_or_are_not_on_the_disk_are_refused(
    tmp_path: Path, parts: tuple[Partition, ...]
) -> None:
    with pytest.raises(disk.DiskError, match=r"partition [12]"):
        disk.partitions(write_disk(tmp_path / "disk", *parts))


@pytest.mark.parametrize("size", [0, 1, 511, 512, 520, 600, 604])
def test_a_disk_that_is_cut_off_has_no_gpt(tmp_path: Path, size: int) -> None:
    path = write_disk(tmp_path / "disk", ESP, ROOT)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(disk.DiskError):
        disk.partitions(path)


def test_a_label_that_is_no_utf16_is_read_all_the_same(tmp_path: Path) -> None:
    path = write_disk(tmp_path / "disk", ESP, ROOT)
    with path.open("r+b") as file:
        file.seek(2 * disk.SECTOR + 56)
        file.write(b"\x00\xd8" * 36)
    assert len(disk.partitions(path)) == 2


def test_a_partition_that_ends_in_its_superblock_is_no_ext4(tmp_path: Path) -> None:
    small = replace(ROOT, size=1024 + 0x40)
    path = tmp_path / "disk"
    path.write_bytes(bytes(ROOT.offset + 1024) + superblock()[:0x40])
    assert disk.file_system(path, small) == FileSystem("unknown")
