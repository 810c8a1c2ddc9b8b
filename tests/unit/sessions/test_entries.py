"""The modules of sessions/ as programs: whoever starts one names one that there is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import catalog

SESSIONS = Path("scripts/sessions")

# A module that is started: by the noxfile, and by a program of ours.
STARTED = re.compile(r'harness\(session, "(\w+)"|"-m",\s+"scripts\.([\w.]+)"')

MODULES = sorted(
    name.replace("-", "_")
    for name in catalog.SESSIONS
    if (catalog.ROOT / SESSIONS / f"{name.replace('-', '_')}.py").exists()
)


def is_a_program(path: Path) -> bool:
    """Whether a module does something when Python is started with it."""
    return any(
        isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for node in ast.parse(path.read_text()).body
    )


def started(checkout: Path) -> set[str]:
    """The modules that something starts, as paths without .py."""
    folders = [path for name in ("scripts", "tests") for path in checkout.glob(f"{name}/**/*.py")]
    texts = [path.read_text() for path in (checkout / "noxfile.py", *folders)]
    found = [match for text in texts for match in STARTED.findall(text)]
    return {f"sessions/{session}" if session else name.replace(".", "/") for session, name in found}


@pytest.mark.parametrize("name", MODULES)
def test_every_session_is_a_program(name: str, checkout: Path) -> None:
    assert is_a_program(checkout / SESSIONS / f"{name}.py")


def test_what_is_started_is_a_program(checkout: Path) -> None:
    names = started(checkout)
    assert {"sessions/build", "sessions/publish"} <= names
    assert [name for name in names if not is_a_program(checkout / f"scripts/{name}.py")] == []


def test_the_noxfile_starts_every_session_that_has_a_module(checkout: Path) -> None:
    called = {session for session, _ in STARTED.findall((checkout / "noxfile.py").read_text())}
    assert called == set(MODULES)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in {"ci_matrix", "mkosi"}])
def test_a_session_explains_itself(name: str, checkout: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", f"scripts.sessions.{name}", "--help"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "usage: ./nox -s " in answer.stdout
