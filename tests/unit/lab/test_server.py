"""The lab's server: what it shows, and how it fails on demand."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.repository import ORIGIN
from tests.lab.server import Fault, Kind, LabServer

GUID = "a" * 64
MIRROR_LIST = "core/mirrors/latest/x86_64/mirror.list"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[LabServer]:
    base = tmp_path / "www/al2023"
    path = base / MIRROR_LIST
    path.parent.mkdir(parents=True)
    path.write_text(f"{ORIGIN}/al2023/core/guids/{GUID}/x86_64/\n")
    (base / "package.rpm").write_bytes(b"0123456789")
    (tmp_path / "secret").touch()
    with LabServer(tmp_path / "www") as server:
        yield server


def get(lab: LabServer, path: str) -> bytes:
    with urllib.request.urlopen(f"{lab.mirror}/{path}", timeout=5) as answer:
        body: bytes = answer.read()
    return body


def test_a_list_of_mirrors_names_this_server(lab: LabServer) -> None:
    expected = f"{lab.mirror}/core/guids/{GUID}/x86_64/\n"
    assert get(lab, MIRROR_LIST).decode() == expected


def test_what_is_not_there_is_not_found(lab: LabServer) -> None:
    for path in ("absent", "../../secret", "%2e%2e/%2e%2e/secret"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(lab, path)


@pytest.mark.parametrize(("kind", "status"), [(Kind.NOT_FOUND, "404"), (Kind.UNAVAILABLE, "503")])
def test_an_error_lasts_as_long_as_it_is_told(lab: LabServer, kind: Kind, status: str) -> None:
    with lab.broken(Fault(kind, r"\.rpm$", times=1)):
        with pytest.raises(urllib.error.HTTPError, match=status):
            get(lab, "package.rpm")
        assert get(lab, "package.rpm") == b"0123456789"


def test_half_an_answer_is_seen_as_such(lab: LabServer) -> None:
    with (
        lab.broken(Fault(Kind.TRUNCATED, "package")),
        pytest.raises(http.client.IncompleteRead),
    ):
        get(lab, "package.rpm")


def test_a_wrong_digest_is_of_the_same_size(lab: LabServer) -> None:
    with lab.broken(Fault(Kind.WRONG_DIGEST, "package")):
        body = get(lab, "package.rpm")
    assert len(body) == 10
    assert body != b"0123456789"


def test_a_server_that_stalls_answers_half_and_nothing_more(lab: LabServer) -> None:
    with lab.broken(Fault(Kind.STALL, "package")), pytest.raises(TimeoutError):
        urllib.request.urlopen(f"{lab.mirror}/package.rpm", timeout=0.3).read()


def test_a_stale_list_names_another_repository(lab: LabServer) -> None:
    with lab.broken(Fault(Kind.STALE, "mirror.list", instead="b" * 64)):
        assert b"/guids/" + b"b" * 64 + b"/" in get(lab, MIRROR_LIST)
    assert GUID.encode() in get(lab, MIRROR_LIST)


def test_requests_are_remembered(lab: LabServer) -> None:
    get(lab, "package.rpm")
    assert lab.requests == ["/al2023/package.rpm"]
