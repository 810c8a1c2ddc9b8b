"""Questions to an OCI registry, by the distribution specification."""

from __future__ import annotations

import hashlib
import json
import re

from scripts.system.errors import HarnessError
from scripts.system.fetch import PATIENT, Settings, UnauthorizedError, read

# An index comes first: its digest is the same for all architectures.
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

# What a registry says of where a token is to be had: RFC 6750's challenge.
PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def digest(url: str, *, settings: Settings = PATIENT) -> str:
    """The digest of the manifest at url, as in image@digest.

    A registry that wants a token is asked for one, as anybody gets it. Raises HarnessError where
    url cannot be had or is no manifest.
    """
    headers = {"Accept": ", ".join(MANIFESTS)}
    try:
        body = read(url, headers=headers, settings=settings)
    except UnauthorizedError as error:
        token = _token(error.challenge, url, settings)
        headers["Authorization"] = f"Bearer {token}"
        body = read(url, headers=headers, settings=settings)
    if not _is_manifest(body):
        raise HarnessError(f"{url} is no manifest of an image")
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _is_manifest(body: bytes) -> bool:
    try:
        data = json.loads(body)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("schemaVersion") == 2


def _token(challenge: str, url: str, settings: Settings) -> str:
    parameters = dict(PARAMETER.findall(challenge))
    realm = parameters.pop("realm", "")
    if not challenge.startswith("Bearer ") or not realm:
        raise HarnessError(f"{url} asks for credentials of a kind that is not known: {challenge}")
    answer = read(realm, parameters=parameters, settings=settings)
    try:
        data = json.loads(answer)
        token = data.get("token") or data["access_token"]
    except (ValueError, KeyError, AttributeError) as error:
        raise HarnessError(f"{realm} gives no token: {error!r}") from error
    return str(token)
