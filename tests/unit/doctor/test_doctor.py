"""What the checks make of machines that are described, not at hand."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from scripts.doctor import doctor
from scripts.doctor.doctor import GIB, Machine
from scripts.sessions import arguments
from scripts.system.errors import MachineError, UsageError

ROOT = Machine(
    user="root",
    is_root=True,
    programs=frozenset({"apt-get", "git"}),
    sub_uids=0,
    sub_gids=0,
    namespaces="",
    free_bytes=50 * GIB,
    is_first=True,
    python=Path("/usr/bin/python3.12"),
    emulated=frozenset({"aarch64"}),
)
USER = replace(
    ROOT,
    user="ada",
    is_root=False,
    programs=ROOT.programs | {"newuidmap", "newgidmap"},
    sub_uids=65536,
    sub_gids=65536,
)


@pytest.mark.parametrize("machine", [ROOT, USER])
def test_a_machine_that_has_everything_lacks_nothing(machine: Machine) -> None:
    assert all(check(machine).ok for check in doctor.CHECKS)


def test_a_missing_interpreter_is_mended_by_uv_or_pyenv() -> None:
    finding = doctor.python(replace(ROOT, python=None))
    assert not finding.ok
    assert "pyenv install 3.12" in finding.mend


def test_a_machine_with_dnf_is_told_how_it_comes_to_apt() -> None:
    finding = doctor.package_manager(replace(ROOT, programs=frozenset({"dnf"})))
    assert not finding.ok
    assert finding.found == "no apt-get"
    assert finding.mend.startswith("dnf install apt debian-keyring")


def test_a_machine_without_the_keys_of_debian_is_told_how_it_comes_to_them() -> None:
    finding = doctor.package_manager(replace(ROOT, has_keyring=False))
    assert not finding.ok
    assert finding.found == "no keys of Debian's archive"
    assert finding.mend.startswith("apt-get install debian-archive-keyring")


def test_a_user_without_subordinate_ids_is_told_the_command_that_gives_them() -> None:
    finding = doctor.privileges(replace(USER, sub_gids=1000))
    assert not finding.ok
    assert finding.mend.startswith("sudo usermod --add-subuids 100000-165535")
    assert finding.mend.endswith("ada")


def test_a_user_without_newuidmap_is_told_the_package() -> None:
    on_debian = doctor.privileges(replace(USER, programs=frozenset({"apt-get"})))
    on_fedora = doctor.privileges(replace(USER, programs=frozenset({"dnf"})))
    assert on_debian.mend == "sudo apt-get install uidmap"
    assert on_fedora.mend == "sudo dnf install shadow-utils"


def test_a_kernel_that_refuses_namespaces_to_users_is_told_by_sysctl() -> None:
    finding = doctor.privileges(replace(USER, namespaces="namespaces are refused"))
    assert not finding.ok
    assert "sysctl" in finding.mend


def test_root_of_a_container_without_privileges_is_told_to_get_them() -> None:
    finding = doctor.privileges(replace(ROOT, namespaces="namespaces are refused"))
    assert "--privileged" in finding.mend


def test_a_first_build_needs_ten_gibibytes_and_the_next_less() -> None:
    first = replace(ROOT, free_bytes=9 * GIB)
    assert not doctor.disk(first).ok
    assert doctor.disk(replace(first, is_first=False)).ok


def test_kvm_that_answers_is_not_called_proof_that_it_runs() -> None:
    assert "the boot test finds out" in doctor.kvm(ROOT).found


def test_kvm_that_is_forbidden_is_a_pity_but_no_obstacle() -> None:
    finding = doctor.kvm(replace(USER, kvm="/dev/kvm: Permission denied"))
    assert not finding.ok
    assert finding.needed_by == ()
    assert "usermod --append --groups kvm ada" in finding.mend


def test_a_root_whose_kernel_has_binfmt_misc_builds_for_other_architectures() -> None:
    finding = doctor.binfmt(replace(ROOT, emulated=frozenset()))
    assert finding.ok
    assert "a build by root sees to it" in finding.found


def test_a_user_is_told_what_an_administrator_runs_once() -> None:
    finding = doctor.binfmt(replace(USER, emulated=frozenset()))
    assert not finding.ok
    assert "./nox -s binfmt -- setup says what an administrator runs" in finding.mend


@pytest.mark.parametrize("machine", [ROOT, USER])
def test_what_stops_even_a_build_by_root_is_told_with_what_mends_it(machine: Machine) -> None:
    lacking, mend = "this kernel has no binfmt_misc", "sudo modprobe binfmt_misc"
    finding = doctor.binfmt(
        replace(machine, emulated=frozenset(), binfmt=lacking, binfmt_mend=mend)
    )
    assert not finding.ok
    assert (finding.found, finding.mend) == (lacking, mend)


def test_an_engine_that_does_not_answer_stands_in_the_way_of_packages_alone() -> None:
    finding = doctor.docker(replace(ROOT, docker="it does not run", docker_mend="start it"))
    assert not finding.ok
    assert finding.needed_by == ("packages",)
    assert (finding.found, finding.mend) == ("it does not run", "start it")


def test_what_mends_a_lacking_buildx_is_told_with_it() -> None:
    finding = doctor.buildx(replace(ROOT, buildx="no buildx", buildx_mend="install it"))
    assert not finding.ok
    assert finding.needed_by == ("packages",)
    assert (finding.found, finding.mend) == ("no buildx", "install it")


def test_an_engine_that_answers_is_named() -> None:
    assert doctor.docker(replace(ROOT, engine="Podman 5.4")).found == "Podman 5.4"


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("ada:100000:65536\n", 65536),
        ("1000:100000:65536", 65536),
        ("ada:100000:10\nada:200000:65536\n", 65536),
        ("bob:100000:65536\n", 0),
        ("ada:100000\n# a comment\n\nada:x:y\n", 0),
    ],
)
def test_subordinate_ids_are_found_by_name_or_number(table: str, expected: int) -> None:
    assert doctor.sub_ids(table, "ada", 1000) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("build", "build"),
        ("build-3.12(arch='x86_64')", "build"),
        ("boot-test(arch='aarch64')", "boot-test"),
        ("image-3.12", "image"),
    ],
)
def test_a_session_may_be_named_as_nox_names_it(text: str, name: str) -> None:
    assert doctor.session_name(text) == name


def test_an_unknown_session_is_wrong_usage_and_the_known_ones_are_listed() -> None:
    with pytest.raises(UsageError) as caught:
        doctor.session_name("biuld")
    assert "quickstart" in caught.value.hint


def test_a_build_is_stopped_by_what_it_lacks_with_all_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    given = arguments.parse(["--work", str(tmp_path / "not" / "yet")], {})
    with pytest.raises(MachineError) as caught:
        doctor.require("build", given)
    assert "apt: no apt-get" in caught.value.message
    assert "git: none" in caught.value.message
    assert "install git" in caught.value.hint


@pytest.mark.parametrize("session", ["boot-test", "packages"])
def test_what_a_build_lacks_does_not_keep_others_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    doctor.require(session, arguments.parse([], {}))


def test_the_facts_of_this_machine_can_be_gathered(tmp_path: Path) -> None:
    machine = doctor.look(tmp_path / "work", os.environ, thoroughly=True)
    assert machine.is_first
    assert machine.free_bytes > 0
    assert machine.is_root == (os.geteuid() == 0)


def test_a_device_that_is_no_kvm_is_called_that(tmp_path: Path) -> None:
    assert "is no KVM" in doctor._kvm(Path("/dev/null"))
    assert "there is no" in doctor._kvm(tmp_path / "kvm")


def test_the_table_has_a_row_and_a_command_for_each_thing_that_is_lacking() -> None:
    lacking = replace(ROOT, programs=frozenset({"apt-get"}), kvm="there is no /dev/kvm")
    screen = io.StringIO()
    findings = [check(lacking) for check in doctor.CHECKS]
    Console(width=200, file=screen).print(doctor.report(findings, "build"))
    shown = screen.getvalue()
    [git] = [line for line in shown.splitlines() if " git " in line]
    assert "✗" in git
    assert "apt-get install git" in git
    assert "there is no /dev/kvm" in shown
