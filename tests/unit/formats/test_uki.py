"""What is read of a UKI, made here by hand."""

from __future__ import annotations

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
