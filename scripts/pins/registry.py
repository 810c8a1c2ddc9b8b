"""Asking an OCI registry which image a tag names (the OCI distribution specification)."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

from scripts.system import strict
from scripts.system.errors import HarnessError
from scripts.system.fetch import PATIENT, Settings, UnauthorizedError, read
from scripts.system.redirects import is_local
from scripts.system.text import printable
from scripts.system.url import Url

# An index comes first, because its digest is the same for all architectures.
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

# A parameter of the challenge in which a registry says where to get a token (RFC 6750).
PARAMETER = re.compile(r'(\w+)="([^"]*)"')

# A token as a header has it (RFC 6750, 2.1).
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def digest(url: str, *, settings: Settings = PATIENT) -> str:
    """Return the digest of the manifest at url, as in image@digest.

    If the registry requires a token, get the one that it gives to everybody. Raises HarnessError if
    url cannot be downloaded or is not a manifest.
    """
    headers = {"Accept": ", ".join(MANIFESTS)}
    try:
        body = read(url, headers=headers, settings=settings)
    except UnauthorizedError as error:
        token = _token(error.challenge, url, settings)
        headers["Authorization"] = f"Bearer {token}"
        body = read(url, headers=headers, settings=settings)
    if not _is_manifest(body):
        raise HarnessError(f"{url} is not the manifest of an image")
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _is_manifest(body: bytes) -> bool:
    """Whether body is a manifest, or an index of manifests."""
    try:
        data = strict.loads(body)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("schemaVersion") == 2


def _token(challenge: str, url: str, settings: Settings) -> str:
    """Return the token that a registry gives to everybody, from the server that challenge names."""
    parameters = dict(PARAMETER.findall(challenge))
    realm = parameters.pop("realm", "")
    if not challenge.startswith("Bearer ") or not realm:
        raise HarnessError(f"{url} asks for an unknown kind of credentials: {printable(challenge)}")
    if [urlsplit(one).scheme for one in (url, realm)] == ["https", "http"]:
        raise HarnessError(f"{url} sends us from https to http for a token")
    is_elsewhere = not is_local(Url(url).host)
    answer = read(realm, parameters=parameters, settings=settings, sent=is_elsewhere)
    try:
        data = strict.loads(answer)
        token = data.get("token") or data["access_token"]
    except strict.ODDITIES as error:
        raise HarnessError(
            f"{Url(realm)} did not return a token: {printable(repr(error))}"
        ) from None
    if not TOKEN.fullmatch(str(token)):
        raise HarnessError(f"{Url(realm)} did not return a token that a header can have")
    return str(token)
