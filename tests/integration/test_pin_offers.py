"""Builds from a checkout whose pin lacks a digest, with a terminal and without.

The servers are one on loopback, with a certificate of a CA that only these processes trust. Their
addresses are in the checkout's pins, as GitHub's are in ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import select
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts.catalog import DISTRIBUTIONS
from scripts.stages import places
from scripts.system.errors import UsageError
from tests.e2e.checkout import environ

FILES = {arch: f"tool for {arch}\n".encode() for arch in ("amd64", "arm64")}
SHA256 = {arch: hashlib.sha256(data).hexdigest() for arch, data in FILES.items()}
LIST = "".join(f"{digest}  tool-{arch}\n" for arch, digest in SHA256.items())
QUESTION = b"Pin tool now and continue? [y/N] "

PINS = """\
# This comment stays.
[tool]
version = "1.2"
url = "{url}/v{{version}}/tool-{{debian}}"
path = "/usr/bin/tool"
releases = "{url}/releases/latest"
checksums = "{url}/v{{version}}/sums"

[tool.sha256]
x86_64 = "{x86_64}"
aarch64 = ""
"""


@dataclass
class Web:
    """A server's files by path, its redirects, and what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None) -> Iterator[Web]:
    """Serve on loopback, over TLS if there is a context."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append(self.path)
            body, target = web.files.get(self.path), web.redirects.get(self.path)
            self.send_response(302 if target else 404 if body is None else 200)
            if target:
                self.send_header("Location", target)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        if context:
            httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
        web.url = f"{'https' if context else 'http'}://localhost:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield web
        finally:
            httpd.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, and key.pem and cert.pem of a server that the CA vouches for."""
    folder = tmp_path_factory.mktemp("authority")
    new = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    for command in (
        ("req", "-x509", *new, "-subj", "/CN=a test", "-keyout", "ca.key", "-out", "ca.pem"),
        ("req", "-x509", *new, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-addext", "basicConstraints=critical,CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key",
         "-keyout", "key.pem", "-out", "cert.pem"),
    ):  # fmt: skip
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def web(authority: Path) -> Iterator[Web]:
    """A server with the tool's newest release, its checksums, and a mirror of Amazon Linux."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "cert.pem", authority / "key.pem")
    with serving(context) as web:
        publish(web)
        yield web


def publish(web: Web) -> None:
    web.files["/releases/latest"] = json.dumps({"tag_name": "v1.2"}).encode()
    web.files["/v1.2/sums"] = LIST.encode()
    for arch, data in FILES.items():
        web.files[f"/v1.2/tool-{arch}"] = data


@dataclass(frozen=True)
class Checkout:
    """A copy of what a session reads of the checkout, with pins of its own."""

    root: Path
    ca: Path
    arguments: tuple[str, ...]

    @property
    def pins(self) -> str:
        return (self.root / "third-party/pins.toml").read_text()

    def run(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the packages session without a terminal."""
        return subprocess.run(
            self.command(*argv), cwd=self.root, env=self.environ(**variables),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def command(self, *argv: str) -> list[str]:
        session = [sys.executable, "-m", "scripts.sessions.packages", "--arch", "aarch64"]
        return [*session, *self.arguments, *argv]

    def environ(self, **variables: str) -> dict[str, str]:
        """Return the variables of a person's shell that trusts the CA."""
        kept = {name: value for name, value in environ().items() if name != "CI"}
        own = {"REQUESTS_CA_BUNDLE": os.fspath(self.ca), "no_proxy": "localhost", "TERM": "dumb"}
        return {**kept, **own, **variables}


@pytest.fixture
def copied(checkout: Path, tmp_path: Path, web: Web, authority: Path) -> Checkout:
    return make(checkout, tmp_path, web, authority)


def make(checkout: Path, folder: Path, web: Web, authority: Path) -> Checkout:
    """Copy the checkout to folder, with its only pin and its mirror on web."""
    root = folder / "checkout"
    names = ("scripts", "al2023-package-build", "binfmt", "mkosi", "mkosi.conf.d", "mkosi.images",
             "mkosi.profiles")  # fmt: skip
    for name in names:
        if (checkout / name).exists():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(checkout / name, root / name, ignore=unwanted, symlinks=True)
    shutil.copy(checkout / "mkosi.conf", root)
    (root / "third-party").mkdir()
    text = PINS.format(url=web.url, x86_64=SHA256["amd64"])
    (root / "third-party/pins.toml").write_text(text)
    release = places.release_of(root, DISTRIBUTIONS["amazonlinux"])
    web.files[f"/core/mirrors/{release}/aarch64/mirror.list"] = b"http://a.test/"
    arguments = ("--without-packages", "--allow-missing", "fuse-sshfs", "--mirror", web.url)
    return Checkout(root, authority / "ca.pem", arguments)


def answer(copied: Checkout, typed: bytes, *argv: str, **variables: str) -> tuple[int, str]:
    """Run the session in a terminal, type an answer to its question; return status and output."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        copied.command(*argv), cwd=copied.root, env=copied.environ(**variables),
        stdin=child, stdout=child, stderr=child, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(child)
        said, is_asked, deadline = b"", False, time.monotonic() + 60
        while chunk := _read(parent, deadline):
            said += chunk
            if not is_asked and QUESTION in said:
                is_asked = True
                os.write(parent, typed)
        os.close(parent)
    assert said.count(QUESTION) <= 1
    return process.returncode, said.decode(errors="replace").replace("\r\n", "\n")


def _read(terminal: int, deadline: float) -> bytes:
    """Return what comes next, b"" once the terminal's last process has ended."""
    ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
    assert ready, "nothing came for a minute"
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def test_a_yes_pins_the_digest_and_the_build_goes_on(copied: Checkout, web: Web) -> None:
    before = copied.pins
    status, said = answer(copied, b"y\n")

    assert status == 0, said
    assert f"but {web.url}/v1.2/sums lists the sha256 of tool 1.2" in " ".join(said.split())
    assert copied.pins == before.replace('aarch64 = ""', f'aarch64 = "{SHA256["arm64"]}"')
    assert "/v1.2/tool-arm64" in web.asked
    status, said = answer(copied, b"")
    assert (status, QUESTION.decode() in said) == (0, False)


@pytest.mark.parametrize(
    "typed",
    [b"\n", b"n\n", b"\x04", b"y\xff\n"],
    ids=["enter", "no", "Ctrl-D", "bytes"],
)
def test_anything_else_pins_nothing_and_ends_as_without_a_question(
    copied: Checkout, web: Web, typed: bytes
) -> None:
    before = copied.pins
    status, said = answer(copied, typed, PYTHONIOENCODING="utf-8:strict")

    assert status == UsageError.exit_code, said
    assert "tool 1.2 cannot be verified" in said
    assert "./nox -s update-pins -- tool` adds it" in said
    assert copied.pins == before
    assert "/v1.2/tool-arm64" not in web.asked


def test_without_a_terminal_nothing_is_asked_and_the_command_is_named(copied: Checkout) -> None:
    before = copied.pins
    done = copied.run()

    assert done.returncode == UsageError.exit_code
    assert "/v1.2/sums lists the sha256 of tool 1.2; `./nox -s update-pins -- tool`" in done.stderr
    assert "Traceback" not in done.stderr
    assert QUESTION.decode() not in done.stdout + done.stderr
    assert copied.pins == before


@pytest.mark.parametrize("argv", [["--offline"], []], ids=["offline", "in CI"])
def test_ci_and_a_build_without_a_network_ask_nobody(
    copied: Checkout, web: Web, argv: list[str]
) -> None:
    before = copied.pins
    status, said = answer(copied, b"", *argv, **({} if argv else {"CI": "1"}))

    assert status == UsageError.exit_code, said
    assert "tool 1.2 cannot be verified" in said
    assert QUESTION.decode() not in said
    assert (web.asked, copied.pins) == ([], before)


def test_a_file_that_may_be_missing_is_no_question(copied: Checkout, web: Web) -> None:
    status, said = answer(copied, b"", "--allow-missing", "tool")

    assert status == 0, said
    assert QUESTION.decode() not in said
    assert "/v1.2/sums" not in web.asked


def test_a_server_that_nobody_vouches_for_is_not_believed(copied: Checkout) -> None:
    status, said = answer(copied, b"", REQUESTS_CA_BUNDLE="")

    assert status == UsageError.exit_code, said
    assert QUESTION.decode() not in said
    assert "certificate" in said


def test_no_digest_is_taken_without_tls(checkout: Path, tmp_path: Path, authority: Path) -> None:
    with serving(None) as plain:
        publish(plain)
        copied = make(checkout, tmp_path, plain, authority)
        status, said = answer(copied, b"")

        assert status == UsageError.exit_code, said
        assert QUESTION.decode() not in said
        assert plain.asked == []


def test_no_digest_is_taken_from_where_a_redirect_gives_up_tls(copied: Checkout, web: Web) -> None:
    before = copied.pins
    with serving(None) as plain:
        publish(plain)
        web.redirects["/v1.2/sums"] = f"{plain.url}/v1.2/sums"
        status, said = answer(copied, b"")

        assert status == UsageError.exit_code, said
        assert QUESTION.decode() not in said
        assert "it redirects from https to http" in " ".join(said.split())
        assert (plain.asked, copied.pins) == ([], before)


def test_githubs_digest_serves_where_there_are_no_checksums(copied: Checkout, web: Web) -> None:
    del web.files["/v1.2/sums"]
    assets = [{"name": f"tool-{arch}", "digest": f"sha256:{SHA256[arch]}"} for arch in SHA256]
    latest = {"tag_name": "v1.2", "assets": assets}
    web.files["/releases/latest"] = json.dumps(latest).encode()
    status, said = answer(copied, b"y\n")

    assert status == 0, said
    assert f"{web.url}/releases/latest lists the sha256" in " ".join(said.split())
    assert f'aarch64 = "{SHA256["arm64"]}"' in copied.pins


def test_update_pins_renews_the_pin_that_is_named_and_no_other(copied: Checkout, web: Web) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.sessions.update_pins", "tool"],
        cwd=copied.root, env=copied.environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert f'aarch64 = "{SHA256["arm64"]}"' in copied.pins
    assert web.asked == ["/releases/latest", "/v1.2/sums"]
