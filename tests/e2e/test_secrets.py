"""Has a real mkosi build from a mirror and through a proxy with passwords. This takes a minute."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from tests.e2e.checkout import DEBIAN, TOOLS, Build, copy, environ
from tests.unit.asking import Server, basic
from tests.unit.sampling import sampling

# Of the mirror, and of the proxy.
MIRROR_MARK, PROXY_MARK = "MARKEDMIRROR", "MARKEDPROXY"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sees the environment of mkosi's children")
def test_mkosi_and_apt_get_the_passwords_and_nobody_else(checkout: Path, tmp_path: Path) -> None:
    copied = copy(checkout, tmp_path / "finch ä images", checkout / ".work", TOOLS)
    with Server().running() as server, sampling() as samples:
        server.wants = basic("me", PROXY_MARK)
        variables = {
            "FINCH_MIRROR": f"http://me:{MIRROR_MARK}@mirror.invalid",
            "http_proxy": server.with_password(PROXY_MARK),
            "HTTPS_PROXY": server.with_password(PROXY_MARK),
        }
        command = [sys.executable, "-m", "scripts.sessions.build", *DEBIAN, "--image", "base"]
        build = Build(command, copied.root, environ() | variables)
        build.wait()

    mirrors = [shown for path, shown in server.asked if path.startswith("http://mirror.invalid/")]
    assert basic("me", MIRROR_MARK) in mirrors
    assert basic("me", PROXY_MARK) in server.as_proxy
    assert "could not fetch" in build.output
    found = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.is_symlink() and b"MARKED" in path.read_bytes()
        and "tests" not in path.parts
    }  # fmt: skip
    assert found == {"00-finch.conf": 0o600}
    assert "MARKED" not in build.output
    assert samples.commands("MARKED") == []
    assert any(b"/buildroot" in command for command in samples.seen)
    assert any(b"-m\0mkosi\0" in command for command in samples.seen)
    for of in ("/buildroot", "-m\0mkosi\0"):
        assert samples.environments("MARKED", of=of) == []
