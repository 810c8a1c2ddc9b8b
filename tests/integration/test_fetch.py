"""Downloads from a real server on loopback that misbehaves on demand."""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from scripts.system.errors import HarnessError
from scripts.system.fetch import DigestError, digest, fetch, read
from tests.integration.answers import (
    BODY,
    QUICK,
    SHA256,
    TRUNCATED,
    TRUNCATED_SHA256,
    Server,
    page,
    stalled,
    status,
    truncated,
    whole,
    whole_without_ranges,
)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "mkosi.tar.gz"


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_a_file_with_the_pinned_digest_arrives(serve: Callable[..., Server], target: Path) -> None:
    fetch(serve(whole).url, target, sha256=SHA256, settings=QUICK)
    assert target.read_bytes() == BODY
    assert leftovers(target) == []


def test_a_file_that_is_there_is_not_asked_for_again(
    serve: Callable[..., Server], target: Path
) -> None:
    server = serve(whole)
    fetch(server.url, target, sha256=SHA256, settings=QUICK)
    fetch(server.url, target, sha256=SHA256, settings=QUICK)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(
    serve: Callable[..., Server], target: Path, code: int
) -> None:
    server = serve(status(code), whole)
    fetch(server.url, target, sha256=SHA256, settings=QUICK)
    assert target.read_bytes() == BODY


def test_a_server_that_asks_for_an_hour_is_given_the_longest_pause(
    serve: Callable[..., Server], target: Path
) -> None:
    started = time.monotonic()
    fetch(serve(status(429, Retry_After="3600"), whole).url, target, sha256=SHA256, settings=QUICK)
    assert QUICK.longest_pause <= time.monotonic() - started < 1


def test_a_missing_file_is_reported_at_once_with_its_address(
    serve: Callable[..., Server], target: Path
) -> None:
    server = serve(status(404))
    with pytest.raises(HarnessError, match="404 Not Found") as caught:
        fetch(server.url, target, sha256=SHA256, settings=QUICK)
    assert server.url in caught.value.message
    assert len(server.ranges) == 1
    assert leftovers(target) == []


def test_a_server_that_stays_in_trouble_is_named_with_the_number_of_attempts(
    serve: Callable[..., Server], target: Path
) -> None:
    server = serve(status(500))
    with pytest.raises(HarnessError) as caught:
        fetch(server.url, target, sha256=SHA256, settings=QUICK)
    assert caught.value.message == (
        f"{server.url} cannot be downloaded: the server answers 500 Internal Server Error "
        "(3 attempts)"
    )
    assert len(server.ranges) == QUICK.attempts


def test_a_broken_transfer_goes_on_where_it_broke(
    serve: Callable[..., Server], target: Path
) -> None:
    server = serve(truncated, whole)
    fetch(server.url, target, sha256=SHA256, settings=QUICK)
    assert server.ranges == [None, "bytes=131072-"]
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_sends_all_of_it_again(
    serve: Callable[..., Server], target: Path
) -> None:
    server = serve(truncated, whole_without_ranges)
    fetch(server.url, target, sha256=SHA256, settings=QUICK)
    assert target.read_bytes() == BODY


def test_a_range_that_the_server_refuses_is_given_up(
    serve: Callable[..., Server], target: Path
) -> None:
    server = serve(truncated, status(416), whole)
    fetch(server.url, target, sha256=SHA256, settings=QUICK)
    assert server.ranges == [None, "bytes=131072-", None]
    assert target.read_bytes() == BODY


def test_a_transfer_that_stalls_is_taken_up_again(
    serve: Callable[..., Server], target: Path
) -> None:
    server = serve(stalled, whole)
    fetch(server.url, target, sha256=SHA256, settings=QUICK)
    assert target.read_bytes() == BODY


def test_a_server_that_only_stalls_is_reported_as_silent(
    serve: Callable[..., Server], target: Path
) -> None:
    server = serve(lambda _: time.sleep(1))
    with pytest.raises(HarnessError, match=r"nothing came for 0\.3 s"):
        fetch(server.url, target, sha256=SHA256, settings=QUICK)


def test_a_server_that_always_breaks_off_is_reported_with_the_cause(
    serve: Callable[..., Server], target: Path
) -> None:
    def broken(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "10")
        request.end_headers()

    with pytest.raises(HarnessError, match=r"the connection broke after 0 bytes \(3 attempts\)$"):
        fetch(serve(broken).url, target, sha256=SHA256, settings=QUICK)


def test_a_transfer_that_always_breaks_off_half_way_shows_both_digests(
    serve: Callable[..., Server], target: Path
) -> None:
    server = serve(truncated)
    with pytest.raises(HarnessError) as caught:
        fetch(server.url, target, sha256=SHA256, settings=QUICK)
    assert caught.value.message == (
        f"{server.url} cannot be downloaded: the connection broke after {TRUNCATED} bytes "
        f"(3 attempts); the {TRUNCATED} bytes that came have the sha256 {TRUNCATED_SHA256}, "
        f"but {SHA256} is pinned"
    )
    assert not target.exists()


