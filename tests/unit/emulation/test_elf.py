from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.arch import AARCH64, ARCHES, X86_64, Arch, native
from scripts.emulation import elf
from scripts.emulation.emulators import TABLE, EmulationTable


@pytest.mark.parametrize("text", ["", "hello\n", "ä" * 30_000])
def test_a_program_of_this_machine_prints_its_text_and_ends_well(tmp_path: Path, text: str) -> None:
    program = tmp_path / "program"
    program.write_bytes(elf.says(native(), text))
    program.chmod(0o755)

    ran = subprocess.run([program], capture_output=True, check=True)

    assert ran.stdout.decode() == text


@pytest.mark.parametrize("arch", ARCHES)
def test_a_program_is_told_from_all_others_by_its_first_bytes(arch: Arch, checkout: Path) -> None:
    program = elf.says(arch, "")

    matching = [
        name
        for name, emulated in EmulationTable.read(checkout / TABLE).emulated.items()
        if bytes(a & b for a, b in zip(program, emulated.mask, strict=False))
        == bytes(a & b for a, b in zip(emulated.magic, emulated.mask, strict=True))
    ]

    assert matching == [arch.name]


def test_no_two_architectures_have_the_same_program() -> None:
    assert elf.says(X86_64, "x") != elf.says(AARCH64, "x")


@pytest.mark.parametrize("arch", ARCHES)
def test_a_static_program_is_told_by_its_headers(tmp_path: Path, arch: Arch) -> None:
    program = tmp_path / "program"
    program.write_bytes(elf.says(arch, "x"))

    assert elf.fault(program, arch) == ""
    [other] = [one for one in ARCHES if one != arch]
    assert elf.fault(program, other) == f"it is not a program for {other}"


def test_a_program_that_needs_a_dynamic_linker_is_not_static() -> None:
    assert "dynamic linker" in elf.fault(Path("/bin/true").resolve(), native())


@pytest.mark.parametrize(
    ("length", "fault"), [(0, "not a 64-bit ELF"), (63, "not a 64-bit ELF"), (119, "are missing")]
)
def test_a_program_that_breaks_off_is_refused(tmp_path: Path, length: int, fault: str) -> None:
    program = tmp_path / "program"
    program.write_bytes(elf.says(X86_64, "x")[:length])

    assert fault in elf.fault(program, X86_64)


@pytest.mark.parametrize("offset", [2**64 - 1, 2**63 - 1, 2**63, 10**9])
def test_headers_that_are_said_to_be_anywhere_are_missing(tmp_path: Path, offset: int) -> None:
    program = bytearray(elf.says(X86_64, "text"))
    program[32:40] = offset.to_bytes(8, "little")
    (tmp_path / "program").write_bytes(program)
    assert elf.fault(tmp_path / "program", X86_64) == "its program headers are missing"
