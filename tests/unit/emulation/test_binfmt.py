"""Decisions about emulation that take no registration; tests/integration has real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.arch import AARCH64, X86_64
from scripts.emulation import binfmt, elf
from scripts.emulation.entries import Entry
from scripts.sessions import binfmt as session
from scripts.system.errors import MachineError, UsageError
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


NATIVE = X86_64 if X86_64.is_native else AARCH64


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of binfmt_misc."""
    folder = tmp_path / "binfmt_misc"
    folder.mkdir()
    monkeypatch.setattr(binfmt, "MOUNT", folder)
    return folder


def test_what_the_kernel_runs_itself_needs_no_entry(tmp_path: Path) -> None:
    assert binfmt.complaint(NATIVE, None, tmp_path) == ""


def test_an_interpreter_that_does_something_else_is_named_with_what_came_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elf, "says", lambda *_: b"#!/bin/sh\necho nonsense")
    entry = Entry("theirs", "/bin/odd", "F", b"", b"")

    problem = binfmt.complaint(FOREIGN, entry, tmp_path)

    assert problem == (
        f"/bin/odd (entry theirs) does not run {FOREIGN} programs: it printed 'nonsense\\n'"
    )


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"#!/bin/sh\necho no >&2; exit 3", "no"),
        (b"#!/bin/sh\nexit 3", "ended with status 3"),
        (b"no program", "Exec format error"),
    ],
)
def test_a_program_that_fails_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes, reason: str
) -> None:
    monkeypatch.setattr(elf, "says", lambda *_: program)

    assert reason in binfmt.complaint(FOREIGN, None, tmp_path)


def test_binfmt_misc_that_is_switched_off_stops_every_session_with_the_remedy(
    mount: Path, checkout: Path, tmp_path: Path
) -> None:
    (mount / "status").write_text("disabled\n")

    with pytest.raises(MachineError, match="is switched off") as caught:
        binfmt.emulated_here(checkout, tmp_path)

    assert caught.value.hint == f"sudo sh -c 'echo 1 > {mount}/status'"


def test_teardown_removes_the_entry_that_lasts_and_says_so(
    mount: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = mount / f"finch-{FOREIGN}"
    progress = Progress(live=False)
    binfmt.teardown(FOREIGN, progress)
    entry.touch()
    binfmt.teardown(FOREIGN, progress)

    assert entry.read_text() == "-1"
    said = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == [f"{entry.name} is not registered", f"{entry.name} has been removed"]


def test_an_entry_that_this_user_may_not_remove_comes_with_the_command(mount: Path) -> None:
    entry = mount / f"finch-{FOREIGN}"
    entry.mkdir()  # which nobody can write to

    with pytest.raises(MachineError, match="cannot be removed") as caught:
        binfmt.teardown(FOREIGN, Progress())

    assert caught.value.hint == f"sudo sh -c 'echo -1 > {entry}'"
