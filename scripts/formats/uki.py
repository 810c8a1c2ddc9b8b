"""Reads unified kernel images (UKIs): PE files whose sections hold kernel, initrd and command line.

The UAPI Group's specification "Unified Kernel Image" names the sections.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pefile

from scripts.system.digests import file_digest
from scripts.system.text import printable


class UkiError(Exception):
    """The file is not a UKI."""


@dataclass(frozen=True)
class Uki:
    """The kernel command line and release in a UKI, and the SHA-256 of its file in hex."""

    cmdline: str
    uname: str
    sha256: str


# Sections that hold text, which tells a person more than a digest.
TEXTS = (".cmdline", ".osrel", ".sbat", ".uname")


@dataclass(frozen=True)
class Section:
    """A section of a PE file: its size in bytes, its SHA-256 in hex, and its text if it holds text.

    If several sections have the same name, the second is called ".name 2", and so on.
    """

    name: str
    size: int
    sha256: str
    text: str = ""


def read(path: Path) -> Uki:
    """Read the UKI at path. Raises UkiError."""
    with _opened(path) as image:
        found = {_name(section): section for section in image.sections}
        try:
            cmdline, uname = _text(found[".cmdline"]), _text(found[".uname"])
        except KeyError as error:
            raise UkiError(f"{path.name} has no section {error.args[0]}") from None
    return Uki(cmdline, uname, file_digest(path))


def sections(path: Path) -> list[Section]:
    """The sections of the UKI at path, in their order. Raises UkiError."""
    found: list[Section] = []
    names: list[str] = []
    with _opened(path) as image:
        for section in image.sections:
            name = _name(section)
            names.append(name)
            count = names.count(name)
            data = _data(section)
            found.append(
                Section(
                    name if count == 1 else f"{name} {count}",
                    len(data),
                    hashlib.sha256(data).hexdigest(),
                    _text(section) if name in TEXTS else "",
                )
            )
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pefile.PE]:
    try:
        with pefile.PE(str(path), fast_load=True) as image:
            _check(image, path)
            yield image
    except pefile.PEFormatError as error:
        raise UkiError(f"{path.name} is not a PE file: {printable(str(error))}") from None


def _check(image: pefile.PE, path: Path) -> None:
    """Raise UkiError unless the sections are in the file, each in a place of its own.

    Otherwise a small file could keep us reading it over and over.
    """
    if len(image.sections) != image.FILE_HEADER.NumberOfSections:
        raise UkiError(f"{path.name} does not have the sections that it names")
    end, before = path.stat().st_size, 0
    found = [section for section in image.sections if section.SizeOfRawData]
    for section in sorted(found, key=lambda section: section.PointerToRawData):
        if section.PointerToRawData < before:
            raise UkiError(f"{path.name} has sections that overlap")
        before = section.PointerToRawData + section.SizeOfRawData
        if before > end:
            raise UkiError(f"{path.name} has a section that ends outside the file")


def _name(section: pefile.SectionStructure) -> str:
    name: bytes = section.Name
    return printable(name.rstrip(b"\0").decode(errors="replace"))


def _data(section: pefile.SectionStructure) -> bytes:
    """The contents of a section, without the padding that its file has after it."""
    data: bytes = section.get_data()
    return data[: section.Misc_VirtualSize]


def _text(section: pefile.SectionStructure) -> str:
    return _data(section).decode(errors="replace").strip("\0 \n")
