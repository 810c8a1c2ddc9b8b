"""What a server, a proxy or another user of this machine may try with a download."""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from scripts.catalog import ROOT
from scripts.system.errors import HarnessError
from scripts.system.fetch import Settings, fetch, read
from scripts.system.redirects import is_local
from scripts.system.url import Url
from tests.unit.asking import Answer, Server, basic, says

QUICK = Settings(attempts=2, pause=0.01, longest_pause=0.05, connect=2, stall=2)
SHA256 = hashlib.sha256(b"right").hexdigest()


@pytest.fixture(name="servers")
def _servers() -> Iterator[tuple[Server, Server]]:
    """Two servers; to credentials they are two hosts, because their ports differ."""
    servers = Server(), Server()
    with servers[0].running(), servers[1].running():
        yield servers


@pytest.fixture(name="server")
def _server(servers: tuple[Server, Server]) -> Server:
    return servers[0]


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(bytes(1 << 16))


def redirects(to: str) -> Answer:
    return says(b"", 302, Location=to)


def test_a_body_without_end_is_given_up_at_the_limit(server: Server) -> None:
    server.answers["/x"] = endless
    with pytest.raises(HarnessError, match="it is larger than 1 MB"):
        read(f"{server.url}/x", settings=QUICK, limit=1_000_000)
    assert len(server.asked) == 1


def test_a_file_without_end_fills_no_disk(server: Server, tmp_path: Path) -> None:
    server.answers["/x"] = endless
    with pytest.raises(HarnessError, match="it is larger than 1 MB"):
        fetch(f"{server.url}/x", tmp_path / "x", sha256=SHA256, settings=QUICK, limit=1_000_000)
    assert list(tmp_path.iterdir()) == []


def test_a_length_above_the_limit_is_refused_before_the_body(server: Server) -> None:
    server.answers["/x"] = says(b"right", Content_Length="99999999999")
    with pytest.raises(HarnessError, match="it is larger than 17 MB"):
        read(f"{server.url}/x", settings=QUICK)


def test_a_bomb_of_compressed_zeros_counts_as_what_it_unpacks_to(server: Server) -> None:
    body = gzip.compress(bytes(64 << 20))
    server.answers["/x"] = says(body, Content_Encoding="gzip")
    with pytest.raises(HarnessError, match="it is larger than 17 MB"):
        read(f"{server.url}/x", settings=QUICK)


# urllib3 leaves the socket of an answer with a header that it refuses to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("length", ["2", "-1", "abc", "5, 6", "9" * 5000, "²", "500"])
def test_a_length_that_lies_harms_nobody(server: Server, tmp_path: Path, length: str) -> None:
    server.answers["/x"] = says(b"right", Content_Length=length.encode().decode("latin-1"))
    with contextlib.suppress(HarnessError):
        fetch(f"{server.url}/x", tmp_path / "x", sha256=SHA256, settings=QUICK)
        assert (tmp_path / "x").read_bytes() == b"right"
        return
    gc.collect()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("pause", ["9" * 5000, "-1", "²", "1e9"])
def test_a_server_cannot_make_us_wait_for_long(server: Server, pause: str) -> None:
    server.answers["/x"] = says(b"", 503, Retry_After=pause.encode().decode("latin-1"))
    with pytest.raises(HarnessError, match="503"):
        read(f"{server.url}/x", settings=QUICK)


@pytest.mark.parametrize("status", [404, 401, 500, 418])
def test_a_reason_phrase_that_draws_on_the_terminal_is_written_out(
    server: Server, status: int
) -> None:
    server.answers["/x"] = says(b"", status, reason="\x1b[2J\x9b1mall \x85 good" + "A" * 5000)
    with pytest.raises(HarnessError) as caught:
        read(f"{server.url}/x", settings=QUICK)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


