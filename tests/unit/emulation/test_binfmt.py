"""What is made of registrations that are described; tests/integration has real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.arch import AARCH64, X86_64
from scripts.emulation import binfmt
from scripts.emulation.binfmt import Entry
from scripts.emulation.emulators import TABLE, Table, Target
from scripts.sessions import binfmt as session
from scripts.system.errors import UsageError

DEBIAN = """\
enabled
interpreter /usr/bin/qemu-aarch64-static
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
JAVA = "enabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n"

FOREIGN = AARCH64 if X86_64.is_native else X86_64


@pytest.fixture
def aarch64(checkout: Path) -> Target:
    return Table.read(checkout / TABLE).targets["aarch64"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a binfmt_misc looks like that others have registered with."""
    for name, text in (("jar", JAVA), ("qemu-aarch64", DEBIAN), ("status", "enabled\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "register").touch()
    return tmp_path


def test_the_entry_for_an_architecture_is_found_by_its_magic(folder: Path, aarch64: Target) -> None:
    (folder / "qemu-aarch64").rename(folder / "named-by-others")

    found = binfmt.find(aarch64, folder)

    assert found
    assert (found.name, found.interpreter, found.flags) == (
        "named-by-others", "/usr/bin/qemu-aarch64-static", "POCF",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", [DEBIAN.replace("enabled", "disabled"), DEBIAN.replace("b700", "f300"), JAVA]
)
def test_what_is_switched_off_or_for_others_is_not_found(
    folder: Path, aarch64: Target, text: str
) -> None:
    (folder / "qemu-aarch64").write_text(text)

    assert binfmt.find(aarch64, folder) is None


def test_where_binfmt_misc_is_not_mounted_nothing_is_found(tmp_path: Path, aarch64: Target) -> None:
    assert binfmt.find(aarch64, tmp_path / "not there") is None


def test_an_entry_without_flag_f_will_not_do_and_is_named_with_its_interpreter(
    tmp_path: Path,
) -> None:
    entry = Entry.parse("qemu-aarch64", DEBIAN.replace("POCF", ""))
    assert entry

    problem = binfmt.complaint(FOREIGN, entry, tmp_path)

    assert "/usr/bin/qemu-aarch64-static (entry qemu-aarch64) without the flag F" in problem
    assert entry.removal == "sudo sh -c 'echo -1 > /proc/sys/fs/binfmt_misc/qemu-aarch64'"


def test_on_a_machine_of_the_architecture_nothing_is_done(tmp_path: Path) -> None:
    native = X86_64 if X86_64.is_native else AARCH64

    with binfmt.emulated(native, tmp_path / "no checkout", tmp_path / "nowhere"):
        assert not list(tmp_path.iterdir())
    binfmt.require(native, tmp_path / "no checkout", tmp_path / "nowhere")


def test_whether_the_kernel_has_binfmt_misc_is_known_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    filesystems = tmp_path / "filesystems"
    filesystems.write_text("nodev\tproc\n\text4\n")
    assert not binfmt.has_kernel_support(filesystems)
    filesystems.write_text("nodev\tbinfmt_misc\n")
    assert binfmt.has_kernel_support(filesystems)


@pytest.mark.parametrize("argv", [[], ["set-up"], ["setup", "now"]])
def test_any_other_word_than_setup_and_teardown_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError, match="takes setup or teardown"):
        session.main(argv)
