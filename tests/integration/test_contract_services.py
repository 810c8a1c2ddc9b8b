"""The servers that scenarios run on the host, from Debian's packages."""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

import pytest

from scripts.contract import services
from scripts.contract.services import ADDRESS, Host, ReverseSshfs
from scripts.system.progress import Progress
from tests.publishing import WORK
from tests.unit.contract.tools import HostTools

# Plays sshfs: greets with SFTP's version 3, asks for the folder's real path, and notes the answer
# (draft-ietf-secsh-filexfer-02).
PLAYER = """
import struct, sys
def send(kind, rest):
    sys.stdout.buffer.write(struct.pack(">IB", len(rest) + 1, kind) + rest)
    sys.stdout.buffer.flush()
def read():
    [size] = struct.unpack(">I", sys.stdin.buffer.read(4))
    return sys.stdin.buffer.read(size)
send(1, struct.pack(">I", 3))
read()
path = sys.argv[1].encode()
send(16, struct.pack(">II", 1, len(path)) + path)
open(sys.argv[2], "wb").write(read())
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    work = tmp_path / ("a checkout deep in a home folder, " * 4)
    work.mkdir()
    return Host(work, WORK, Progress(live=False), HostTools(tmp_path, tmp_path))


def question(name: str) -> bytes:
    """A question for the IPv4 address of name (RFC 1035)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def by_udp(port: int, name: str) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(question(name), (ADDRESS, port))
        return client.recv(512)


def by_tcp(port: int, name: str) -> bytes:
    with socket.create_connection((ADDRESS, port), timeout=10) as client:
        asked = question(name)
        client.sendall(struct.pack(">H", len(asked)) + asked)
        stream = client.makefile("rb")
        [size] = struct.unpack(">H", stream.read(2))
        return stream.read(size)


@pytest.mark.parametrize("ask", [by_udp, by_tcp])
def test_the_resolver_knows_its_names_and_no_other(host: Host, ask: object) -> None:
    assert callable(ask)
    with services.dns(host) as offer:
        port = int(offer.environment["DNS_PORT"])
        for name, address in services.NAMES.items():
            assert ask(port, name).endswith(socket.inet_aton(address))
        assert ask(port, "example.com")[3] & 15 == 3  # NXDOMAIN


def test_virtiofsd_answers_again_after_qemu_has_gone(host: Host) -> None:
    # GET_FEATURES of vhost-user: request 1, version 1, no payload.
    asked = struct.pack("<III", 1, 1, 0)
    with services.virtiofs(host) as offer:
        assert set(offer.sockets) == set(services.TAGS["virtiofs"])
        for path in [*offer.sockets.values()] * 2:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(str(path))
                client.sendall(asked)
                assert struct.unpack("<III", client.recv(12))[0] == 1


def test_sshfs_and_the_sftp_server_hear_each_other_through_the_session(
    host: Host, tmp_path: Path
) -> None:
    with services.sftp(host) as offer:
        shares = offer.control
        assert isinstance(shares, ReverseSshfs)
        folder, noted = shares.folders["sftp-0"], tmp_path / "noted"
        remotes = []

        def login(remote: str) -> list[str]:
            remotes.append(remote)
            return [sys.executable, "-c", PLAYER, str(folder / "deep er/.."), str(noted)]

        mounting = shares.mount(login, "sftp-0", "/mnt/a blank")
        mounting.session.wait(timeout=30)

    assert remotes == [f"sshfs ':{folder}' '/mnt/a blank' -o slave -o allow_other"]
    assert str(folder).encode() in noted.read_bytes()
