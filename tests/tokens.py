"""A server on loopback that hands out tokens as GitHub Actions does, and publishes its keys."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from scripts.system import oidc

BEARER = "of the runner"

CLAIMS: Mapping[str, Any] = {
    "iss": oidc.ISSUER,
    "repository": "owner/finch",
    "workflow_ref": "owner/finch/.github/workflows/build-os.yaml@refs/heads/main",
    "run_id": "42",
    "run_attempt": "1",
}


def new_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def public(key: rsa.RSAPrivateKey, kid: str = "1") -> dict[str, str]:
    """The public half of key as the issuer lists it."""
    numbers = key.public_key().public_numbers()
    modulus, exponent = (
        number.to_bytes((number.bit_length() + 7) // 8) for number in (numbers.n, numbers.e)
    )
    return {"kty": "RSA", "kid": kid, "n": encode(modulus), "e": encode(exponent)}


def token(key: rsa.RSAPrivateKey, claims: Mapping[str, Any], **header: Any) -> str:
    """A token with claims, signed with RS256, whatever header says."""
    parts = ({"alg": "RS256", "kid": "1", **header}, claims)
    signed = ".".join(encode(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{encode(key.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"


@dataclass
class Issuer:
    """What the server signs with and lists; claims are added to those of a token."""

    url: str
    key: rsa.RSAPrivateKey
    listed: list[dict[str, str]]
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    said: str = ""

    @property
    def keys(self) -> str:
        """The URL of the public keys."""
        return f"{self.url}/keys"

    @property
    def environ(self) -> dict[str, str]:
        """What a job with the permission to ask for tokens has in its environment."""
        return {
            "GITHUB_ACTIONS": "true",
            oidc.REQUEST_URL: f"{self.url}/token?api-version=2.0",
            oidc.REQUEST_TOKEN: BEARER,
        }

    def answer(self, path: str) -> str:
        """What the server answers to a request for path."""
        if path == "/keys":
            return json.dumps({"keys": self.listed})
        now = int(time.time())
        [audience] = parse_qs(urlsplit(path).query)["audience"]
        claims = {**CLAIMS, "aud": audience, "iat": now, "exp": now + 300, **self.claims}
        return json.dumps({"value": self.said or token(self.key, claims, **self.header)})


@contextmanager
def issuing(key: rsa.RSAPrivateKey) -> Iterator[Issuer]:
    """Run the server, which signs with key and lists it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.path == "/keys" or self.headers["Authorization"] == f"Bearer {BEARER}"
            body = issuer.answer(self.path).encode() if allowed else b""
            self.send_response(200 if allowed else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        issuer = Issuer(f"http://127.0.0.1:{httpd.server_port}", key, [public(key)])
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield issuer
        httpd.shutdown()
        thread.join()
