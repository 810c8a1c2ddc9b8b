"""Runs real sessions with a password in every URL, and looks for it everywhere."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.distributions.amazonlinux import CDN
from tests.unit.asking import Server, basic, says
from tests.unit.sampling import Samples, sampling

# Looked for in the commands of all processes: another run of the tests must not have the same.
MARK = f"MARKED{os.getpid()}"
RELEASE = "2023.12.20260930"
LIST = f"/al2023/core/mirrors/{RELEASE}/x86_64/mirror.list"
SPAL_LIST = f"/al2023/spal/mirrors/{RELEASE}/x86_64/mirror.list"
TARGET = ("--arch", "x86_64", "--release", RELEASE)


@pytest.fixture(name="server")
def _server() -> Iterator[Server]:
    """A mirror and a server of files that have nothing but lists of mirrors; a proxy, too."""
    with Server().running() as server:
        for path in (LIST, SPAL_LIST):
            server.answers[path] = says(f"{server.url}/x/\n".encode())
        yield server


def run(
    checkout: Path, folder: Path, server: Server, session: str, *args: str, **variables: str
) -> tuple[str, Samples]:
    """Run a session with passwords in its environment; return what it said, and samples."""
    marked = {
        "FINCH_MIRROR": f"{server.with_password(MARK)}/al2023",
        "FINCH_THIRD_PARTY_MIRROR": server.with_password(MARK),
        "http_proxy": server.with_password(MARK),
        "HTTPS_PROXY": f"http://you:{MARK}@127.0.0.1:1",
        "no_proxy": "127.0.0.1,localhost",
        "MKOSI_SOURCE": os.fspath(checkout / "mkosi"),  # which is none
    }
    with sampling() as samples:
        done = subprocess.run(
            [sys.executable, "-m", f"scripts.sessions.{session}", *args],
            cwd=checkout,
            env={"PATH": os.environ["PATH"], "HOME": os.fspath(folder), **marked, **variables},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr, samples


def modes(folder: Path) -> set[int]:
    """The modes of the files below folder that hold the password."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {stat.S_IMODE(path.stat().st_mode) for path in found if MARK in read(path)}


def read(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def folders(folder: Path) -> list[str]:
    return ["--work", f"{folder}/work", "--out", f"{folder}/out"]


@pytest.mark.parametrize(
    ("session", "args"),
    [
        ("packages", TARGET),
        ("packages", (*TARGET, "--without-packages")),
        ("packages", (*TARGET, "--layer-cache", f"me:{MARK}@registry.test/cache")),
        ("build", (*TARGET, "--without-packages")),
        ("build", ("--release", "latest")),
        ("build", ("--distribution", "debian")),
        ("build", ("--mirror", f"http://me:{MARK}#@mirror.test")),
        ("mkosi", (*TARGET, "summary")),
        ("mkosi", ("-m", f"http://me:{MARK}/@mirror.test", "summary")),
        ("boot_test", ("--distribution", "debian")),
        ("doctor", ("build",)),
        ("quickstart", ("--jobs", "0", "--mirror", f"http://me:{MARK}@mirror.test")),
    ],
)
def test_no_session_shows_a_password_or_writes_it_where_others_can_read(
    checkout: Path, tmp_path: Path, server: Server, session: str, args: tuple[str, ...]
) -> None:
    where = [] if session == "doctor" else folders(tmp_path)
    said, samples = run(checkout, tmp_path, server, session, *where, *args)

    assert MARK not in said
    assert modes(tmp_path) <= {0o600}
    given = [word for word in args if MARK in word]
    assert given or samples.commands(MARK) == []


def test_a_password_reaches_the_servers_that_it_is_for(
    checkout: Path, tmp_path: Path, server: Server
) -> None:
    args = (*folders(tmp_path), *TARGET, "--without-packages")
    said, _ = run(checkout, tmp_path, server, "packages", *args)

    assert "cannot be downloaded: the server answers 404" in said
    for path in (LIST, SPAL_LIST):
        assert (path, basic("me", MARK)) in server.asked
    assert any("github.com" in path and shown for path, shown in server.asked)
    assert modes(tmp_path) == {0o600}


def test_pins_are_looked_up_through_a_proxy_that_nobody_sees_the_password_of(
    checkout: Path, tmp_path: Path, server: Server
) -> None:
    said, samples = run(checkout, tmp_path, server, "update_pins", "--check")

    assert CDN.partition("//")[2] in said
    assert MARK not in said
    assert samples.commands(MARK) == []


@pytest.mark.parametrize(
    "args",
    [
        ("--bucket", "b", "--base-url", f"https://me:{MARK}@files.test"),
        ("--bucket", "b", "--base-url", f"https://me:12/{MARK}@files.test"),
        ("--bucket", "b", "--base-url", f"https://files.test/?sig={MARK}"),
        ("--distribution", f"https://me:{MARK}@files.test", "--bucket", "b"),
        ("--key", f"https://me:{MARK}@files.test/key", "--bucket", "b"),
        ("--repository", f"me:{MARK}@127.0.0.1:5000/finch"),
        ("--repository", f"https://me:{MARK}@127.0.0.1:5000/finch"),
        ("--bucket", "b", "--dry-run"),
    ],
)
def test_nothing_is_published_with_a_password_in_it(
    checkout: Path, tmp_path: Path, server: Server, args: tuple[str, ...]
) -> None:
    args = (*folders(tmp_path), "--run-id", "1", *args)
    said, _ = run(checkout, tmp_path, server, "publish", *args)

    assert "error: " in said
    assert MARK not in said
    assert modes(tmp_path) == set()
