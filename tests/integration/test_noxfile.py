"""Checks the sessions' names, arguments and exit codes; builds and boots are stubs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bootstrap import interpreters
from tests.integration.conftest import Checkout

BUILD = "build-3.12(arch='x86_64')"


@pytest.fixture(scope="module", autouse=True)
def python_of_mkosi() -> None:
    """Fail unless this machine has the Python that the sessions under test run in."""
    if interpreters.find("3.12", os.environ) is None:
        pytest.fail("there is no Python 3.12 here: `./nox -s quickstart` would fetch it")


def stubs(answer: subprocess.CompletedProcess[str]) -> list[tuple[str, list[str]]]:
    """Return the stubs that ran, in order, each with its arguments."""
    lines = [line for line in answer.stdout.splitlines() if line.startswith("STUB [")]
    calls = [json.loads(line.removeprefix("STUB ")) for line in lines]
    return [(module, arguments) for _, module, arguments, _ in calls]


@pytest.fixture
def built(prepared: Checkout) -> Iterator[Checkout]:
    """The shared checkout, with an os-image for x86_64."""
    folder = prepared.root / "out/debian/x86_64"
    folder.mkdir(parents=True)
    (folder / "os-image.raw").touch()
    yield prepared
    shutil.rmtree(prepared.root / "out")


def test_the_list_shows_each_session_by_its_documented_name(prepared: Checkout) -> None:
    listed = [
        line[2:].partition(" -> ")
        for line in prepared.nox("--list").stdout.splitlines()
        if line[:2] in {"* ", "- "}
    ]
    names = [name for name, _, _ in listed]
    assert {
        BUILD,
        "build-3.12(arch='aarch64')",
        "image-3.12(arch='x86_64', image='wsl-rootfs')",
        "image-3.12(arch='aarch64', image='os-image')",
        "packages-3.12(arch='aarch64')",
        "boot-test(arch='x86_64')",
        *("mkosi", "quickstart", "doctor", "binfmt", "clean", "bench", "lock"),
        *("tests", "coverage", "fuzz", "e2e", "lint", "typecheck"),
        *("diff", "ci-matrix", "publish"),
    } <= set(names)
    assert all(description for _, _, description in listed)


def test_nox_alone_means_lint_typecheck_and_tests(prepared: Checkout) -> None:
    lines = prepared.nox("--list").stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("* ")] == [
        "lint",
        "typecheck",
        "tests",
    ]


def test_the_list_as_json_carries_arch_and_image_of_every_session(prepared: Checkout) -> None:
    listed = json.loads(prepared.nox("--list", "--json").stdout)
    images = [entry["call_spec"] for entry in listed if entry["name"] == "image"]
    assert {"arch": "aarch64", "image": "container-with-kernel"} in images
    assert {"arch": "x86_64", "image": "wsl-rootfs"} in images
    builds = [entry["session"] for entry in listed if entry["name"] == "build"]
    assert builds == [BUILD, "build-3.12(arch='aarch64')"]


def test_build_calls_the_harness_for_the_arch_with_the_options_behind_the_dashes(
    prepared: Checkout,
) -> None:
    answer = prepared.nox("-s", BUILD, "--", "--distribution", "debian", "--force")
    assert answer.returncode == 0, answer.stderr
    arguments = ["--arch", "x86_64", "--distribution", "debian", "--force"]
    assert stubs(answer) == [("scripts.sessions.build", arguments)]
    assert json.dumps(str(prepared.root)) in answer.stdout


def test_a_second_build_installs_nothing(prepared: Checkout) -> None:
    prepared.nox("-s", BUILD)
    answer = prepared.nox("-s", BUILD)
    assert "install" not in answer.stderr
    assert "Creating" not in answer.stderr


def test_image_calls_the_harness_for_one_image(prepared: Checkout) -> None:
    answer = prepared.nox("-s", "image-3.12(arch='aarch64', image='base')")
    assert stubs(answer) == [("scripts.sessions.build", ["--arch", "aarch64", "--image", "base"])]


def test_quickstart_builds_debian_for_this_machine_and_boots_it(prepared: Checkout) -> None:
    answer = prepared.nox("-s", "quickstart", "--", "--offline")
    arguments = ["--distribution", "debian", "--arch", "native", "--offline"]
    assert stubs(answer) == [("scripts.sessions.quickstart", arguments)]


@pytest.mark.parametrize(("ends_with", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_the_exit_code_is_the_harness_s_own(
    prepared: Checkout, ends_with: int, expected: int
) -> None:
    answer = prepared.nox("-s", BUILD, STUB_STATUS=str(ends_with))
    assert answer.returncode == expected
    assert "Traceback" not in answer.stderr


def test_the_exit_code_holds_for_plain_nox_too(prepared: Checkout) -> None:
    answer = subprocess.run(
        [prepared.root / ".nox/.bootstrap/bin/python", "-m", "nox", "-s", BUILD],
        env=prepared.environ(STUB_STATUS="3", PYTHONSAFEPATH="1"),
        cwd=prepared.root,
        check=False,
    )
    assert answer.returncode == 3


def test_the_first_failure_of_several_sessions_decides_and_the_others_still_run(
    prepared: Checkout,
) -> None:
    other = "build-3.12(arch='aarch64')"
    answer = prepared.nox("-s", BUILD, other, STUB_STATUS="2")
    assert answer.returncode == 2
    assert len(stubs(answer)) == 2


@pytest.mark.parametrize(
    "name", ["build-3.12(arch='riscv64')", "image-3.12(arch='x86_64', image='iso')", "biuld"]
)
def test_a_session_of_no_known_name_is_wrong_usage_and_says_what_there_is(
    prepared: Checkout, name: str
) -> None:
    answer = prepared.nox("-s", name)
    assert answer.returncode == 2
    assert name in answer.stderr
    assert "x86_64, aarch64" in answer.stderr
    assert "os-image" in answer.stderr


def test_boot_test_boots_what_is_built_and_skips_the_rest_by_name(built: Checkout) -> None:
    answer = built.nox("-s", "boot-test")
    assert answer.returncode == 0, answer.stderr
    assert stubs(answer) == [("scripts.sessions.boot_test", ["--arch", "x86_64"])]
    assert "boot-test(arch='aarch64') skipped" in answer.stderr


def test_boot_test_fails_where_nothing_is_built(prepared: Checkout) -> None:
    answer = prepared.nox("-s", "boot-test")
    assert answer.returncode == 1
    assert "no os-image of x86_64 has been built" in answer.stderr
    assert "no os-image of aarch64 has been built" in answer.stderr


def test_boot_test_of_an_arch_that_is_not_built_fails_though_another_one_is(
    built: Checkout,
) -> None:
    answer = built.nox("-s", "boot-test(arch='aarch64')")
    assert answer.returncode == 1


def test_an_interpreter_that_is_nowhere_is_one_line_with_the_way_to_get_it(
    fresh: Checkout, tmp_path: Path
) -> None:
    answer = fresh.nox(
        "-s",
        BUILD,
        PATH=str(tmp_path),
        PYENV_ROOT=str(tmp_path),
        UV_PYTHON_DOWNLOADS="never",
        UV_PYTHON_INSTALL_DIR=str(tmp_path),
    )
    assert answer.returncode == 3
    errors = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Python 3.12" in errors[0]
    assert " hint: `apt-get install python3.12`" in answer.stderr
    assert stubs(answer) == []


def test_an_interpreter_only_pyenv_has_is_found_behind_a_shim_that_fails(
    prepared: Checkout, tmp_path: Path
) -> None:
    real = interpreters.find("3.12", os.environ)
    assert real
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions/3.12.1").symlink_to(real.parent.parent)
    shim = tmp_path / "shims/python3.12"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    environment = prepared.root / ".nox/build-3-12-arch-x86_64"
    shutil.rmtree(environment, ignore_errors=True)
    answer = prepared.nox("-s", BUILD, PATH=str(shim.parent), PYENV_ROOT=str(tmp_path))
    home = (environment / "pyvenv.cfg").read_text().splitlines()[0]
    shutil.rmtree(environment)
    assert answer.returncode == 0, answer.stderr
    assert home == f"home = {tmp_path / 'versions/3.12.1/bin'}"


def test_ctrl_c_leaves_the_harness_time_to_clean_up(prepared: Checkout) -> None:
    prepared.nox("-s", BUILD)
    process = prepared.start("-s", BUILD, STUB_WAITS="1")
    assert process.stdout
    assert process.stdout.readline().startswith("STUB [")
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert "STUB has cleaned up" in out
    assert process.returncode == 130
