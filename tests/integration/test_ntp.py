"""The time server for guests, asked by Debian's chronyd, which guests run too."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest

from scripts.catalog import ROOT
from scripts.contract.ntp import TimeServer
from scripts.distributions import debian, programs
from scripts.distributions.programs import Source
from scripts.system.process import run
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


@pytest.mark.parametrize("hours", [0, 8, -8])
def test_chronyd_measures_the_clock_that_the_server_shows(
    hours: int, chronyd: list[Any], tmp_path: Path
) -> None:
    with contextlib.closing(TimeServer()) as server:
        server.offset = hours * 3600
        # -Q measures once, and leaves this machine's clock alone (chronyd(8)).
        asked = run(
            [
                *chronyd, "-Q", "-U", "-u", "root", "-t", "20", "-f", "/dev/null",
                f"pidfile {tmp_path}/chronyd.pid",
                f"server 127.0.0.1 port {server.port} iburst maxsamples 4",
            ],
            timeout=60,
        )  # fmt: skip
    said = asked.stdout + asked.stderr
    found = re.search(r"System clock wrong by (-?[0-9.]+) seconds", said)
    assert found, said
    assert float(found[1]) == pytest.approx(hours * 3600, abs=0.5)
