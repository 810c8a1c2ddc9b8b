"""What Nox logs of a session's arguments."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bootstrap import environments

NOXFILE = """\
import nox
from scripts.bootstrap import environments
environments.setup("hint")

@nox.session(python=False)
def fails(session):
    session.run("false", *session.posargs, external=True)
"""


def test_nox_shows_no_password_in_the_command_that_it_runs_or_that_failed(
    checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "noxfile.py").write_text(NOXFILE)
    done = subprocess.run(
        [sys.executable, "-m", "nox", "-f", tmp_path / "noxfile.py", "-s", "fails", "--",
         "--mirror", "http://me:MA/RK@MARK@mirror.test/al2023"],
        cwd=checkout, env={"PYTHONPATH": str(checkout), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "false --mirror http://***@mirror.test/al2023" in said
    assert "MARK" not in said
    assert "MA/" not in said


@pytest.mark.parametrize("arguments", [("http://me:MARK@x",), ({"url": "http://me:MARK@x"},)])
def test_arguments_of_a_log_record_are_hidden_too(arguments: tuple[object, ...]) -> None:
    record = logging.LogRecord("nox", logging.INFO, "", 0, "%s is it", arguments, None)
    environments._hide(record)
    assert "MARK" not in record.getMessage()
