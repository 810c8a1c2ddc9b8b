"""A server on loopback with scripted answers, for tests of downloads."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from scripts.system.fetch import Settings

BODY = bytes(range(256)) * 2000
TRUNCATED = 131_072  # bytes
SHA256 = hashlib.sha256(BODY).hexdigest()
TRUNCATED_SHA256 = hashlib.sha256(BODY[:TRUNCATED]).hexdigest()
QUICK = Settings(attempts=3, pause=0.01, longest_pause=0.05, connect=1, stall=0.3)

Answer = Callable[[BaseHTTPRequestHandler], None]


def whole(request: BaseHTTPRequestHandler) -> None:
    """Answer with the requested file or range."""
    start = int((request.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
    request.send_header("Content-Length", str(len(BODY) - start))
    request.end_headers()
    request.wfile.write(BODY[start:])


def whole_without_ranges(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(BODY)))
    request.end_headers()
    request.wfile.write(BODY)


def truncated(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(BODY)))
    request.end_headers()
    request.wfile.write(BODY[:TRUNCATED])


def stalled(request: BaseHTTPRequestHandler) -> None:
    truncated(request)
    request.wfile.flush()
    time.sleep(1)


def status(code: int, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def page(request: BaseHTTPRequestHandler) -> None:
    text = b"<html>Please log in to this network</html>"
    request.send_response(200)
    request.send_header("Content-Type", "text/html; charset=utf-8")
    request.send_header("Content-Length", str(len(text)))
    request.end_headers()
    request.wfile.write(text)


class Server:
    """A server that gives the answers in turn, and repeats the last one for further requests."""

    def __init__(self, answers: list[Answer]) -> None:
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.paths.append(self.path)
                served.ranges.append(self.headers["Range"])
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                with contextlib.suppress(ConnectionError):
                    answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.base}/mkosi.tar.gz"

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