def test_of_a_file_that_is_not_pinned_no_digest_is_said(serve: Callable[..., Server]) -> None:
    with pytest.raises(HarnessError, match=rf"broke after {TRUNCATED} bytes \(3 attempts\)$"):
        read(serve(truncated).url, settings=QUICK)


def test_a_wrong_digest_shows_both_and_leaves_what_was_there(
    serve: Callable[..., Server], target: Path
) -> None:
    target.parent.mkdir()
    target.write_text("the good one of yesterday")
    pinned = "0" * 64
    with pytest.raises(DigestError) as caught:
        fetch(serve(whole).url, target, sha256=pinned, settings=QUICK)
    assert pinned in caught.value.message
    assert SHA256 in caught.value.message
    assert target.read_text() == "the good one of yesterday"
    assert leftovers(target) == []


def test_a_portals_page_in_place_of_the_file_is_called_one(
    serve: Callable[..., Server], target: Path
) -> None:
    with pytest.raises(DigestError) as caught:
        fetch(serve(page).url, target, sha256=SHA256, settings=QUICK)
    assert "HTML page" in caught.value.hint
    assert not target.exists()


def test_no_server_at_all_is_one_sentence_with_address_and_cause(target: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        fetch("http://127.0.0.1:1/mkosi.tar.gz", target, sha256=SHA256, settings=QUICK)
    assert caught.value.message == (
        "http://127.0.0.1:1/mkosi.tar.gz cannot be downloaded: "
        "[Errno 111] Connection refused (3 attempts)"
    )


def test_a_name_that_does_not_resolve_is_reported(target: Path) -> None:
    with pytest.raises(HarnessError, match=r"resolve 'mkosi\.invalid'"):
        fetch("http://mkosi.invalid/x", target, sha256=SHA256, settings=QUICK)


def test_an_address_of_no_sense_is_reported_without_further_attempts(target: Path) -> None:
    with pytest.raises(HarnessError, match="cannot be downloaded"):
        fetch("mkosi.tar.gz", target, sha256=SHA256, settings=QUICK)


def test_a_folder_that_cannot_be_written_is_named(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(HarnessError, match="cannot be stored in"):
        fetch(serve(whole).url, tmp_path / "cache" / "x", sha256=SHA256, settings=QUICK)


def test_what_an_earlier_process_has_received_is_not_asked_for_again(
    serve: Callable[..., Server], target: Path
) -> None:
    with pytest.raises(HarnessError, match="nothing came"):
        fetch(serve(stalled, silent).url, target, sha256=SHA256, settings=QUICK)
    assert not target.exists()
    [part] = leftovers(target)
    assert part.endswith(".part")

    server = serve(whole)
    fetch(server.url, target, sha256=SHA256, settings=QUICK)
    assert server.ranges == ["bytes=131072-"]
    assert target.read_bytes() == BODY
    assert leftovers(target) == []


def silent(_: BaseHTTPRequestHandler) -> None:
    time.sleep(1)


def part_of(target: Path, content: bytes) -> Path:
    """Return what an earlier process has left of target."""
    part = target.with_name(f".{target.name}.{SHA256[:16]}.part")
    part.parent.mkdir()
    part.write_bytes(content)
    return part


def test_a_part_that_is_whole_needs_no_server(target: Path) -> None:
    part_of(target, BODY)
    fetch("http://127.0.0.1:1/mkosi.tar.gz", target, sha256=SHA256, settings=QUICK)

    assert target.read_bytes() == BODY
    assert leftovers(target) == []


@pytest.mark.parametrize("content", [b"x" * 1000, BODY + b"x"], ids=["another file's", "too long"])
def test_a_part_that_is_of_something_else_is_forgotten(
    serve: Callable[..., Server], target: Path, content: bytes
) -> None:
    part_of(target, content)
    answers = [whole] if len(content) < len(BODY) else [status(416), whole]
    fetch(serve(*answers).url, target, sha256=SHA256, settings=QUICK)

    assert target.read_bytes() == BODY
    assert leftovers(target) == []


def test_a_second_process_does_not_write_to_the_part_of_the_first(
    serve: Callable[..., Server], target: Path
) -> None:
    part = part_of(target, BODY[:100])
    with part.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        server = serve(whole)
        fetch(server.url, target, sha256=SHA256, settings=QUICK)

    assert server.ranges == [None]
    assert target.read_bytes() == BODY
    assert part.read_bytes() == BODY[:100]


def test_a_digest_is_that_of_the_whole_file_even_if_the_transfer_broke(
    serve: Callable[..., Server],
) -> None:
    server = serve(truncated, whole)
    found = digest(server.url, "sha512", settings=QUICK)
    assert found == hashlib.sha512(BODY).hexdigest()
    assert server.ranges == [None, f"bytes={TRUNCATED}-"]


def test_a_digest_begins_anew_where_the_server_sends_the_file_from_its_start(
    serve: Callable[..., Server],
) -> None:
    found = digest(serve(truncated, whole_without_ranges).url, "sha512", settings=QUICK)
    assert found == hashlib.sha512(BODY).hexdigest()


def test_a_file_without_end_has_no_digest(serve: Callable[..., Server]) -> None:
    with pytest.raises(HarnessError, match="is larger than"):
        digest(serve(whole).url, "sha512", settings=QUICK, limit=1000)