def test_a_password_in_the_url_reaches_the_server_and_no_message(server: Server) -> None:
    server.answers["/x"] = says(b"", 404)
    url = Url.parse(server.url.replace("//", "//me:p%40MARK%C3%A4@") + "/x")
    with pytest.raises(HarnessError) as caught:
        read(url, settings=QUICK)
    assert server.asked == [("/x", basic("me", "p@MARKä"))]
    assert "MARK" not in repr(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "http://me:MARK@127.0.0.1:1/x?token=MARK",
        "http://me:MARK@127.0.0.1:99999/x",
        "http://me:MARK@[x/",
        "http://me:MARK@nowhere.invalid/x?sig=MARK",
        "gopher://me:MARK@127.0.0.1/",
        "http://me:MA/RKMARK@127.0.0.1:x/",
    ],
)
@pytest.mark.parametrize("proxy", ["", "http://you:MARK@127.0.0.1:1", "http://you:MA[RK@MARK"])
def test_whatever_fails_names_no_secret(
    url: str, proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    for attempt in (
        lambda: read(url, settings=QUICK),
        lambda: fetch(url, tmp_path / "x", sha256=SHA256, settings=QUICK),
    ):
        with pytest.raises(HarnessError) as caught:
            attempt()
        assert "MARK" not in caught.value.message + caught.value.hint


def test_a_redirect_to_another_server_takes_no_password_along(
    servers: tuple[Server, Server],
) -> None:
    first, second = servers
    first.answers["/x"] = redirects(f"{second.url}/x")
    second.answers["/x"] = says(b"right")
    assert read(first.url.replace("//", "//me:MARK@") + "/x", settings=QUICK) == b"right"
    assert read(f"{first.url}/x", headers={"Authorization": "Bearer MARK"}) == b"right"
    assert [auth for _, auth in first.asked] == [basic("me", "MARK"), "Bearer MARK"]
    assert [auth for _, auth in second.asked] == ["", ""]


def test_a_redirect_on_the_same_server_keeps_the_password(server: Server) -> None:
    server.answers |= {"/x": redirects("/y"), "/y": says(b"right")}
    assert read(server.url.replace("//", "//me:MARK@") + "/x", settings=QUICK) == b"right"
    assert [auth for _, auth in server.asked] == [basic("me", "MARK")] * 2


@pytest.mark.parametrize("entry", ["machine localhost", "default"])
def test_a_redirect_gets_nothing_out_of_netrc(
    servers: tuple[Server, Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    entry: str,
) -> None:
    (tmp_path / ".netrc").write_text(f"{entry} login me password MARK\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    first, second = servers
    first.answers["/x"] = redirects(f"http://localhost:{second.port}/x")
    second.answers["/x"] = says(b"right")
    assert read(f"{first.url}/x", settings=QUICK) == b"right"
    assert [auth for _, auth in second.asked] == [""]


def test_netrc_does_not_replace_the_password_in_a_url(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("default login other password other\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    server.answers["/x"] = says(b"right")
    read(server.url.replace("//", "//me:MARK@") + "/x", settings=QUICK)
    read(f"{server.url}/x", headers={"Authorization": "Bearer token"}, settings=QUICK)
    assert [auth for _, auth in server.asked] == [basic("me", "MARK"), "Bearer token"]


def test_redirects_without_end_are_given_up(server: Server) -> None:
    server.answers["/x"] = redirects("/x")
    with pytest.raises(HarnessError, match="redirects"):
        read(f"{server.url}/x", settings=QUICK)
    assert len(server.asked) == 11


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/", "//", "http://[", "\\\\x"]
)
def test_a_redirect_to_what_is_no_web_server_is_an_error(server: Server, to: str) -> None:
    server.answers |= {"/x": redirects(to), "//": says(b"", 404), "/%5C%5Cx": says(b"", 404)}
    with pytest.raises(HarnessError, match="cannot be downloaded"):
        read(f"{server.url}/x", settings=QUICK)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.8.8.8", "127.1", "0x7f.1", "2130706433", "0.0.0.0", "::1", "::",
        "::ffff:127.0.0.1", "169.254.169.254", "::ffff:169.254.169.254", "fe80::1%eth0",
        "fd00:ec2::254", "localhost", "LOCALHOST.", "a.localhost", "127.0.0.1.", "::127.0.0.1",
        "64:ff9b::169.254.169.254", "::ffff:0:127.0.0.1", "2002:7f00:1::", "ip6-localhost",
        "localhost.localdomain",
    ],
)  # fmt: skip
def test_every_form_of_this_machines_address_is_known(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "203.0.113.9", "2001:db8::1", "cdn.test", "localhost.cdn.test", ""]
)
def test_other_machines_are_not_this_one(host: str) -> None:
    assert not is_local(host)


# Two servers in a network of their own: one at the address of another machine, one on loopback.
NETWORK = """\
ip link set lo up && ip addr add 203.0.113.9/32 dev lo && ip addr add 169.254.169.254/32 dev lo &&
exec "$@"
"""
REMOTE = """\
import http.server, sys, threading
from scripts.system.fetch import Settings, read
from scripts.system.errors import HarnessError

target, sent, proxied = sys.argv[1:]
asked = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append((self.server.server_address[0], self.path))
        is_first = self.path.endswith("/first")
        self.send_response(302 if is_first else 200)
        if is_first:
            self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

def serve(address, port):
    server = http.server.ThreadingHTTPServer((address, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

serve("203.0.113.9", 8000)
serve("127.0.0.1", 8001)
serve("169.254.169.254", 8001)
try:
    host = "elsewhere.test" if proxied else "203.0.113.9:8000"
    url = target if sent else f"http://{host}/first"
    read(url, settings=Settings(attempts=1, connect=2, stall=2), sent=bool(sent))
    print("followed")
except HarnessError as error:
    print(error.message)
print([where for where, path in asked if not path.endswith("/first")])
"""


@pytest.fixture(name="remote")
def _remote(tmp_path: Path) -> Callable[..., str]:
    """Follow a redirect from another machine to a target, in a network of its own."""
    (tmp_path / "remote.py").write_text(REMOTE)
    command = ["unshare", "-rn", "sh", "-c", NETWORK, "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here")

    def follow(target: str, *, sent: str = "", proxied: str = "") -> str:
        proxy = {"http_proxy": "http://127.0.0.1:8001"} if proxied else {}
        return subprocess.run(
            [*command, sys.executable, tmp_path / "remote.py", target, sent, proxied],
            env={**os.environ, "PYTHONPATH": os.fspath(ROOT), **proxy},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    return follow


LOCAL_TARGETS = ["http://127.0.0.1:8001/", "http://localhost:8001/", "http://169.254.169.254:8001/"]


@pytest.mark.parametrize("target", [*LOCAL_TARGETS, "http://0.0.0.0:8001/", "http://127.1:8001/"])
def test_another_machine_cannot_redirect_us_to_this_one(
    remote: Callable[..., str], target: str
) -> None:
    said = remote(target)
    assert "which only this machine can reach" in said
    assert said.endswith("[]\n")


@pytest.mark.parametrize("target", LOCAL_TARGETS)
def test_an_address_that_another_machine_sends_does_not_lead_to_this_one(
    remote: Callable[..., str], target: str
) -> None:
    assert "which only this machine can reach" in remote(target, sent="yes")


@pytest.mark.parametrize("target", LOCAL_TARGETS)
def test_nor_can_it_through_a_proxy(remote: Callable[..., str], target: str) -> None:
    said = remote(target, proxied="yes")
    assert "which only this machine can reach" in said
    assert said.endswith("[]\n")


def test_another_machine_can_redirect_us_to_itself(remote: Callable[..., str]) -> None:
    assert remote("http://203.0.113.9:8000/x").startswith("followed")


@pytest.fixture(name="victim")
def _victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def part_of(destination: Path) -> Path:
    return destination.with_name(f".{destination.name}.{SHA256[:16]}.part")


@pytest.mark.parametrize("plant", ["symlink_to", "hardlink_to"])
def test_a_link_planted_as_a_part_changes_no_other_file(
    server: Server, tmp_path: Path, victim: Path, plant: str
) -> None:
    server.answers["/x"] = says(b"right")
    getattr(part_of(tmp_path / "x"), plant)(victim)
    fetch(f"{server.url}/x", tmp_path / "x", sha256=SHA256, settings=QUICK)

    assert victim.read_text() == "precious"
    assert (tmp_path / "x").read_bytes() == b"right"
    assert not (tmp_path / "x").is_symlink()


def test_a_pipe_planted_as_a_part_is_not_waited_for(server: Server, tmp_path: Path) -> None:
    server.answers["/x"] = says(b"right")
    os.mkfifo(part_of(tmp_path / "x"))
    fetch(f"{server.url}/x", tmp_path / "x", sha256=SHA256, settings=QUICK)
    assert (tmp_path / "x").read_bytes() == b"right"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_part_of_another_user_is_not_used(server: Server, tmp_path: Path) -> None:
    server.answers["/x"] = says(b"right")
    part_of(tmp_path / "x").write_bytes(b"ri")
    os.chown(part_of(tmp_path / "x"), 65534, 65534)
    fetch(f"{server.url}/x", tmp_path / "x", sha256=SHA256, settings=QUICK)
    assert (tmp_path / "x").stat().st_uid == 0


def test_a_link_in_the_place_of_the_file_is_replaced(
    server: Server, tmp_path: Path, victim: Path
) -> None:
    server.answers["/x"] = says(b"right")
    (tmp_path / "x").symlink_to(victim)
    fetch(f"{server.url}/x", tmp_path / "x", sha256=SHA256, settings=QUICK)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "x").is_symlink()


@pytest.mark.parametrize(
    "to", ["http://you:MARK@127.0.0.1:99999/x", "http://[MARK\x1b[2J", "gopher://\x9b2JMARK@x/"]
)
def test_what_a_redirect_is_about_is_shown_without_its_tricks(server: Server, to: str) -> None:
    server.answers["/x"] = redirects(to)
    with pytest.raises(HarnessError) as caught:
        read(f"{server.url}/x", settings=QUICK)
    assert caught.value.message.isprintable()
    assert "MARK@" not in caught.value.message


def test_a_redirect_from_https_to_http_is_refused(
    servers: tuple[Server, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", key, "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    secure, plain = servers
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure.http.socket = context.wrap_socket(secure.http.socket, server_side=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    secure.answers |= {"/x": redirects(f"{plain.url}/x"), "/y": redirects("/z"), "/z": says(b"ok")}
    plain.answers["/x"] = says(b"wrong")
    url = f"https://localhost:{secure.port}"

    assert read(f"{url}/y", settings=QUICK) == b"ok"
    with pytest.raises(HarnessError, match="it redirects from https to http"):
        read(f"{url}/x", settings=QUICK)
    assert plain.asked == []


@pytest.mark.parametrize("address", ["::8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::", "2600::1"])
def test_an_address_that_leads_elsewhere_is_not_this_machines(address: str) -> None:
    assert not is_local(address)


def test_a_redirect_with_a_body_without_end_is_followed_without_reading_it(server: Server) -> None:
    sent = 0

    def endless_redirect(request: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        request.send_response(302)
        request.send_header("Location", "/y")
        request.end_headers()
        while sent < 256 << 20:
            request.wfile.write(bytes(1 << 16))
            sent += 1 << 16

    server.answers |= {"/x": endless_redirect, "/y": says(b"right")}
    assert read(f"{server.url}/x", settings=QUICK) == b"right"
    assert sent < 64 << 20
