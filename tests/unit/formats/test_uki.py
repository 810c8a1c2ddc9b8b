"""What is read of a UKI, made here by hand."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest

from scripts.formats import uki


def write_uki(path: Path, **sections: str) -> Path:
    """The smallest PE file with these sections."""
    start = 0x200
    header = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    header += struct.pack("<4sHHIIIHH", b"PE", 0x8664, len(sections), 0, 0, 0, 240, 0x22)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, 0, 0, 0, 0, 0)
    optional += struct.pack("<QII", 0x10000, 0x1000, 0x200).ljust(0x54 - 24, b"\0")
    header += optional.ljust(108, b"\0") + struct.pack("<I", 16) + bytes(128)
    data = b""
    for number, (name, text) in enumerate(sections.items()):
        body = text.encode()
        header += struct.pack(
            "<8sIIII16x", f".{name}".encode(), len(body), 0x1000 * (number + 1), 0x200,
            start + len(data),
        )  # fmt: skip
        data += body.ljust(0x200, b"\0")
    path.write_bytes(header.ljust(start, b"\0") + data)
    return path


def test_command_line_and_release_are_read_without_their_padding(tmp_path: Path) -> None:
    path = write_uki(tmp_path / "uki.efi", cmdline="root=PARTUUID=1 rw\n\0", uname="6.12.1")
    found = uki.read(path)
    assert found.cmdline == "root=PARTUUID=1 rw"
    assert found.uname == "6.12.1"


def test_a_pe_file_that_is_no_uki_is_refused(tmp_path: Path) -> None:
    path = write_uki(tmp_path / "uki.efi", text="code")
    with pytest.raises(uki.UkiError, match=r"has no section \.cmdline"):
        uki.read(path)


def test_a_file_that_is_no_pe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "uki.efi").write_bytes(b"not a kernel")
    with pytest.raises(uki.UkiError, match="is not a PE file"):
        uki.read(tmp_path / "uki.efi")


def test_the_digest_is_that_of_the_whole_file(tmp_path: Path) -> None:
    path = write_uki(tmp_path / "uki.efi", cmdline="quiet", uname="6.12.1")
    assert uki.read(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_sections_are_listed_in_their_order_without_their_padding(tmp_path: Path) -> None:
    path = write_uki(tmp_path / "uki.efi", osrel="ID=debian\n", linux="kernel", uname="6.12.1")
    osrel, linux, uname = uki.sections(path)
    assert [section.name for section in (osrel, linux, uname)] == [".osrel", ".linux", ".uname"]
    assert linux.size == len("kernel")
    assert linux.sha256 == hashlib.sha256(b"kernel").hexdigest()


def test_only_sections_that_hold_text_are_shown_as_text(tmp_path: Path) -> None:
    path = write_uki(tmp_path / "uki.efi", osrel="ID=debian\n", linux="kernel")
    assert [section.text for section in uki.sections(path)] == ["ID=debian", ""]


def test_sections_of_one_name_are_numbered(tmp_path: Path) -> None:
    path = write_uki(tmp_path / "uki.efi", one="1", two="2", dtb="3")
    data = path.read_bytes().replace(b".one", b".dtb").replace(b".two", b".dtb")
    path.write_bytes(data)
    assert [section.name for section in uki.sections(path)] == [".dtb", ".dtb 2", ".dtb 3"]


def test_the_sections_of_a_file_that_is_no_pe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "uki.efi").write_bytes(b"MZ")
    with pytest.raises(uki.UkiError, match="is not a PE file"):
        uki.sections(tmp_path / "uki.efi")


def section_field(path: Path, at: int, value: int, section: int = 0) -> Path:
    """The UKI with another number in the header of a section, at an offset in bytes."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 0x40 + 24 + 240 + 40 * section + at, value)
    path.write_bytes(data)
    return path


RAW_SIZE, RAW_POINTER, VIRTUAL_SIZE = 16, 20, 8


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (RAW_SIZE, 0xFFFFFFFF),
        (RAW_SIZE, 0x401),
        (RAW_POINTER, 0xFFFFFFF0),
        (RAW_POINTER, 0x400),
    ],
)
def test_a_section_that_lies_about_its_place_is_refused(
    tmp_path: Path, at: int, value: int
) -> None:
    path = write_uki(tmp_path / "uki.efi", cmdline="quiet", uname="6.12.1")
    with pytest.raises(uki.UkiError, match=r"overlap|outside the file|sections that it names"):
        uki.sections(section_field(path, at, value))


def test_a_section_that_lies_about_its_size_in_memory_gives_no_more_than_it_has(
    tmp_path: Path,
) -> None:
    path = write_uki(tmp_path / "uki.efi", cmdline="quiet", uname="6.12.1")
    first, _ = uki.sections(section_field(path, VIRTUAL_SIZE, 0xFFFFFFFF))
    assert first.size == 0x200


def test_a_command_line_that_is_no_text_is_read_all_the_same(tmp_path: Path) -> None:
    path = write_uki(tmp_path / "uki.efi", cmdline="quiet", uname="6.12.1")
    path.write_bytes(path.read_bytes().replace(b"quiet", b"\xff\xfe\xc3\x28\x80"))
    assert "�" in uki.read(path).cmdline


@pytest.mark.parametrize("size", [0, 1, 2, 64, 100, 0x140, 0x1FF])
def test_a_uki_that_is_cut_off_is_refused(tmp_path: Path, size: int) -> None:
    path = write_uki(tmp_path / "uki.efi", cmdline="quiet", uname="6.12.1")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(uki.UkiError):
        uki.read(path)
