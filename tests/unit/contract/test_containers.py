"""The shell functions of the scenario with containers, in the bash of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.contract import extras
from scripts.system.process import run

LIB = extras.OWN / "containers/lib.sh"


def bash(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run script as a guest runs a step, with a ctr that prints its arguments."""
    whole = f'set -eu -o pipefail\n. {LIB}\nctr() {{ echo ctr "$@"; }}\n{script}'
    return run(["bash", "-c", whole], cwd=cwd, check=False)


def test_await_repeats_a_command_until_it_succeeds(tmp_path: Path) -> None:
    script = "tries() { echo >> tries; [ $(wc -l < tries) = 3 ]; }\nawait 30 tries"
    assert bash(script, tmp_path).returncode == 0
    assert (tmp_path / "tries").read_text() == "\n\n\n"


def test_await_gives_up_and_says_on_what(tmp_path: Path) -> None:
    ended = bash("await 0 ls /nonexistent", tmp_path)
    assert ended.returncode == 1
    assert "No such file" in ended.stdout
    assert ended.stdout.endswith("gave up: ls /nonexistent\n")


def test_expect_shows_an_answer_once(tmp_path: Path) -> None:
    ended = bash('expect two "one two"\nexpect one "one two"', tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "one two\n")


@pytest.mark.parametrize("wanted", ["four", "*"])
def test_expect_fails_if_the_answer_lacks_the_text(wanted: str, tmp_path: Path) -> None:
    ended = bash(f'expect "{wanted}" "one two"', tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == f'one two\nthe answer lacks "{wanted}"\n'


@pytest.mark.parametrize(("function", "how"), [("run", "--rm"), ("start", "--detach")])
def test_options_of_a_container_come_before_its_image(
    function: str, how: str, tmp_path: Path
) -> None:
    ended = bash(f"{function} one --cpus 0.1 -- sh -c 'a  b'", tmp_path)
    assert ended.stdout == f"ctr run {how} --cpus 0.1 localhost/busybox:latest one sh -c a  b\n"


def test_ask_keeps_what_a_command_says(tmp_path: Path) -> None:
    ended = bash("ask echo 'one  two'\nexpect 'one  two' \"$said\"", tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "one  two\n")


def test_ask_fails_with_what_a_command_says(tmp_path: Path) -> None:
    ended = bash("ask sh -c 'echo the reason; exit 3'\necho never", tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "the reason\n")


def test_a_limited_container_starts_in_the_folder_of_its_cgroup(tmp_path: Path) -> None:
    ended = bash("limited one --cpus 0.1 -- 'cat cpu.max'", tmp_path)
    words = ended.stdout.split()
    assert words[words.index("--cgroup") + 1] == "system.slice:contract:one"
    assert words[words.index("--cwd") + 1] == "/sys/fs/cgroup/system.slice/contract-one.scope"
    assert ended.stdout.endswith("localhost/busybox:latest one sh -c cat cpu.max\n")
