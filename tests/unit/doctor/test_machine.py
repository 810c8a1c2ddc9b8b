"""Which facts are gathered about the machine that runs the tests."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.doctor import machine


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
    assert machine.sub_ids(table, "ada", 1000) == expected


def test_the_facts_of_this_machine_can_be_gathered(tmp_path: Path) -> None:
    found = machine.look_closely(tmp_path / "work", os.environ)
    assert found.is_first
    assert found.free_bytes > 0
    assert found.is_root == (os.geteuid() == 0)


def test_a_quick_look_asks_no_engine_and_no_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        pytest.fail("a quick look asked")

    for name in ("_engine", "_buildx", "_emulation", "_kvm"):
        monkeypatch.setattr(machine, name, fail)
    assert machine.look(tmp_path).docker is None


@pytest.fixture
def here(tmp_path: Path) -> machine.Machine:
    return machine.look(tmp_path)


def test_a_device_that_is_no_kvm_is_called_that(here: machine.Machine, tmp_path: Path) -> None:
    not_kvm, none = machine._kvm(Path("/dev/null"), here), machine._kvm(tmp_path / "kvm", here)
    assert not_kvm
    assert "is not a KVM device" in not_kvm.reason
    assert none
    assert none.reason == f"there is no {tmp_path / 'kvm'}"


@pytest.mark.parametrize(
    ("is_root", "mend"), [(False, "usermod --append --groups kvm ada"), (True, "--privileged")]
)
def test_a_forbidden_kvm_is_mended_by_a_group_or_by_privileges(
    here: machine.Machine, monkeypatch: pytest.MonkeyPatch, is_root: bool, mend: str
) -> None:
    def refuse(*_args: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    user = replace(here, user="ada", is_root=is_root)
    monkeypatch.setattr(os, "open", refuse)
    lack = machine._kvm(Path("/dev/kvm"), user)
    monkeypatch.undo()
    assert lack
    assert lack.reason == "/dev/kvm: Permission denied"
    assert mend in lack.mend
