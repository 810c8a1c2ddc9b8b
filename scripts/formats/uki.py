"""A unified kernel image: what its PE sections say (UAPI specification UKI)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pefile

from scripts.system.digests import file_digest


class UkiError(Exception):
    """The file is no UKI."""


@dataclass(frozen=True)
class Uki:
    """The kernel command line and release that a UKI carries, and its digest in hex."""

    cmdline: str
    uname: str
    sha256: str


# Sections that hold text, of which a person wants to see more than the digest.
TEXTS = (".cmdline", ".osrel", ".sbat", ".uname")


@dataclass(frozen=True)
class Section:
    """A section of a PE file: its size in bytes, sha256 in hex, and what it says, if that is text.

    Of several sections with one name the second is called ".name 2", and so on.
    """

    name: str
    size: int
    sha256: str
    text: str = ""


def read(path: Path) -> Uki:
    """The UKI at path. Raises UkiError."""
    try:
        with pefile.PE(str(path), fast_load=True) as image:
            sections = {
                section.Name.rstrip(b"\0"): section
                for section in image.sections
                if section.Name.rstrip(b"\0") in (b".cmdline", b".uname")
            }
            return Uki(
                cmdline=_text(sections[b".cmdline"]),
                uname=_text(sections[b".uname"]),
                sha256=file_digest(path),
            )
    except KeyError as error:
        raise UkiError(f"{path.name} has no section {error.args[0].decode()}") from None
    except pefile.PEFormatError as error:
        raise UkiError(f"{path.name} is no PE file: {error}") from None


def sections(path: Path) -> list[Section]:
    """The sections of the UKI at path, in their order. Raises UkiError."""
    found: list[Section] = []
    names: list[str] = []
    try:
        with pefile.PE(str(path), fast_load=True) as image:
            for section in image.sections:
                name = section.Name.rstrip(b"\0").decode(errors="replace")
                names.append(name)
                count = names.count(name)
                data: bytes = section.get_data()[: section.Misc_VirtualSize]
                found.append(
                    Section(
                        name if count == 1 else f"{name} {count}",
                        len(data),
                        hashlib.sha256(data).hexdigest(),
                        _text(section) if name in TEXTS else "",
                    )
                )
    except pefile.PEFormatError as error:
        raise UkiError(f"{path.name} is no PE file: {error}") from None
    return found


def _text(section: pefile.SectionStructure) -> str:
    data: bytes = section.get_data()[: section.Misc_VirtualSize]
    return data.decode().strip("\0 \n")
