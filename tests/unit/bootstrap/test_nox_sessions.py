"""Sessions of a small noxfile, run by Nox: what the process says and ends with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nox
import pytest
from nox.command import CommandFailed
from nox.virtualenv import InterpreterNotFound

from scripts.bootstrap import environments, interpreters
from scripts.bootstrap.environments import Environment, Outcome

NOXFILE = """\
import os, sys
sys.path.insert(0, {checkout!r})
import nox
from scripts.bootstrap import environments

nox.options.default_venv_backend = "none"

@nox.session
def fine(session):
    environments.install(session, "harness")
    environments.check(session, "compileall", "--help")

@nox.session
def broken(session):
    environments.check(session, "compileall", "--nonsense")

@nox.session
def misused(session):
    environments.harness(session, "doctor", "nonsense")

@nox.session
def idle(session):
    environments.skip(session, "nothing has been built")

@nox.session
def lab(session):
    environments.lab(session, "--help")

environments.setup(hint="there are fine and broken")
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(checkout: Path, tmp_path: Path) -> Run:
    """Runs sessions of the noxfile by name."""
    (tmp_path / "noxfile.py").write_text(NOXFILE.format(checkout=os.fspath(checkout)))
    environ = {name: value for name, value in os.environ.items() if "NOX" not in name}
    # Without an environment of its own a session runs the first python on PATH.
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"

    def run(*sessions: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nox", "-s", *sessions],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_session_that_worked_ends_with_0(run: Run) -> None:
    assert run("fine").returncode == 0


def test_the_lab_is_started_as_a_module(run: Run) -> None:
    answer = run("lab")
    assert answer.returncode == 0
    assert "tests.lab --help" in answer.stderr


def test_the_failure_of_a_tool_is_a_plain_1(run: Run) -> None:
    assert run("broken").returncode == 1


def test_the_harness_s_own_status_is_the_process_s(run: Run) -> None:
    answer = run("misused", "broken")
    assert answer.returncode == 2
    assert "error: " in answer.stdout + answer.stderr


def test_a_session_that_there_is_not_is_wrong_usage_with_a_hint(run: Run) -> None:
    answer = run("nonsense")
    assert answer.returncode == 2
    assert " hint: there are fine and broken" in answer.stderr


def test_a_run_that_left_out_everything_has_failed(run: Run) -> None:
    answer = run("idle")
    assert answer.returncode == 1
    assert "error: nothing was done: nothing has been built" in answer.stderr


def test_a_session_that_is_left_out_beside_others_is_no_failure(run: Run) -> None:
    assert run("idle", "fine").returncode == 0


class Installing:
    """A session in an environment of its own, in which installing comes to what it is told."""

    def __init__(self, folder: Path, backend: str, outcomes: Sequence[bool]) -> None:
        self.virtualenv = Environment(os.fspath(folder), venv_backend=backend)
        self.outcomes = list(outcomes)
        self.installed: list[tuple[str, ...]] = []
        self.env: dict[str, str] = {}

    def install(self, *args: str, env: dict[str, str]) -> None:
        self.installed.append(args)
        self.env = env
        if not self.outcomes.pop(0):
            raise CommandFailed(return_code=1)

    def run_install(self, *command: Any, **_: object) -> None:
        subprocess.run([sys.executable, *command[1:]], check=True)

    def warn(self, *_: str) -> None:
        pass


@pytest.fixture
def installing(tmp_path: Path) -> Callable[..., Installing]:
    def make(*outcomes: bool, backend: str = "virtualenv") -> Installing:
        return Installing(tmp_path / "environment", backend, outcomes)

    (tmp_path / "environment").mkdir()
    return make


def install(session: Installing) -> None:
    environments.install(session, "lint")  # type: ignore[arg-type]


def test_what_is_pinned_is_installed_once(installing: Callable[..., Installing]) -> None:
    session = installing(True)
    install(session)
    install(session)
    assert session.installed == [(*environments.INSTALL, "-r", "requirements/lint.txt")]


def test_an_installation_that_fails_is_tried_three_times(
    installing: Callable[..., Installing],
) -> None:
    session = installing(False, False, True)
    install(session)
    assert len(session.installed) == 3

    session = installing(False, False, False)
    (Path(session.virtualenv.location) / "lint.sha256").unlink()
    with pytest.raises(CommandFailed):
        install(session)


def test_uv_is_told_to_compile_what_it_installs(installing: Callable[..., Installing]) -> None:
    session = installing(True, backend="uv")
    install(session)
    assert session.env["UV_COMPILE_BYTECODE"] == "1"


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> Outcome:
    outcome = Outcome()
    monkeypatch.setattr(environments, "outcome", outcome)
    return outcome


def test_an_interpreter_that_is_nowhere_is_the_machine_s_to_mend(
    outcome: Outcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lacks(*_: object, **__: object) -> Path:
        raise interpreters.Lacking("3.12")

    monkeypatch.setattr(interpreters, "find_or_fetch", lacks)
    environment = Environment(os.fspath(tmp_path / "new"), interpreter="3.12")

    with pytest.raises(InterpreterNotFound):
        environment.create()

    assert outcome.status == 3
    assert capsys.readouterr().err.startswith("error: Python 3.12 is not on PATH")


def test_an_environment_is_made_of_the_interpreter_that_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str | None] = []

    def create(environment: Environment) -> bool:
        made.append(environment.interpreter)
        return True

    monkeypatch.setattr(interpreters, "find_or_fetch", lambda *_, **__: Path("/found/python3.12"))
    monkeypatch.setattr(nox.virtualenv.VirtualEnv, "create", create)

    assert Environment(os.fspath(tmp_path / "new"), interpreter="3.12").create()
    assert made == ["/found/python3.12"]
