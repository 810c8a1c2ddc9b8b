"""Only a token that GitHub has signed for this very job proves what the job is."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from scripts.origin import LOCAL, UNPROVEN, Builder
from scripts.system import oidc
from scripts.system.oidc import Job, TokenError
from tests import tokens
from tests.tokens import Issuer

VARIABLES = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "runfinch/finch-core",
    "GITHUB_WORKFLOW_REF": "runfinch/finch-core/.github/workflows/build-os.yaml@refs/heads/main",
    "GITHUB_RUN_ID": "25872286438",
    "GITHUB_RUN_ATTEMPT": "1",
}


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return tokens.new_key()


@pytest.fixture
def issuer(key: rsa.RSAPrivateKey) -> Iterator[Issuer]:
    with tokens.issuing(key) as issuer:
        yield issuer


def refusal(issuer: Issuer) -> str:
    with pytest.raises(TokenError) as caught:
        oidc.current_job(issuer.environ, keys=issuer.keys)
    return str(caught.value)


def test_a_job_is_what_its_token_says(issuer: Issuer) -> None:
    assert oidc.current_job(issuer.environ, keys=issuer.keys) == Job(
        "owner/finch",
        "owner/finch/.github/workflows/build-os.yaml@refs/heads/main",
        "42",
        "1",
    )


def test_the_builder_is_named_after_the_token_and_not_after_forged_variables(
    issuer: Issuer,
) -> None:
    assert Builder.of({**VARIABLES, **issuer.environ}, keys=issuer.keys) == Builder(
        "https://github.com/owner/finch/.github/workflows/build-os.yaml@refs/heads/main",
        "https://github.com/owner/finch/actions/runs/42/attempts/1",
        "git+https://github.com/owner/finch",
    )


def test_forged_variables_of_github_name_no_workflow() -> None:
    assert Builder.of(VARIABLES) == Builder(UNPROVEN)
    assert Builder.of({}) == Builder(LOCAL)
    assert "runfinch/finch-core/.github" not in UNPROVEN


def test_a_token_from_the_attacker_s_own_server_is_not_signed_by_github(issuer: Issuer) -> None:
    issuer.key = tokens.new_key()

    assert refusal(issuer) == "the token is not signed by GitHub"
    assert Builder.of({**VARIABLES, **issuer.environ}, keys=issuer.keys) == Builder(UNPROVEN)


def test_the_keys_come_from_github_whatever_the_environment_says(issuer: Issuer) -> None:
    assert oidc.KEYS == "https://token.actions.githubusercontent.com/.well-known/jwks"
    elsewhere = f"{issuer.url}/none"
    assert Builder.of({**issuer.environ, "KEYS": issuer.keys}, keys=elsewhere).id == UNPROVEN


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://issuer.example"}, "another issuer"),
        ({"aud": "sigstore"}, "another purpose"),
        ({"aud": ["sigstore"]}, "another purpose"),
        ({"exp": time.time() - 3600}, "not valid now"),
        ({"iat": time.time() + 3600}, "not valid now"),
        ({"repository": "owner/finch/../other"}, "repository has an unknown form"),
        ({"repository": "owner/finch\n"}, "repository has an unknown form"),
        ({"workflow_ref": "https://evil.example/"}, "workflow_ref has an unknown form"),
        ({"run_id": "42/../43"}, "run_id has an unknown form"),
        ({"run_attempt": None}, "run_attempt has an unknown form"),
        ({"exp": "never"}, "unknown form"),
        ({"nbf": 4_000_000_000}, "not valid now"),
        ({"nbf": "tomorrow"}, "unknown form"),
    ],
)
def test_a_genuine_token_for_something_else_proves_nothing(
    issuer: Issuer, claims: dict[str, Any], reason: str
) -> None:
    issuer.claims = claims
    assert reason in refusal(issuer)


@pytest.mark.parametrize(
    "header",
    [{"alg": "none"}, {"alg": "HS256"}, {"kid": "2"}, {"alg": ""}, {"crit": ["b64"], "b64": False}],
)
def test_a_token_does_not_choose_how_it_is_verified(issuer: Issuer, header: dict[str, Any]) -> None:
    issuer.header = header
    assert "the token is" in refusal(issuer)


def test_a_changed_claim_breaks_the_signature(issuer: Issuer, key: rsa.RSAPrivateKey) -> None:
    head, _, signature = tokens.token(key, tokens.CLAIMS).split(".")
    body = tokens.encode(json.dumps({**tokens.CLAIMS, "repository": "runfinch/finch"}).encode())
    issuer.said = f"{head}.{body}.{signature}"
    assert refusal(issuer) == "the token is not signed by GitHub"


@pytest.mark.parametrize("said", ["", "a", "a.b", "a.b.c", "é.é.é", "....", "W10.e30.AA"])
def test_what_is_no_token_proves_nothing(said: str, key: rsa.RSAPrivateKey) -> None:
    with pytest.raises((TokenError, ValueError, KeyError, TypeError)):
        oidc.verified(said, [tokens.public(key)])


def test_a_short_key_signs_nothing() -> None:
    short = tokens.new_key(1024)
    with pytest.raises(TokenError, match="not signed"):
        oidc.verified(tokens.token(short, tokens.CLAIMS), [tokens.public(short)])


def cube_root(number: int) -> int:
    """The smallest integer whose cube is at least number."""
    low, high = 0, 1 << (number.bit_length() // 3 + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if middle**3 >= number else (middle + 1, high)
    return low


def test_a_signature_that_is_a_cube_root_with_garbage_behind_the_digest_is_refused() -> None:
    # Bleichenbacher's forgery of 2006 needs no private key if a verifier stops at the digest.
    public = tokens.public(rsa.generate_private_key(public_exponent=3, key_size=2048))
    message = tokens.token(tokens.new_key(), tokens.CLAIMS).rpartition(".")[0]
    digest = oidc.SHA256_PREFIX + hashlib.sha256(message.encode()).digest()
    begin = b"\x00\x01" + b"\xff" * 8 + b"\x00" + digest
    forged = cube_root(int.from_bytes(begin.ljust(256, b"\x00")))
    assert (forged**3).to_bytes(256).startswith(begin)
    with pytest.raises(TokenError, match="not signed"):
        oidc.verified(f"{message}.{tokens.encode(forged.to_bytes(256))}", [public])


def test_a_job_that_may_not_ask_for_tokens_proves_nothing(issuer: Issuer) -> None:
    environ = issuer.environ | {oidc.REQUEST_TOKEN: ""}
    with pytest.raises(TokenError, match="id-token: write"):
        oidc.current_job(environ, keys=issuer.keys)
    with pytest.raises(TokenError):
        oidc.current_job(issuer.environ | {oidc.REQUEST_TOKEN: "wrong"}, keys=issuer.keys)


@pytest.mark.parametrize("said", ["[]", '"x"', "{}", '{"value": 1}', "no JSON", "[" * 100000])
def test_an_answer_in_another_form_is_no_traceback(
    issuer: Issuer, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Issuer, "answer", lambda *_: said)
    assert Builder.of(issuer.environ, keys=issuer.keys) == Builder(UNPROVEN)


def test_a_key_for_another_purpose_proves_nothing(key: rsa.RSAPrivateKey) -> None:
    genuine = tokens.token(key, tokens.CLAIMS)
    fit = tokens.public(key) | {"use": "sig", "alg": "RS256"}
    assert oidc.verified(genuine, [fit]) == tokens.CLAIMS
    for other in ({"use": "enc"}, {"alg": "RS512"}, {"kty": "EC"}):
        with pytest.raises(TokenError, match="not signed"):
            oidc.verified(genuine, [fit | other])


def test_a_second_signature_made_by_adding_the_modulus_is_refused() -> None:
    # s and s + n have the same power modulo n.
    while True:
        key = tokens.new_key()
        modulus = key.public_key().public_numbers().n
        message, _, signature = tokens.token(key, tokens.CLAIMS).rpartition(".")
        number = int.from_bytes(base64.urlsafe_b64decode(signature + "==")) + modulus
        if number.bit_length() <= 2048:
            break
    with pytest.raises(TokenError, match="not signed"):
        oidc.verified(f"{message}.{tokens.encode(number.to_bytes(256))}", [tokens.public(key)])


def test_a_key_with_the_exponent_1_signs_nothing(key: rsa.RSAPrivateKey) -> None:
    message = tokens.token(key, tokens.CLAIMS).rpartition(".")[0]
    digest = oidc.SHA256_PREFIX + hashlib.sha256(message.encode()).digest()
    forged = (b"\x00\x01" + b"\xff" * (253 - len(digest)) + b"\x00" + digest).rjust(256, b"\x00")
    weak = tokens.public(key) | {"e": tokens.encode(b"\x01")}
    with pytest.raises(TokenError, match="not signed"):
        oidc.verified(f"{message}.{tokens.encode(forged)}", [weak])


@pytest.mark.parametrize("odd", ["+", "/", "=", "\n", "é"])
def test_a_part_that_is_not_base64url_is_no_part_of_a_token(
    key: rsa.RSAPrivateKey, odd: str
) -> None:
    with pytest.raises(ValueError, match="base64url"):
        oidc.verified(tokens.token(key, tokens.CLAIMS) + odd, [tokens.public(key)])
