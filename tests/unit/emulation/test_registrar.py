"""What a registrar says; tests/integration has real registrations."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.emulation import registrar
from scripts.emulation.emulators import TABLE, EmulationTable, Emulators
from scripts.emulation.registrar import Registrar
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError, MachineError
from scripts.system.progress import Progress


@pytest.fixture
def aarch64(checkout: Path, tmp_path: Path) -> Registrar:
    """A registrar of an emulator that is not damaged."""
    table = EmulationTable.read(checkout / TABLE)
    (tmp_path / "qemu-aarch64").write_text("QEMU")
    own = Emulators(tmp_path, table, "a.deb", {"qemu-aarch64": text_digest("QEMU")})
    return Registrar(table.emulated["aarch64"], own)


def test_whether_the_kernel_has_binfmt_misc_is_known_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    filesystems = tmp_path / "filesystems"
    filesystems.write_text("nodev\tproc\n\text4\n")
    assert not registrar.has_kernel_support(filesystems)
    filesystems.write_text("nodev\tbinfmt_misc\n")
    assert registrar.has_kernel_support(filesystems)


def test_a_user_who_may_not_register_gets_a_script_that_an_administrator_can_run(
    aarch64: Registrar, tmp_path: Path
) -> None:
    error = aarch64.forbidden("this user may not")

    script = tmp_path / "register-aarch64.sh"
    assert error.hint.endswith(f": sudo sh {script}")
    subprocess.run(["sh", "-n", script], check=True)
    assert f":{tmp_path}/qemu-aarch64:PF'" in script.read_text()


def test_a_damaged_emulator_is_not_registered(aarch64: Registrar, tmp_path: Path) -> None:
    (tmp_path / "qemu-aarch64").write_text("not QEMU")

    with pytest.raises(HarnessError, match="is not the one that was downloaded"):
        aarch64.register("name")


def test_an_entry_that_cannot_be_removed_is_named_with_the_command_that_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "name").open("w") as file:
        number = file.fileno()
    registrar._remove(number, Path("/mount/finch-build-arm"), Progress(live=False))

    said = capsys.readouterr().err
    assert "finch-build-arm stays registered (No such file or directory); to remove it: " in said
    assert said.endswith("sudo sh -c 'echo -1 > /mount/finch-build-arm'\n")


def test_an_entry_that_the_kernel_refuses_is_told_with_the_reason_and_the_script(
    aarch64: Registrar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrar, "MOUNT", tmp_path)
    (tmp_path / "register").mkdir()

    with pytest.raises(MachineError, match="cannot be registered: Is a directory") as caught:
        aarch64.register("name")

    assert "have an administrator run this once" in caught.value.hint


def test_a_binfmt_misc_that_another_build_has_just_unmounted_is_no_error(
    aarch64: Registrar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrar, "MOUNT", tmp_path / "nothing")

    aarch64.register("name")

    assert registrar.mounted_from() == ""
    assert not (tmp_path / "nothing").exists()
