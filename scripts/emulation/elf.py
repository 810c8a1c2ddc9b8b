"""Static programs: tiny ones that show whether a machine runs an architecture's, and a check.

Their layout is that of the ELF specification (System V ABI, chapters 4 and 5). The numbers of the
system calls write(2) and exit(2) are in Linux' arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.arch import AARCH64, X86_64, Arch

# The address at which the file is loaded.
BASE = 0x400000

# The sizes of the ELF header and of the one program header, in bytes.
HEADERS = 64 + 56

ET_EXEC, ET_DYN, EM_X86_64, EM_AARCH64 = 2, 3, 62, 183
PT_LOAD, PT_INTERP, READ_AND_EXECUTE = 1, 3, 5

# e_ident of 64 bits, little-endian, version 1, whatever the OS ABI.
IDENT = b"\x7fELF\x02\x01\x01"

# The ELF header after e_ident, and a program header, of which the type is all that matters here.
HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<I52x")


def _x86_64(size: int) -> bytes:
    """Return code that writes the size bytes after itself to stdout and exits with 0."""
    head = bytes.fromhex("b801000000 bf01000000")  # mov eax, write; mov edi, stdout
    rest = b"\xba" + struct.pack("<I", size)  # mov edx, size
    rest += bytes.fromhex("0f05 b83c000000 31ff 0f05")  # syscall; mov eax, exit; xor edi, edi; …
    lea = b"\x48\x8d\x35" + struct.pack("<I", len(rest))  # lea rsi, [rip + rest]
    return head + lea + rest


def _aarch64(size: int) -> bytes:
    """Return the same code as `_x86_64` does, for aarch64."""

    def mov(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register

    svc = 0xD4000001
    rest = [mov(2, size), mov(8, 64), svc, mov(0, 0), mov(8, 93), svc]
    # adr x1: its operand counts from its own address, in multiples of 4 bytes
    adr = 0x10000001 | (len(rest) + 1) << 5
    return struct.pack("<8I", mov(0, 1), adr, *rest)


_CODE: Mapping[Arch, tuple[int, Callable[[int], bytes]]] = {
    X86_64: (EM_X86_64, _x86_64),
    AARCH64: (EM_AARCH64, _aarch64),
}


def says(arch: Arch, text: str) -> bytes:
    """Return a static program of arch that prints text, at most 64 KiB of it, and exits with 0."""
    machine, code = _CODE[arch]
    data = text.encode()
    body = code(len(data)) + data
    size = HEADERS + len(body)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian, version 1
    header = struct.pack(
        "<HHIQQQIHHHHHH", ET_EXEC, machine, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", PT_LOAD, READ_AND_EXECUTE, 0, BASE, BASE, size, size, 0x1000)
    return ident + header + segment + body


def fault(path: Path, arch: Arch) -> str:
    """Return why the file at path is not a static program for arch, or "" if it is one.

    A program that loads itself at any address (static-pie) is static too.
    """
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size or not head.startswith(IDENT):
            return "it is not a 64-bit ELF file"
        kind, machine, _, _, offset, _, _, _, size, number, *_ = HEADER.unpack(head)
        if machine != _CODE[arch][0] or kind not in (ET_EXEC, ET_DYN):
            return f"it is not a program for {arch}"
        file.seek(min(offset, path.stat().st_size))  # no file has an offset of 64 bits
        table = file.read(PROGRAM_HEADER.size * number)
    if not number or size != PROGRAM_HEADER.size or len(table) != size * number:
        return "its program headers are missing"
    types = {kind for (kind,) in PROGRAM_HEADER.iter_unpack(table)}
    return "it needs a dynamic linker, so it is not static" if PT_INTERP in types else ""
