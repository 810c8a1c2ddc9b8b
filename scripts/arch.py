"""CPU architectures: our two names, and the names that tools have for them."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from scripts.system.errors import UsageError


@dataclass(frozen=True)
class Arch:
    """An architecture that images are built for.

    name is our name for it, and uname's; mkosi and debian are the names in those projects. efi is
    the suffix of the removable-media boot path (UEFI 2.10, 3.5.1.1), root_type the partition type
    UUID of a root partition (Discoverable Partitions Specification), console the first serial port.
    """

    name: str
    mkosi: str
    debian: str
    efi: str
    root_type: str
    console: str

    def __str__(self) -> str:
        return self.name

    @property
    def boot_file(self) -> str:
        """The path on the ESP that firmware boots if no boot entry is set."""
        return f"EFI/BOOT/BOOT{self.efi}.EFI"

    @property
    def is_native(self) -> bool:
        """Whether this machine runs programs of this architecture itself."""
        return self is native()


X86_64 = Arch(
    name="x86_64",
    mkosi="x86-64",
    debian="amd64",
    efi="X64",
    root_type="4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    console="ttyS0",
)
AARCH64 = Arch(
    name="aarch64",
    mkosi="arm64",
    debian="arm64",
    efi="AA64",
    root_type="b921b045-1df0-41c3-af44-4c6f280d3fae",
    console="ttyAMA0",
)

ARCHES = (X86_64, AARCH64)
NAMES = tuple(arch.name for arch in ARCHES)
ALIASES = {alias: arch for arch in ARCHES for alias in (arch.name, arch.mkosi, arch.debian)}


def parse(name: str) -> Arch:
    """Return the architecture called name. Raises UsageError that lists the accepted names."""
    try:
        return ALIASES[name]
    except KeyError:
        raise UsageError(
            f"unknown architecture {name!r}", hint=f"use one of {', '.join(ALIASES)}"
        ) from None


def native() -> Arch:
    """Return this machine's architecture. Raises UsageError if no image is built for it."""
    return parse(platform.machine())
