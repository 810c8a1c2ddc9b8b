"""The time server that moves the host's clock for a guest, asked with packets made by hand."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from scripts.contract import ntp
from scripts.contract.ntp import TimeServer

# From RFC 5905: eight bytes of leap, version, mode, stratum, poll, precision and root delay come
# before the rest. A client of version 4 sends 0x23 (no leap, version 4, mode 3).
COOKIE = 0x0123_4567_89AB_CDEF


def request(first: int = 0x23, *, poll: int = 6) -> bytes:
    return struct.pack("!BBbb", first, 0, poll, 32) + bytes(36) + struct.pack("!Q", COOKIE)


def ask(server: TimeServer, *packets: bytes) -> bytes:
    """The first answer to packets, which the server reads in this order."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        for packet in packets:
            client.sendto(packet, ("127.0.0.1", server.port))
        return client.recv(1024)


def seconds(answer: bytes, position: int) -> float:
    """The timestamp at position of a packet, in seconds since Unix's epoch."""
    whole, fraction = struct.unpack_from("!II", answer, position)
    return float(whole - 2_208_988_800 + fraction / 2**32)


@pytest.fixture
def server() -> Iterator[TimeServer]:
    server = TimeServer()
    try:
        yield server
    finally:
        server.close()


def test_a_client_gets_its_own_timestamp_back_from_a_primary_server(server: TimeServer) -> None:
    answer = ask(server, request(poll=3))
    assert len(answer) == 48
    assert answer[0] == 0x24, "no leap second, version 4, mode 4 (server)"
    assert answer[1] == 1, "stratum"
    assert answer[2] == 3, "the client's poll"
    assert struct.unpack_from("!Q", answer, 24) == (COOKIE,)


def test_the_server_s_clock_is_this_machine_s(server: TimeServer) -> None:
    before = time.time()
    answer = ask(server, request())
    received, sent = seconds(answer, 32), seconds(answer, 40)
    # 2^-32 s is less than the float's own 2^-22 s at this size.
    assert before - 1e-6 <= received <= sent <= time.time() + 1e-6


@pytest.mark.parametrize("hours", [8, -8])
def test_the_clock_can_be_moved_while_the_server_runs(server: TimeServer, hours: int) -> None:
    server.offset = hours * 3600
    assert seconds(ask(server, request()), 40) == pytest.approx(time.time() + hours * 3600, abs=2)


def test_an_older_version_is_answered_as_that_version(server: TimeServer) -> None:
    assert ask(server, request(0x1B))[0] == 0x1C


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="empty"),
        pytest.param(request()[:47], id="too short"),
        pytest.param(request(0x24), id="another server's answer"),
        pytest.param(request(0x26), id="a control message"),
        pytest.param(request(0x2B), id="version 5"),
    ],
)
def test_what_is_no_client_s_request_is_not_answered(server: TimeServer, packet: bytes) -> None:
    assert ask(server, packet, request(poll=9))[2] == 9
    assert server.answers == 1


def test_a_request_with_extension_fields_is_answered_without(server: TimeServer) -> None:
    assert len(ask(server, request() + bytes(28))) == 48


def test_timestamps_go_on_after_the_second_era_begins() -> None:
    # RFC 5905, section 6: era 1 begins on 7 February 2036 at 06:28:16.
    assert ntp.timestamp(2_085_978_496.5) == 1 << 31


def test_a_closed_server_frees_its_port() -> None:
    server = TimeServer()
    port = server.port
    server.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", port))
