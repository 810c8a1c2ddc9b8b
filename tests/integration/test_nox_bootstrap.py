"""Runs `./nox` on machines of all sorts, each in its own checkout."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Checkout

DEBIAN_PYTHON = Path("/usr/bin/python3")


def test_the_first_run_prepares_nox_where_the_path_has_spaces_and_umlauts(
    prepared: Checkout,
) -> None:
    answer = prepared.nox("--version")
    assert answer.returncode == 0
    assert answer.stderr.strip().startswith("20")
    assert " ä" in str(prepared.root)


def test_the_second_run_prepares_nothing(prepared: Checkout) -> None:
    started = time.monotonic()
    answer = prepared.nox("--version")
    assert "preparing" not in answer.stderr
    assert time.monotonic() - started < 2


def test_it_can_be_called_from_another_folder(prepared: Checkout, tmp_path: Path) -> None:
    answer = prepared.nox("--list", cwd=tmp_path)
    assert "quickstart" in answer.stdout


def test_variables_that_lead_pip_and_python_astray_do_no_harm(
    fresh: Checkout, tmp_path: Path
) -> None:
    (tmp_path / "nox.py").write_text("raise SystemExit('astray')")
    answer = fresh.nox(
        "--version",
        PIP_REQUIRE_VIRTUALENV="1",
        PIP_USER="1",
        PIP_TARGET=str(tmp_path / "target"),
        PYTHONPATH=str(tmp_path),
        PYTHONHOME="",
    )
    assert answer.returncode == 0, answer.stderr
    assert "astray" not in answer.stderr


def test_three_at_once_prepare_one_environment(fresh: Checkout) -> None:
    running = [fresh.start("--version") for _ in range(3)]
    answers = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sum("preparing Nox" in answer for answer in answers) == 1


def test_a_run_that_was_killed_is_made_good_by_the_next(fresh: Checkout) -> None:
    process = fresh.start("--version")
    while not (fresh.root / ".nox/.bootstrap/bin/python").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    answer = fresh.nox("--version")
    assert answer.returncode == 0, answer.stderr
    assert "preparing" in answer.stderr


def test_a_package_that_is_not_the_pinned_one_is_not_installed(fresh: Checkout) -> None:
    pins = fresh.root / "requirements/nox.txt"
    pins.write_text(re.sub("sha256:[0-9a-f]+", "sha256:" + "0" * 64, pins.read_text()))
    answer = fresh.nox("--version")
    assert answer.returncode == 1
    assert "error: pip could not install what requirements/nox.txt pins" in answer.stderr
    assert "trying again" not in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (fresh.root / ".nox/.bootstrap/stamp").exists()


def test_other_pins_are_prepared_anew(prepared: Checkout) -> None:
    pins = prepared.root / "requirements/nox.txt"
    pins.write_text(pins.read_text() + "# changed\n")
    answer = prepared.nox("--version")
    assert answer.returncode == 0
    assert "preparing" in answer.stderr


def test_a_network_that_is_away_is_one_sentence_and_what_to_check(fresh: Checkout) -> None:
    answer = fresh.nox(
        "--version",
        PIP_CONFIG_FILE=os.devnull,
        PIP_INDEX_URL="http://127.0.0.1:1/",
        PIP_FIND_LINKS="",
        PIP_RETRIES="0",
        PIP_NO_CACHE_DIR="1",
    )
    assert answer.returncode == 1
    assert answer.stderr.count("trying again") == 2
    assert "error: pip could not install" in answer.stderr
    assert " hint: check the network" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_checkout_that_cannot_be_written_is_named(fresh: Checkout) -> None:
    (fresh.root / ".nox").write_text("a file where the folder should be")
    answer = fresh.nox("--version")
    assert answer.returncode == 3
    assert f"{fresh.root}/.nox" in answer.stderr
    assert "Traceback" not in answer.stderr


def python_that_claims(version: tuple[int, int], folder: Path) -> Path:
    """Make a Python that claims to be version, because no machine has every old one."""
    program = (
        f"import runpy, sys; sys.version_info = {(*version, 0, 'final', 0)}; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    python = folder / f"python{version[0]}.{version[1]}"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
    python.chmod(0o755)
    return python


def test_a_python_that_is_too_old_is_told_so(fresh: Checkout, tmp_path: Path) -> None:
    answer = fresh.nox("--version", python=python_that_claims((3, 8), tmp_path))
    assert answer.returncode == 3
    assert answer.stderr.startswith("error: ./nox needs Python 3.9 or newer")


def test_an_older_python_finds_a_newer_one_to_run_nox_with(fresh: Checkout, tmp_path: Path) -> None:
    answer = fresh.nox("--version", python=python_that_claims((3, 9), tmp_path))
    assert answer.returncode == 0, answer.stderr


def test_an_older_python_with_no_newer_one_says_how_to_get_it(
    fresh: Checkout, tmp_path: Path
) -> None:
    answer = fresh.nox(
        "--version",
        python=python_that_claims((3, 9), tmp_path),
        PATH=str(tmp_path),
        PYENV_ROOT=str(tmp_path),
        UV_PYTHON_DOWNLOADS="never",
        UV_PYTHON_INSTALL_DIR=str(tmp_path),
    )
    assert answer.returncode == 3
    assert "error: Python 3.12 is not on PATH" in answer.stderr
    assert " hint: `apt-get install python3.12`" in answer.stderr


@pytest.mark.skipif(not shutil.which("apt-get"), reason="there is no apt on this machine")
def test_debians_python_without_its_venv_package_gets_pip_through_apt(
    fresh: Checkout, tmp_path: Path
) -> None:
    ensurepip = subprocess.run(
        [DEBIAN_PYTHON, "-c", "import ensurepip; print(ensurepip.__path__[0])"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    privileges = [] if os.geteuid() == 0 else ["--map-root-user"]
    hide = f'mount --bind "{tmp_path}" "{ensurepip}" && ' if ensurepip else ""
    answer = subprocess.run(
        [
            *("unshare", *privileges, "--mount", "sh", "-ec", f'{hide}exec "$@"', "sh"),
            *(DEBIAN_PYTHON, fresh.root / "nox", "--version"),
        ],
        env=fresh.environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
