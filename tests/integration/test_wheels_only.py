"""An index that has only a source distribution, whose build backend would run."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.conftest import Checkout

BACKEND = "open({canary!r}, 'w').close()\nraise SystemExit('the backend ran')\n"

PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "evil"
version = "1.0"
dynamic = ["dependencies"]
"""


@dataclass(frozen=True)
class Trap:
    """A pin of a package that is only there as a source distribution, and the index that has it."""

    pin: str
    index: str
    canary: Path

    def environ(self) -> dict[str, str]:
        """Return variables that make pip and uv use the index and nothing else."""
        return {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": self.index,
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
            "PIP_NO_CACHE_DIR": "1",
            "UV_NO_CACHE": "1",
        }


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve folder on loopback; yield its address."""
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    canary = tmp_path / "canary"
    packed = io.BytesIO()
    files = {
        "pyproject.toml": PROJECT,
        "backend.py": BACKEND.format(canary=str(canary)),
        "PKG-INFO": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n",
    }
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"evil-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    page = tmp_path / "index/simple/evil/index.html"
    page.parent.mkdir(parents=True)
    link = f'<a href="/evil-1.0.tar.gz#sha256={digest}">evil-1.0.tar.gz</a>'
    page.write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")
    (tmp_path / "index/evil-1.0.tar.gz").write_bytes(packed.getvalue())
    with serving(tmp_path / "index") as url:
        yield Trap(f"evil==1.0 --hash=sha256:{digest}\n", f"{url}/simple/", canary)


def run(
    checkout: Checkout, trap: Trap, variables: Mapping[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run ./nox with the index of trap, and variables."""
    return subprocess.run(
        [sys.executable, checkout.root / "nox", *arguments],
        env=checkout.environ(**trap.environ(), **variables),
        cwd=checkout.root,
        capture_output=True,
        text=True,
        check=False,
    )


UNBINARY = [
    pytest.param({}, id="plain"),
    pytest.param({"PIP_NO_BINARY": ":all:", "UV_NO_BINARY": "1"}, id="all from source"),
    pytest.param({"PIP_NO_BINARY": "evil", "UV_NO_BINARY_PACKAGE": "evil"}, id="it from source"),
    pytest.param({"PIP_ONLY_BINARY": ":none:", "UV_NO_BUILD": "0"}, id="no wheels asked for"),
]


def test_without_our_flags_the_backend_would_run(trap: Trap, tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text(trap.pin)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run(
        [tmp_path / "venv/bin/pip", "install", "--require-hashes", "-r", pins],
        env={**os.environ, **trap.environ()},
        check=False,
    )

    assert trap.canary.exists()


@pytest.mark.parametrize("variables", UNBINARY)
def test_nox_itself_is_not_built_from_source(
    fresh: Checkout, trap: Trap, variables: Mapping[str, str]
) -> None:
    (fresh.root / "requirements/nox.txt").write_text(trap.pin)
    answer = run(fresh, trap, variables, "--version")

    assert answer.returncode == 1
    assert "error: pip could not install what requirements/nox.txt pins" in answer.stderr
    assert not trap.canary.exists()


@pytest.fixture(scope="module")
def ready(
    copy_checkout: Callable[[Path], Checkout], tmp_path_factory: pytest.TempPathFactory
) -> Checkout:
    """A checkout of this module's own in which ./nox has run."""
    made = copy_checkout(tmp_path_factory.mktemp("ready"))
    assert made.nox("--version").returncode == 0
    return made


@pytest.mark.parametrize("backend", ["uv", "virtualenv"])
@pytest.mark.parametrize("variables", UNBINARY[:2])
def test_no_session_builds_a_package_from_source(
    ready: Checkout, trap: Trap, backend: str, variables: Mapping[str, str]
) -> None:
    (ready.root / "requirements/lint.txt").write_text(trap.pin)
    answer = run(ready, trap, variables, "--default-venv-backend", backend, "-s", "lint")

    assert answer.returncode == 1
    assert "evil" in answer.stdout + answer.stderr
    assert not trap.canary.exists()


@pytest.mark.parametrize("variables", UNBINARY[:2])
def test_to_pin_packages_builds_nothing(
    ready: Checkout, trap: Trap, variables: Mapping[str, str]
) -> None:
    project = ready.root / "pyproject.toml"
    project.write_text(
        '[project]\nname = "x"\nversion = "1"\n[dependency-groups]\nnox = ["evil"]\n'
    )
    answer = run(ready, trap, {**variables, "UV_DEFAULT_INDEX": trap.index}, "-s", "lock")

    assert answer.returncode == 1
    assert not trap.canary.exists()
