"""How the checks judge machines that are described here."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from scripts import catalog
from scripts.doctor import doctor
from scripts.doctor.doctor import GIB
from scripts.doctor.machine import LAB_PROGRAMS, Lack, Machine, refused_namespaces
from scripts.system.errors import MachineError, UsageError

ROOT = Machine(
    user="root",
    is_root=True,
    programs=frozenset({"apt-get", "git", *LAB_PROGRAMS}),
    sub_uids=0,
    sub_gids=0,
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
    judgement = doctor.python(replace(ROOT, python=None))
    assert not judgement.ok
    assert "pyenv install 3.12" in judgement.mend


def test_a_machine_with_dnf_is_told_how_it_comes_to_apt() -> None:
    judgement = doctor.package_manager(replace(ROOT, programs=frozenset({"dnf"})))
    assert not judgement.ok
    assert judgement.found == "apt-get is not installed"
    assert judgement.mend.startswith("dnf install apt debian-keyring")


def test_a_machine_without_the_keys_of_debian_is_told_how_it_comes_to_them() -> None:
    judgement = doctor.package_manager(replace(ROOT, has_keyring=False))
    assert not judgement.ok
    assert judgement.found == "the keys of the Debian archive are missing"
    assert judgement.mend.startswith("apt-get install debian-archive-keyring")


def test_a_user_without_subordinate_ids_is_told_the_command_that_gives_them() -> None:
    judgement = doctor.privileges(replace(USER, sub_gids=1000))
    assert not judgement.ok
    assert judgement.mend.startswith("sudo usermod --add-subuids 100000-165535")
    assert judgement.mend.endswith("ada")


def test_a_user_without_newuidmap_is_told_the_package() -> None:
    on_debian = doctor.privileges(replace(USER, programs=frozenset({"apt-get"})))
    on_fedora = doctor.privileges(replace(USER, programs=frozenset({"dnf"})))
    assert on_debian.mend == "sudo apt-get install uidmap"
    assert on_fedora.mend == "sudo dnf install shadow-utils"


def test_a_kernel_that_refuses_namespaces_to_users_is_told_by_sysctl() -> None:
    judgement = doctor.privileges(replace(USER, namespaces=refused_namespaces("no", is_root=False)))
    assert not judgement.ok
    assert "sysctl" in judgement.mend


def test_root_of_a_container_without_privileges_is_told_to_get_them() -> None:
    judgement = doctor.privileges(replace(ROOT, namespaces=refused_namespaces("no", is_root=True)))
    assert judgement.found == "namespaces are refused (no)"
    assert "--privileged" in judgement.mend


def test_a_first_build_needs_ten_gibibytes_and_the_next_less() -> None:
    first = replace(ROOT, free_bytes=9 * GIB)
    assert not doctor.disk(first).ok
    assert doctor.disk(replace(first, is_first=False)).ok


def test_kvm_that_answers_is_not_called_proof_that_it_runs() -> None:
    assert "the boot test finds out" in doctor.kvm(ROOT).found


def test_a_machine_without_kvm_runs_every_session() -> None:
    judgement = doctor.kvm(replace(USER, kvm=Lack("there is no /dev/kvm", "turn it on")))
    assert not judgement.ok
    assert judgement.needed_by == ()
    assert (judgement.found, judgement.mend) == ("there is no /dev/kvm", "turn it on")


def test_a_root_whose_kernel_has_binfmt_misc_builds_for_other_architectures() -> None:
    judgement = doctor.binfmt(replace(ROOT, emulated=frozenset()))
    assert judgement.ok
    assert "a build by root registers an emulator" in judgement.found


def test_a_user_is_told_what_an_administrator_runs_once() -> None:
    judgement = doctor.binfmt(replace(USER, emulated=frozenset()))
    assert not judgement.ok
    assert "./nox -s binfmt -- setup prints the command" in judgement.mend


@pytest.mark.parametrize("machine", [ROOT, USER])
def test_what_stops_even_a_build_by_root_is_told_with_what_mends_it(machine: Machine) -> None:
    lack = Lack("this kernel has no binfmt_misc", "sudo modprobe binfmt_misc")
    judgement = doctor.binfmt(replace(machine, emulated=frozenset(), binfmt=lack))
    assert judgement.lack == lack


def test_an_engine_that_does_not_answer_stands_in_the_way_of_packages_alone() -> None:
    judgement = doctor.docker(replace(ROOT, docker=Lack("it does not run", "start it")))
    assert not judgement.ok
    assert judgement.needed_by == ("packages",)
    assert (judgement.found, judgement.mend) == ("it does not run", "start it")


def test_what_mends_a_lacking_buildx_is_told_with_it() -> None:
    judgement = doctor.buildx(replace(ROOT, buildx=Lack("no buildx", "install it")))
    assert not judgement.ok
    assert judgement.needed_by == ("packages",)
    assert (judgement.found, judgement.mend) == ("no buildx", "install it")


def test_an_engine_that_answers_is_named() -> None:
    assert doctor.docker(replace(ROOT, engine="Podman 5.4")).found == "Podman 5.4"


def test_the_lab_needs_the_programs_that_it_asks_for_itself() -> None:
    from tests.lab import world

    assert world.PROGRAMS == LAB_PROGRAMS


def test_each_missing_tool_of_the_lab_is_named_with_its_package() -> None:
    judgement = doctor.lab(replace(USER, programs=USER.programs - {"rpmbuild", "rpmsign", "gpg"}))
    assert judgement.needed_by == ("lab",)
    assert judgement.found == "rpmbuild, rpmsign, gpg not installed"
    assert judgement.mend == "sudo apt-get install rpm gnupg"


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


@pytest.fixture(scope="module")
def listed(checkout: Path) -> dict[str, dict[str, str]]:
    """The sessions that the noxfile registers, each as Nox lists it (one of its variants)."""
    command = [sys.executable, "-m", "nox", "-f", str(checkout / "noxfile.py"), "--list", "--json"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return {entry["name"]: entry for entry in json.loads(answer.stdout)}


def test_the_catalogue_has_the_sessions_of_the_noxfile(listed: dict[str, dict[str, str]]) -> None:
    assert set(listed) == set(catalog.SESSIONS)


def test_the_doctor_knows_every_session_as_nox_lists_it(listed: dict[str, dict[str, str]]) -> None:
    known = {name: doctor.session_name(entry["session"]) for name, entry in listed.items()}
    assert known == {name: name for name in listed}


def test_what_runs_in_the_python_of_mkosi_needs_it(listed: dict[str, dict[str, str]]) -> None:
    pinned = {name for name, entry in listed.items() if entry["python"] == catalog.MKOSI_PYTHON}
    assert set(doctor.python(ROOT).needed_by) == pinned


def test_a_check_decides_each_need_but_that_of_booting() -> None:
    checked = {need for check in doctor.CHECKS for need in check(ROOT).needs}
    named = {need for session in catalog.SESSIONS.values() for need in session.needs}
    assert named == checked | {"boot"}


@pytest.mark.parametrize(
    ("session", "lacking"),
    [
        ("patch-check", {"Python 3.12", "git"}),
        ("binfmt", {"apt"}),
        ("lab", {"apt", "tools of the lab"}),
        ("update-pins", set()),
        ("lock", set()),
        ("packages", {"Python 3.12", "container engine", "Docker buildx"}),
    ],
)
def test_a_session_is_kept_from_running_by_what_it_needs_alone(
    session: str, lacking: set[str]
) -> None:
    nothing = Lack("none", "mend it")
    bare = replace(ROOT, programs=frozenset(), python=None, docker=nothing, buildx=nothing)
    judged = [check(bare) for check in doctor.CHECKS]
    assert {one.check for one in judged if session in one.needed_by and not one.ok} == lacking


def test_an_unknown_session_is_wrong_usage_and_the_known_ones_are_listed() -> None:
    with pytest.raises(UsageError) as caught:
        doctor.session_name("biuld")
    assert "quickstart" in caught.value.hint


def test_a_build_is_stopped_by_what_it_lacks_with_all_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError) as caught:
        doctor.require("build", tmp_path / "not" / "yet")
    assert "apt: apt-get is not installed" in caught.value.message
    assert "git: not installed" in caught.value.message
    assert "install git" in caught.value.hint


@pytest.mark.parametrize("session", ["boot-test", "packages"])
def test_what_a_build_lacks_does_not_keep_others_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    doctor.require(session, tmp_path)


def test_the_table_has_a_row_and_a_command_for_each_thing_that_is_lacking() -> None:
    lacking = replace(ROOT, programs=frozenset({"apt-get"}), kvm=Lack("there is no /dev/kvm"))
    screen = io.StringIO()
    judgements = [check(lacking) for check in doctor.CHECKS]
    Console(width=200, file=screen).print(doctor.report(judgements, "build"))
    shown = screen.getvalue()
    [git] = [line for line in shown.splitlines() if " git " in line]
    assert "✗" in git
    assert "apt-get install git" in git
    assert "there is no /dev/kvm" in shown


def test_the_table_says_what_an_optional_thing_is_good_for() -> None:
    screen = io.StringIO()
    judgements = [check(ROOT) for check in doctor.CHECKS]
    Console(width=400, file=screen).print(doctor.report(judgements, "quickstart"))
    shown = screen.getvalue()
    assert "Is this machine fit for quickstart?" in shown
    assert "(optional) boot tests in seconds" in shown
    assert "packages; (optional) Amazon Linux images; without it they can only be" in shown
