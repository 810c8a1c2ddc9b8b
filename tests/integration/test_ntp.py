"""The time server for guests, asked by Debian's chronyd, which guests run too."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.catalog import ROOT
from scripts.contract.ntp import TimeServer
from scripts.distributions import debian, programs
from scripts.distributions.programs import Source
from scripts.system.process import run, running, start
from scripts.system.progress import Progress

CHRONYD = Source(
    "usr/sbin/chronyd",
    [
        "chrony", "libbrotli1", "libc6", "libcap2", "libedit2", "libffi8", "libgmp10",
        "libgnutls30t64", "libhogweed6t64", "libidn2-0", "libnettle8t64", "libp11-kit0",
        "libseccomp2", "libtasn1-6", "libunistring5", "libzstd1", "zlib1g",
    ],
)  # fmt: skip


@pytest.fixture(scope="module")
def chronyd() -> list[Any]:
    if not debian.find():
        pytest.skip("chronyd is taken from Debian's archive")
    return programs.obtain("chronyd", CHRONYD, ROOT / ".work", Progress(live=False))


def settings(folder: Path) -> list[str]:
    """Arguments that keep chronyd away from this machine's user, files and ports."""
    user = pwd.getpwuid(os.getuid()).pw_name
    directives = [f"pidfile {folder}/pid", f"bindcmdaddress {folder}/socket", "cmdport 0"]
    return ["-U", "-u", user, "-f", "/dev/null", *directives]


@pytest.mark.parametrize("hours", [0, 8, -8])
def test_chronyd_measures_the_clock_that_the_server_shows(
    hours: int, chronyd: list[Any], tmp_path: Path
) -> None:
    with contextlib.closing(TimeServer()) as server:
        server.offset = hours * 3600
        # -Q measures once, and leaves this machine's clock alone (chronyd(8)).
        asked = run(
            [
                *chronyd, "-Q", "-t", "20", *settings(tmp_path),
                f"server 127.0.0.1 port {server.port} iburst maxsamples 4",
            ],
            timeout=60,
        )  # fmt: skip
    said = asked.stdout + asked.stderr
    found = re.search(r"System clock wrong by (-?[0-9.]+) seconds", said)
    assert found, said
    assert float(found[1]) == pytest.approx(hours * 3600, abs=0.5)


def waited(reached: Callable[[], bool], seconds: float) -> bool:
    """Whether reached becomes true within so many seconds."""
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def of_image(path: str) -> str:
    """What the images' drop-in at path says of steps."""
    lines = (ROOT / "mkosi.images/base" / path).read_text().splitlines()
    [makestep] = [line for line in lines if line.startswith("makestep")]
    return makestep


@pytest.mark.parametrize(
    ("makestep", "steps"),
    [
        pytest.param("makestep 1 3", False, id="Debian's and Amazon's own"),
        pytest.param(of_image("mkosi.debian/etc/chrony/conf.d/10-finch.conf"), True, id="debian"),
        pytest.param(of_image("mkosi.amazonlinux/etc/chrony.d/10-finch.conf"), True, id="amazon"),
    ],
)
def test_the_images_chronyd_steps_after_a_sleep(
    makestep: str, steps: bool, chronyd: list[Any], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with contextlib.closing(TimeServer()) as server, log.open("wb") as output:
        # With -x it cannot touch this machine's clock, and says so when it would (chronyd(8)).
        command = [
            *chronyd, "-x", "-d", *settings(tmp_path), makestep,
            f"server 127.0.0.1 port {server.port} iburst minpoll 0 maxpoll 0",
        ]  # fmt: skip
        with running(start(command, stdout=output, stderr=subprocess.STDOUT)):
            assert waited(lambda: server.answers > 12, 60), log.read_text()
            server.offset = 8 * 3600
            # It trusts the new time after six answers.
            wrong = re.compile(r"System clock wrong by (28799[.]9|28800[.]0)")
            is_known = waited(lambda: wrong.search(log.read_text()) is not None, 60)
            assert is_known, log.read_text()
            time.sleep(0.5)
            assert ("Could not step system clock" in log.read_text()) == steps
