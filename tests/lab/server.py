"""Serves the lab on loopback as Amazon's CDN would, with faults on demand."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from tests.lab.repository import ORIGIN

# Longer than any client waits before it gives up.
STALL_SECONDS = 600

CHUNK = 1 << 18


class Kind(Enum):
    """The kinds of faults: an error, silence, half an answer, or a wrong answer."""

    NOT_FOUND = "404"
    UNAVAILABLE = "503"
    STALL = "stall"
    TRUNCATED = "truncated"
    WRONG_DIGEST = "wrong digest"
    STALE = "stale"


@dataclass
class Fault:
    """A fault in the answers for paths that contain the regular expression pattern.

    It spoils the first `times` matching requests, or all of them if `times` is None. A STALE list
    of mirrors names the repository with the guid `instead`.
    """

    kind: Kind
    pattern: str
    times: int | None = None
    instead: str = "0" * 64
    seen: int = field(default=0, init=False)

    def takes(self, path: str) -> bool:
        """Whether this fault spoils the request for path; if so, the request is counted."""
        if not re.search(self.pattern, path) or (
            self.times is not None and self.seen >= self.times
        ):
            return False
        self.seen += 1
        return True


class LabServer:
    """A server that serves the folder www on loopback for as long as the with block lasts."""

    def __init__(self, www: Path, port: int = 0) -> None:
        self.www = www
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.lab = self

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def mirror(self) -> str:
        """The address that replaces the CDN's."""
        return f"{self.url}/al2023"

    @property
    def third_party(self) -> str:
        """The address that replaces those in third-party/pins.toml."""
        return f"{self.url}/third-party"

    @contextmanager
    def broken(self, *faults: Fault) -> Iterator[None]:
        """Apply faults for as long as the with block lasts."""
        with self.lock:
            self.faults[:] = faults
        try:
            yield
        finally:
            with self.lock:
                self.faults.clear()

    def fault(self, path: str) -> Fault | None:
        """Record the request for path, and return the fault that spoils it, if any."""
        with self.lock:
            self.requests.append(path)
            return next((fault for fault in self.faults if fault.takes(path)), None)

    def content(self, path: str) -> Path | None:
        """Return the file that path names, or None if there is none."""
        file = (self.www / unquote(urlsplit(path).path).lstrip("/")).resolve()
        return file if file.is_file() and file.is_relative_to(self.www.resolve()) else None


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    lab: LabServer


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one client."""

    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's own name
        """Log nothing: LabServer.requests has the requests."""

    def handle(self) -> None:
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_GET(self) -> None:
        lab = self.server.lab
        fault = lab.fault(self.path)
        file = lab.content(self.path)
        if fault and fault.kind in STATUS:
            self._refuse(STATUS[fault.kind])
        elif not file:
            self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._send(file, fault)

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, file: Path, fault: Fault | None) -> None:
        lab, kind = self.server.lab, fault.kind if fault else None
        data = file.read_bytes()
        if file.name == "mirror.list":
            data = data.replace(ORIGIN.encode(), lab.url.encode())
            if fault and kind is Kind.STALE:
                data = re.sub(rb"guids/\w+", f"guids/{fault.instead}".encode(), data)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if kind is Kind.WRONG_DIGEST:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if kind in (Kind.STALL, Kind.TRUNCATED):
            data = data[: len(data) // 2]
        for start in range(0, len(data), CHUNK):
            self.wfile.write(data[start : start + CHUNK])
        if kind is Kind.STALL:
            self.wfile.flush()
            lab.closing.wait(STALL_SECONDS)
        if kind in (Kind.STALL, Kind.TRUNCATED):
            self.close_connection = True


STATUS: Mapping[Kind, HTTPStatus] = {
    Kind.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Kind.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
