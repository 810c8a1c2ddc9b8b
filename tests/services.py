"""Servers on loopback for tests that publish: Debian's docker-registry and moto's S3.

Two more servers fail on purpose: one cuts connections, and one refuses every request.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import socket
import socketserver
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import requests

from scripts.distributions import programs
from scripts.distributions.programs import Source
from scripts.publish.registry import Registry
from scripts.system.process import Arg, running, start
from scripts.system.progress import Progress

REGISTRY = Source("usr/bin/docker-registry", ("docker-registry", "libc6"))

CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: "{folder}"}}, delete: {{enabled: {deletes}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def free_port() -> int:
    """Return a port on loopback that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def docker_registry(folder: Path, work: Path, *, deletes: bool = True) -> Iterator[str]:
    """Run an empty registry that keeps its blobs in folder; yields its host and port."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "config.yml"
    config.write_text(
        CONFIG.format(folder=folder / "data", port=port, deletes=str(deletes).lower())
    )
    command = programs.obtain("docker-registry", REGISTRY, work, Progress(live=False))
    with _serving([*command, "serve", config], port, "/v2/"):
        yield f"127.0.0.1:{port}"


@contextmanager
def s3(python: Path) -> Iterator[str]:
    """Run an S3 server without buckets; yields its URL."""
    port = free_port()
    command: list[Arg] = [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _serving(command, port, "/moto-api/"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _serving(command: list[Arg], port: int, path: str) -> Iterator[None]:
    quiet = subprocess.DEVNULL
    with running(start(command, stdout=quiet, stderr=quiet)) as process:
        deadline = time.monotonic() + 60
        while not _answers(f"http://127.0.0.1:{port}{path}"):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.1)
        yield


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


@contextmanager
def cutting(upstream: str, after: int) -> Iterator[str]:
    """Run a proxy to the S3 at upstream that breaks after so many sent bytes; yields its URL."""
    server = urlsplit(upstream)
    left = [after]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((server.hostname or "", server.port or 0)) as out:
                back = threading.Thread(target=self.pump, args=(out, self.request, False))
                back.start()
                self.pump(self.request, out, True)
                back.join()

        def pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    if counted:
                        left[0] -= len(data)
                    if left[0] < 0:
                        break
                    target.sendall(data)
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()
        thread.join()


@contextmanager
def refusing(code: int, error: str) -> Iterator[str]:
    """Run a registry that greets clients but refuses all else, as ECR does; yields its host."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b"{}" if self.path == "/v2/" else json.dumps(
                {"errors": [{"code": error, "message": f"{error} it is"}]}
            ).encode()  # fmt: skip
            self.send_response(200 if self.path == "/v2/" else code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = answer  # noqa: N815 - as http.server has it

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def has_manifest(host: str, name: str, digest: str) -> bool:
    """Whether the registry at host still has the image with that digest, whatever its tags."""
    return requests.head(f"http://{host}/v2/{name}/manifests/{digest}", timeout=60).ok


@dataclass
class Ecr:
    """ECR's own API, as AWS documents it, for one repository of the account 123456789012.

    tags maps each tag to a digest; None means that there is no repository. repository is the
    account and the name that the last request was about, failure the code and the reason with
    which deletions fail.
    """

    tags: dict[str, str] | None
    url: str = ""
    repository: tuple[str, str] = ("", "")
    failure: tuple[str, str] | None = None

    def answer(self, operation: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if operation == "GetAuthorizationToken":
            token = base64.b64encode(b"AWS:password").decode()
            return 200, {"authorizationData": [{"authorizationToken": token}]}
        self.repository = (asked["registryId"], asked["repositoryName"])
        if self.tags is None:
            return 400, {"__type": "RepositoryNotFoundException", "message": "no such repository"}
        if operation == "ListImages":
            return 200, self.page(int(asked.get("nextToken", "0")))
        assert operation == "BatchDeleteImage"
        deleted, failures = [], []
        for one in asked["imageIds"]:
            if self.failure or one["imageTag"] not in self.tags:
                code, reason = self.failure or ("ImageNotFound", "Requested image not found")
                failures.append({"imageId": one, "failureCode": code, "failureReason": reason})
            else:
                deleted.append({**one, "imageDigest": self.tags.pop(one["imageTag"])})
        return 200, {"imageIds": deleted, "failures": failures}

    def page(self, start: int, size: int = 2) -> dict[str, Any]:
        """Some of the tags, and where the next ones begin."""
        tags = self.tags or {}
        listed = [{"imageTag": tag, "imageDigest": digest} for tag, digest in tags.items()]
        more = {"nextToken": str(start + size)} if start + size < len(listed) else {}
        return {"imageIds": listed[start : start + size], **more}


@contextmanager
def ecr(tags: dict[str, str] | None) -> Iterator[Ecr]:
    """Run ECR's own API for a repository with tags; AWS_ENDPOINT_URL leads boto3 to its url."""
    state = Ecr(tags)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = state.answer(self.headers["X-Amz-Target"].partition(".")[2], asked)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        state.url = url
        yield state


class _Immutable(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the registry at upstream, but lets no tag move."""

    upstream: str
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        url = f"http://{self.upstream}{self.path}"
        names = {*self.headers} - {"Connection"}
        body = self.body()
        given = {name: ", ".join(self.headers.get_all(name, [])) for name in names}
        _, kind, reference = self.path.rpartition("/manifests/")
        is_tag = self.command == "PUT" and kind and not reference.startswith("sha256:")
        accepted = {"Accept": given.get("Content-Type", "")}
        if is_tag and requests.head(url, headers=accepted, timeout=60).ok:
            self.answer(400, {"Content-Type": "application/json"}, json.dumps({"errors": [{
                "code": "TAG_INVALID",
                "message": f"The image tag '{reference}' already exists in the 'finch' "
                "repository and cannot be overwritten because the tag is immutable.",
            }]}).encode())  # fmt: skip
            return
        told = requests.request(self.command, url, headers=given, data=body, timeout=60)
        self.answer(told.status_code, told.headers, told.content)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        del self.headers["Transfer-Encoding"]
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name not in {"Content-Length", "Date", "Connection", "Server"}:
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def immutable(upstream: str) -> Iterator[str]:
    """Run a registry in front of the one at upstream that lets no tag move; yields its host.

    It answers as ECR does if a repository's tags are immutable.
    """

    handler = type("Handler", (_Immutable,), {"upstream": upstream})
    with serving(handler) as url:
        yield url.removeprefix("http://")


class Tags(dict[str, str]):
    """The tags of a repository, for ECR's API: deleting one deletes it in the registry."""

    def __init__(self, place: Registry) -> None:
        super().__init__(dict.fromkeys(place.tags(), ""))
        self.place = place

    def pop(self, tag: str, *_: object) -> str:
        digest = self.place.digest(tag)
        self.place.delete(tag)
        return digest


def as_ecr(skopeo: Sequence[Arg], ecr: Ecr) -> Callable[..., Any]:
    """Return what opens a registry on loopback as one whose own API is ecr."""

    @contextmanager
    def opened(_: Sequence[Arg], repository: str) -> Iterator[Registry]:
        client: Any = boto3.client("ecr", region_name="us-east-1", endpoint_url=ecr.url)
        yield Registry(skopeo, repository, None, client)

    return opened


@contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run an HTTP server on loopback whose requests handler answers; yields its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def guarded(upstream: str, authorization: str) -> Iterator[str]:
    """Run a server with the files of upstream, for requests with authorization; yields its URL.

    Its mirror lists lead to itself.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            own = f"http://{self.headers['Host']}"
            is_known = self.headers["Authorization"] == authorization
            answer = requests.get(f"{upstream}{self.path}", timeout=60) if is_known else None
            body = answer.content if answer else b""
            if self.path.endswith("/mirror.list"):
                body = body.replace(upstream.encode(), own.encode())
            self.send_response(answer.status_code if answer is not None else 401)
            if answer is None:
                self.send_header("WWW-Authenticate", 'Basic realm="mirror"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
