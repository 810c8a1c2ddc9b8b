"""Fixtures: servers with scripted answers, and checkouts for `./nox` with stubs for builds."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.answers import Server
from tests.publishing import (  # noqa: F401 - fixtures
    aws,
    bucket,
    built_from,
    cosign,
    key,
    other,
    out,
    qemu_img,
    registry_host,
    repository,
    s3_url,
    skopeo,
    tell,
    upload,
    work,
)

# The variables that a session of Nox sets for the programs it starts.
FOREIGN = ("CI", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "VIRTUAL_ENV")

STUB = """\
import json, os, signal, sys, time
print("STUB", json.dumps([__name__, __spec__.name, sys.argv[1:], os.getcwd()]), flush=True)
if os.environ.get("STUB_WAITS"):
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(2)
        print("STUB has cleaned up", flush=True)
        sys.exit(130)
sys.exit(int(os.environ.get("STUB_STATUS", "0")))
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of the files that `./nox` and the noxfile need."""

    root: Path

    def environ(self, **variables: str) -> dict[str, str]:
        """Return the environment as a shell outside our sessions has it."""
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        return {name: value for name, value in kept.items() if "NOX" not in name} | variables

    def start(
        self, *arguments: str, python: Path | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        """Start ./nox in its own process group."""
        return subprocess.Popen(
            [python or sys.executable, self.root / "nox", *arguments],
            env=self.environ(**variables),
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def nox(
        self,
        *arguments: str,
        python: Path | None = None,
        cwd: Path | None = None,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run ./nox and wait until it ends."""
        return subprocess.run(
            [python or sys.executable, self.root / "nox", *arguments],
            env=self.environ(**variables),
            cwd=cwd or self.root,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:
        yield lambda *answers: stack.enter_context(Server(list(answers)).running())


@pytest.fixture(scope="session")
def copy_checkout(checkout: Path) -> Callable[[Path], Checkout]:
    """Copies the checkout below a folder, with stubs in place of builds and boots."""

    def copy(folder: Path) -> Checkout:
        root = folder / "finch ä images"
        root.mkdir()
        for name in ("nox", "noxfile.py", "pyproject.toml"):
            shutil.copy(checkout / name, root)
        shutil.copytree(checkout / "requirements", root / "requirements")
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(checkout / "scripts", root / "scripts", ignore=unwanted)
        for name in ("build.py", "boot_test.py", "quickstart.py"):
            (root / "scripts/sessions" / name).write_text(STUB)
        return Checkout(root)

    return copy


@pytest.fixture
def fresh(copy_checkout: Callable[[Path], Checkout], tmp_path: Path) -> Checkout:
    """A checkout in which ./nox has never run."""
    return copy_checkout(tmp_path)


@pytest.fixture(scope="session")
def prepared(
    copy_checkout: Callable[[Path], Checkout], tmp_path_factory: pytest.TempPathFactory
) -> Checkout:
    """A checkout in which ./nox has run, shared by all tests that do not change it."""
    made = copy_checkout(tmp_path_factory.mktemp("prepared"))
    answer = made.nox("--version")
    assert answer.returncode == 0, answer.stderr
    return made
