"""Proves with a signed token of GitHub Actions which job runs this process (OpenID Connect).

https://docs.github.com/actions/reference/security/oidc
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scripts.system import strict
from scripts.system.errors import HarnessError
from scripts.system.fetch import BRIEF, read

# The issuer's keys are fetched from the issuer itself, never from an address in the environment.
ISSUER = "https://token.actions.githubusercontent.com"
KEYS = f"{ISSUER}/.well-known/jwks"

# The variables that a job with the permission `id-token: write` has.
REQUEST_URL = "ACTIONS_ID_TOKEN_REQUEST_URL"
REQUEST_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105 - the name of a variable

# How far GitHub's clock and ours may differ, in seconds.
SKEW = 300

# RSA keys are 2048 bits or longer (NIST SP 800-131A). GitHub's have 2048; much longer ones would
# only keep this machine busy.
SIZES = range(2048, 8192 + 1)

# base64url without padding (RFC 7515, 2). Python's own decoder takes more than that.
BASE64URL = re.compile(r"[A-Za-z0-9_-]*")

# The DER prefix of a SHA-256 digest in a PKCS #1 v1.5 signature (RFC 8017, 9.2, note 1).
SHA256_PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")

# What the claims that go into URIs look like. The workflow is OWNER/NAME/PATH@REF.
NAME = r"[A-Za-z0-9._-]+"
SHAPES: Mapping[str, re.Pattern[str]] = {
    "repository": re.compile(f"{NAME}/{NAME}"),
    "workflow_ref": re.compile(rf"{NAME}/{NAME}/\.github/workflows/{NAME}@[A-Za-z0-9._/+-]+"),
    "run_id": re.compile(r"[0-9]{1,20}"),
    "run_attempt": re.compile(r"[0-9]{1,10}"),
}


class TokenError(Exception):
    """The job is not proven; the text says why."""


@dataclass(frozen=True)
class Job:
    """A job of GitHub Actions, as a token of GitHub's describes it."""

    repository: str
    workflow_ref: str
    run_id: str
    run_attempt: str


def current_job(environ: Mapping[str, str], *, keys: str = KEYS) -> Job:
    """Return the job that environ's token proves this process to run in. Raises TokenError.

    The address that hands out tokens comes from environ, so its answer proves nothing by itself: a
    token counts only if one of the issuer's keys, at the URL keys, has signed it. The audience is a
    random number, so that nobody can show a token from an earlier job, or one made for another
    purpose. A live job that gives its tokens away can lend its name to another machine: GitHub says
    which job a token was made for, not which machine asks.
    """
    address, bearer = environ.get(REQUEST_URL), environ.get(REQUEST_TOKEN)
    if not (address and bearer):
        raise TokenError("the job has no permission `id-token: write`")
    audience = f"finch-os-images-{secrets.token_hex(16)}"
    headers = {"Authorization": f"Bearer {bearer}"}
    try:
        answer = read(address, headers=headers, parameters={"audience": audience}, settings=BRIEF)
        token = strict.loads(answer)["value"]
        known = strict.loads(read(keys, settings=BRIEF))["keys"]
        claims = verified(token, known)
        return _job(claims, audience)
    except HarnessError as error:
        raise TokenError(error.message) from error
    except strict.ODDITIES as error:
        raise TokenError(f"the token or a key has an unknown form: {error!r}") from error


def _job(claims: Mapping[str, Any], audience: str) -> Job:
    now = time.time()
    if claims["iss"] != ISSUER or claims["aud"] != audience:
        raise TokenError("the token was made by another issuer or for another purpose")
    begins = max(claims["iat"], claims.get("nbf", claims["iat"]))
    if not begins - SKEW <= now <= claims["exp"] + SKEW:
        raise TokenError("the token is not valid now")
    found = {name: str(claims[name]) for name in SHAPES}
    for name, shape in SHAPES.items():
        if not shape.fullmatch(found[name]):
            raise TokenError(f"the token's {name} has an unknown form")
    return Job(**found)


def verified(token: str, keys: list[Mapping[str, str]]) -> Mapping[str, Any]:
    """Return the claims of token (RFC 7515), signed with RS256 by one of keys (RFC 7517).

    Raises TokenError if no key has signed it; ValueError, KeyError or TypeError if it is no token.
    """
    signed, _, signature = token.rpartition(".")
    head, _, body = signed.partition(".")
    header = strict.loads(_decode(head))
    # A forger chooses the algorithm of a token, so only GitHub's is accepted.
    if header["alg"] != "RS256":
        raise TokenError(f"the token is signed with {header['alg']!r}, not RS256")
    # It names what a reader must understand to judge the token (RFC 7515, 4.1.11).
    if "crit" in header:
        raise TokenError(f"the token is to be read by further rules: {header['crit']!r}")
    for key in keys:
        if _is_for(key, header["kid"]):
            modulus, exponent = (int.from_bytes(_decode(key[part])) for part in ("n", "e"))
            if _has_signed(signed.encode(), _decode(signature), modulus, exponent):
                claims: Mapping[str, Any] = strict.loads(_decode(body))
                return claims
    raise TokenError("the token is not signed by GitHub")


def _is_for(key: Mapping[str, str], name: str) -> bool:
    """Whether key has that name, and is for signatures with RS256 (RFC 7517, 4.2 and 4.4)."""
    purpose = (key["kty"], key.get("use", "sig"), key.get("alg", "RS256"))
    return key.get("kid") == name and purpose == ("RSA", "sig", "RS256")


def _has_signed(message: bytes, signature: bytes, modulus: int, exponent: int) -> bool:
    """Whether signature is that of message: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 8.2.2).

    The padding is not parsed but made anew and compared whole, so that none can be forged.
    """
    size = (modulus.bit_length() + 7) // 8
    number = int.from_bytes(signature)
    # A number that is not below the modulus would be a second signature with the same meaning, and
    # 1 as the exponent would make everybody's message its own signature (RFC 8017, 3.1 and 5.2.2).
    is_key = modulus.bit_length() in SIZES and modulus % 2 == 1 == exponent % 2 and exponent > 1
    if not is_key or len(signature) != size or number >= modulus:
        return False
    digest = SHA256_PREFIX + hashlib.sha256(message).digest()
    expected = b"\x00\x01" + b"\xff" * (size - len(digest) - 3) + b"\x00" + digest
    return pow(number, exponent, modulus).to_bytes(size) == expected


def _decode(text: str) -> bytes:
    """Return the bytes that text is the base64url of, without padding. Raises ValueError."""
    if not BASE64URL.fullmatch(text):
        raise ValueError("it is not base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
