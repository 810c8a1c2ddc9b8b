"""Tiny static programs that show whether a machine runs programs of an architecture.

Their layout is that of the ELF specification (System V ABI, chapters 4 and 5). The numbers of the
system calls write(2) and exit(2) are in Linux' arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from scripts.arch import AARCH64, X86_64, Arch

# The address at which the file is loaded.
BASE = 0x400000

# The sizes of the ELF header and of the one program header, in bytes.
HEADERS = 64 + 56

ET_EXEC, EM_X86_64, EM_AARCH64, PT_LOAD, READ_AND_EXECUTE = 2, 62, 183, 1, 5


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
