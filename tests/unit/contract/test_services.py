"""The host's side of a scenario: its clock, its servers, and the folders it shares."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.contract import services
from scripts.contract.actions import ACTIONS
from scripts.contract.ntp import UNIX_EPOCH, TimeServer
from scripts.contract.scenario import read_all
from scripts.contract.services import ADDRESS, Host, Mounting
from scripts.distributions import programs
from scripts.mkosi.sandbox import Tools
from scripts.system.errors import MachineError
from scripts.system.progress import Progress

# As chrony sends it: version 4, mode 3, and a transmit timestamp.
QUESTION = bytes([0b00_100_011]) + bytes(39) + b"question"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path, tmp_path / "kept", Progress(live=False), Tools(tmp_path, tmp_path))


def asked_time(port: int) -> tuple[bytes, float]:
    """The answer of a time server, and how far its clock is ahead of ours, in seconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(b"too short", (ADDRESS, port))
        client.sendto(QUESTION, (ADDRESS, port))
        answer = client.recv(512)
    [sent] = struct.unpack(">Q", answer[40:48])
    return answer, sent / 2**32 - UNIX_EPOCH - time.time()


def test_the_clock_tells_the_time_until_it_is_shifted(host: Host) -> None:
    with services.clock(host) as offer:
        port = int(offer.environment["TIME_PORT"])
        answer, ahead = asked_time(port)
        assert len(answer) == 48
        assert answer[24:32] == b"question"
        assert answer[0] & 7 == 4
        assert abs(ahead) < 5

        assert isinstance(offer.control, TimeServer)
        offer.control.offset = -8 * 3600
        assert abs(asked_time(port)[1] + 8 * 3600) < 5


def test_a_server_that_ends_is_started_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    command = ["sh", "-c", f"echo started >>{starts}; exec sleep 0.1"]
    with services._kept_up(command, tmp_path / "server.log", starts.exists):
        limit = time.monotonic() + 20
        while starts.read_text().count("started") < 3 and time.monotonic() < limit:
            time.sleep(0.05)
        assert starts.read_text().count("started") >= 3

    count = starts.read_text().count("started")
    time.sleep(0.5)
    assert starts.read_text().count("started") == count


def test_a_server_that_does_not_come_up_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "READY", 0.5)
    command = ["sh", "-c", "echo the address is taken >&2; exit 1"]
    with (
        pytest.raises(MachineError, match="server did not start: the address is taken"),
        services._kept_up(command, tmp_path / "server.log", lambda: False),
    ):
        pass


def test_a_mount_that_fails_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for said, reason in (("fuse: unknown option\n", "fuse: unknown option"), ("", "status 1")):
        log.write_text(said)
        session = subprocess.Popen([sys.executable, "-c", "exit(1)"])
        session.wait()
        assert Mounting(session, log).failure().endswith(reason)


def test_a_mount_that_lasts_has_not_failed(tmp_path: Path) -> None:
    session = subprocess.Popen(["sleep", "60"])
    try:
        assert Mounting(session, tmp_path / "log").failure() == ""
    finally:
        session.kill()
        session.wait()


def test_a_shared_folder_holds_files_and_a_path_with_a_blank(host: Host) -> None:
    with services.plan9(host) as offer:
        [folder] = offer.folders.values()
        assert (folder / "deep er/said").read_text() == services.SAID
        ran = subprocess.run([folder / "run"], text=True, capture_output=True, check=True)
        assert ran.stdout == "it ran\n"


def test_the_package_of_a_program_comes_with_it() -> None:
    table = programs.read(Path(services.__file__).with_name("programs.toml"))
    packages = {"sftp-server": "openssh-sftp-server", "dnsmasq": "dnsmasq-base"}
    for name, source in table.items():
        assert packages.get(name, name) in source.packages
        assert source.path.rpartition("/")[2] == name


def test_every_mount_of_a_scenario_is_shared_by_one_of_its_services(checkout: Path) -> None:
    for scenario in read_all(checkout / "tests/contract", tuple(ACTIONS)):
        assert set(scenario.services) <= services.SERVICES.keys(), scenario.name
        shared = {tag for name in scenario.services for tag in services.TAGS.get(name, ())}
        mounts = scenario.seed.get("mounts", [])
        assert {mount["tag"] for mount in mounts} <= shared, scenario.name
