"""Programs out of the tools tree: what mkosi's sandbox is told to show them."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from scripts.mkosi.confinement import PROGRAM
from scripts.mkosi.sandbox import Tools


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    for name in ("usr/bin", "usr/lib64", "etc"):
        (tmp_path / "tree" / name).mkdir(parents=True)
    return Tools(tmp_path / "tree", tmp_path / "sandbox.py")


def binds(command: list[str], option: str) -> set[str]:
    """What command has the sandbox bind with option."""
    return {value for name, value in pairwise(command) if name == option}


def test_the_program_is_run_by_mkosi_s_sandbox(tools: Tools) -> None:
    command = tools.command(["pigz", "--stdout"])
    assert command[:4] == [sys.executable, "-IS", os.fspath(PROGRAM), os.fspath(tools.sandbox)]
    assert command[-3:] == ["--", "pigz", "--stdout"]


def test_it_has_neither_environment_nor_network_unless_it_asks(tools: Tools) -> None:
    assert {"--bare", "--no-network"} <= {*tools.command(["pigz"])}
    assert "--bare" in tools.command(["ssh"], network=True)
    assert "--no-network" not in tools.command(["ssh"], network=True)


def test_it_sees_the_tree_s_programs_and_not_the_host_s(tools: Tools) -> None:
    command = tools.command(["pigz"])
    assert {f"{tools.tree}/usr", f"{tools.tree}/etc"} <= binds(command, "--ro-bind")
    assert binds(command, "--symlink") == {"usr/bin", "usr/lib64"}
    assert "/usr" not in binds(command, "--ro-bind")


def test_of_the_host_it_sees_what_it_reads_and_what_it_writes(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = tools.command(["cp"], read=[Path("given")], write=[tmp_path / "made"])
    assert f"{tmp_path}/given" in binds(command, "--ro-bind")
    assert f"{tmp_path}/made" in binds(command, "--bind")
    assert f"{tmp_path}/made" not in binds(command, "--ro-bind")


def test_what_the_tree_has_is_known_by_its_path(tools: Tools) -> None:
    (tools.tree / "usr/bin/pigz").touch()
    assert tools.has("/usr/bin/pigz")
    assert tools.has("usr/bin/pigz")
    assert not tools.has("/usr/bin/gzip")
