"""A server on loopback that answers each connection with any bytes, and hangs up."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

END = b"\r\n\r\n"


class Wire:
    """Answers whatever is asked with answers, one after the other, and then with the last one."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.answers: list[bytes] = []
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def serve(self) -> None:
        """Answer until the listener is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(1)
                asked = b""
                while END not in asked and (more := connection.recv(65536)):
                    asked += more
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass


@contextlib.contextmanager
def listening() -> Iterator[Wire]:
    """Yield a server that serves until the with block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(listener)
        thread = threading.Thread(target=wire.serve, daemon=True)
        thread.start()
        yield wire
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return a response of HTTP/1.1, which says how long body is."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode("latin-1", "replace") + END + body
