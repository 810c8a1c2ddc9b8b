"""A server on loopback, for what downloads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """Serves files from memory on loopback and counts what it is asked for.

    Where statuses has a path, that is all there is of it. Where token is set, paths below /v2/ are
    for those who show it; others get the challenge.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    token: str = ""
    challenge: str = ""

    def refuses(self, path: str, authorization: str | None) -> bool:
        """Whether the token is wanted and not shown."""
        is_closed = bool(self.token) and path.startswith("/v2/")
        return is_closed and authorization != f"Bearer {self.token}"


@contextmanager
def serving() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            if state.refuses(self.path, self.headers["Authorization"]):
                self.send_response(401)
                self.send_header("WWW-Authenticate", state.challenge)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.files.get(self.path)
            self.send_response(state.statuses.get(self.path, 404 if body is None else 200))
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        httpd.shutdown()
        thread.join()
