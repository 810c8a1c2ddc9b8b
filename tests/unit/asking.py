"""A server on loopback that notes with which credentials it is asked."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """A server, or a proxy, that answers each path with a function, others with status 404.

    asked has each path with the credentials that came with it, as_proxy those that came for a
    proxy. If wants is set, requests without these credentials are answered with a challenge.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []
        self.as_proxy: list[str] = []
        self.wants = ""
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                as_proxy = self.path.startswith("http:")
                name = "Proxy-Authorization" if as_proxy else "Authorization"
                if as_proxy:
                    served.as_proxy.append(self.headers[name] or "")
                served.asked.append((self.path, self.headers["Authorization"] or ""))
                answer = served.answers.get(self.path, says(b"", 404))
                if served.wants and self.headers[name] != served.wants:
                    challenge = {"Proxy_Authenticate" if as_proxy else "WWW_Authenticate": "Basic"}
                    answer = says(b"", 407 if as_proxy else 401, **challenge)
                with contextlib.suppress(ConnectionError):
                    answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        """Serve until the with block ends."""
        thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.http.shutdown()
            thread.join()
            self.http.server_close()

    def with_password(self, password: str = "MARK") -> str:
        """Return the URL with a user's name and this password in it."""
        return self.url.replace("//", f"//me:{password}@")


def says(body: bytes, status: int = 200, reason: str = "", **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status, reason or None)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
