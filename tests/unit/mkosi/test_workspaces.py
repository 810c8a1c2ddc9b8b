"""Where mkosi works: memory is taken only where it is plenty and fit for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.mkosi import workspaces

FREE = f"{workspaces.PLENTY >> 10} kB"


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the one in memory."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(workspaces, "MEMORY", folder)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def has_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amount: str) -> None:
    """Have the kernel say that amount of memory is available."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:       24684096 kB\nMemAvailable:   {amount}\n")
    monkeypatch.setattr(workspaces, "MEMINFO", meminfo)


def test_plenty_of_memory_is_used(
    memory: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_available(tmp_path, monkeypatch, FREE)

    made = workspaces.make(work)

    assert made.parent == memory
    assert made in workspaces.folders(work)
    assert made.is_dir()


def test_without_plenty_of_memory_the_disk_is_used(
    memory: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_available(tmp_path, monkeypatch, "4096 kB")

    made = workspaces.make(work)

    assert made == work / "workspace"
    assert made.is_dir()
    assert not list(memory.iterdir())


def test_a_machine_without_a_folder_in_memory_uses_the_disk(
    memory: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_available(tmp_path, monkeypatch, FREE)
    memory.rmdir()

    assert workspaces.make(work) == work / "workspace"


def test_a_file_system_that_takes_no_attributes_is_no_place_for_a_workspace(
    memory: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_available(tmp_path, monkeypatch, FREE)

    def refuse(*_args: object) -> None:
        raise OSError(os.strerror(95))

    monkeypatch.setattr(os, "setxattr", refuse)

    assert workspaces.make(work) == work / "workspace"
    assert not list(memory.iterdir())


def test_a_path_that_a_shell_takes_apart_is_no_workspace(tmp_path: Path) -> None:
    for folder in workspaces.folders(tmp_path / "with space"):
        assert " " not in str(folder)


def test_two_checkouts_have_workspaces_of_their_own(tmp_path: Path) -> None:
    one, other = (set(workspaces.folders(tmp_path / name)) for name in ("one", "other"))

    assert not one & other
