"""A web server on the host, which guests reach through the NAT of QEMU's user networking."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What it answers.
TEXT = "the host answers"


class _Handler(BaseHTTPRequestHandler):
    """Answers every GET with TEXT."""

    def do_GET(self) -> None:
        """Answer with TEXT."""
        data = f"{TEXT}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """Serve on loopback for the length of the with block, and yield the port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
