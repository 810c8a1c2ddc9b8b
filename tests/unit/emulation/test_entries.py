"""Entries of binfmt_misc, as files that describe them; tests/integration has real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.emulation import entries
from scripts.emulation.emulators import TABLE, Emulated, EmulationTable
from scripts.emulation.entries import Entry

DEBIAN = """\
enabled
interpreter /usr/bin/qemu-aarch64-static
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
JAVA = "enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n"


@pytest.fixture
def aarch64(checkout: Path) -> Emulated:
    return EmulationTable.read(checkout / TABLE).emulated["aarch64"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a binfmt_misc looks like that others have registered with."""
    for name, text in (("jar", JAVA), ("qemu-aarch64", DEBIAN), ("status", "enabled\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "register").touch()
    return tmp_path


def parse(name: str, text: str = DEBIAN) -> Entry:
    entry = Entry.parse(name, text)
    assert entry
    return entry


def test_the_entry_for_an_architecture_is_found_by_its_magic(
    folder: Path, aarch64: Emulated
) -> None:
    (folder / "qemu-aarch64").rename(folder / "named-by-others")

    found = entries.find(aarch64, folder)

    assert found
    assert (found.name, found.interpreter, found.flags) == (
        "named-by-others", "/usr/bin/qemu-aarch64-static", "POCF",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        DEBIAN.replace("enabled", "disabled"),
        DEBIAN.replace("b700", "f300"),
        DEBIAN.replace("offset 0", "offset 4"),
        JAVA,
        "",
    ],
)
def test_what_is_switched_off_or_for_others_is_not_found(
    folder: Path, aarch64: Emulated, text: str
) -> None:
    (folder / "qemu-aarch64").write_text(text)

    assert entries.find(aarch64, folder) is None


def test_where_binfmt_misc_is_not_mounted_nothing_is_found(
    tmp_path: Path, aarch64: Emulated
) -> None:
    assert entries.find(aarch64, tmp_path / "not there") is None


def test_an_entry_without_a_mask_compares_every_bit() -> None:
    text = "".join(line for line in DEBIAN.splitlines(True) if not line.startswith("mask"))

    assert parse("qemu-aarch64", text).mask == b"\xff" * 20


def test_an_entry_of_builds_does_not_last(folder: Path, aarch64: Emulated) -> None:
    (folder / "qemu-aarch64").rename(folder / f"{entries.OF_BUILDS}aarch64")

    assert entries.find(aarch64, folder)
    assert entries.find_lasting(aarch64, folder) is None

    (folder / f"{entries.OF_BUILDS}aarch64").rename(folder / f"{entries.LASTING}aarch64")
    assert entries.find_lasting(aarch64, folder)


@pytest.mark.parametrize(
    ("name", "is_ours", "is_of_builds"),
    [
        ("qemu-aarch64", False, False),
        ("finch-aarch64", True, False),
        ("finch-build-aarch64", True, True),
    ],
)
def test_whose_an_entry_is_shows_in_its_name(name: str, is_ours: bool, is_of_builds: bool) -> None:
    entry = parse(name)

    assert (entry.is_ours, entry.is_of_builds) == (is_ours, is_of_builds)


def test_an_entry_tells_how_it_is_removed() -> None:
    removal = parse("qemu-aarch64").removal
    assert removal == "sudo sh -c 'echo -1 > /proc/sys/fs/binfmt_misc/qemu-aarch64'"
