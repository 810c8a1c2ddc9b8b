"""Decisions about emulation that take no registration; tests/integration has real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.arch import AARCH64, X86_64
from scripts.emulation import binfmt
from scripts.emulation.entries import Entry
from scripts.sessions import binfmt as session
from scripts.system.errors import UsageError
from scripts.system.progress import Progress

FOREIGN = AARCH64 if X86_64.is_native else X86_64


def test_an_entry_without_flag_f_will_not_do_and_is_named_with_its_interpreter(
    tmp_path: Path,
) -> None:
    entry = Entry("qemu-aarch64", "/usr/bin/qemu-aarch64-static", "OC", b"", b"")

    problem = binfmt.complaint(FOREIGN, entry, tmp_path)

    assert "/usr/bin/qemu-aarch64-static (entry qemu-aarch64), registered without" in problem


def test_on_a_machine_of_the_architecture_nothing_is_done(tmp_path: Path) -> None:
    native = X86_64 if X86_64.is_native else AARCH64

    nowhere = tmp_path / "nowhere"
    with binfmt.emulated(native, nowhere, nowhere, Progress()):
        assert not list(tmp_path.iterdir())
    binfmt.require(native, nowhere, nowhere, Progress())


@pytest.mark.parametrize("argv", [[], ["set-up"], ["setup", "now"]])
def test_any_other_word_than_setup_and_teardown_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="takes setup or teardown"):
        session.main(argv)
