"""How cosign is asked to sign and to verify by the identity of a job, which takes a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts.publish import signing
from scripts.publish.signing import Signer
from scripts.system.errors import HarnessError, UsageError

# Writes down its arguments, and fails if one of them is what the file beside it says.
COSIGN = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "asked").write_text("\\n".join(sys.argv[2:]))
sys.exit((folder / "refused").exists() and "none of the expected identities matched")
"""

WORKFLOW = "https://github.com/runfinch/finch-core/.github/workflows/{}@refs/heads/main"


def signer(folder: Path, identity: str = "") -> Signer:
    (folder / "cosign.py").write_text(COSIGN)
    return Signer([sys.executable, folder / "cosign.py", folder], None, identity)


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def test_a_signature_by_identity_is_in_the_format_that_finch_reads(tmp_path: Path) -> None:
    assert signer(tmp_path).sign(tmp_path / "m.json") == tmp_path / "m.json.bundle"
    told = asked(tmp_path)
    assert told[0] == "sign-blob"
    assert "--new-bundle-format" in told
    assert told[told.index("--timestamp-server-url") + 1].startswith("https://timestamp.sigstore.")


def test_a_signature_by_identity_must_be_of_the_workflow(tmp_path: Path) -> None:
    identity = WORKFLOW.format("build-os.yaml")
    one = signer(tmp_path, identity)
    one.check(tmp_path / "m", tmp_path / "m.bundle", is_needed=True)
    told = asked(tmp_path)
    assert told[told.index("--certificate-identity") + 1] == identity
    assert told[told.index("--certificate-oidc-issuer") + 1] == signing.ISSUER

    (tmp_path / "refused").touch()
    with pytest.raises(HarnessError, match=r"of m was not made with https://github.com/.*matched"):
        one.check(tmp_path / "m", tmp_path / "m.bundle", is_needed=True)


def test_a_signature_of_nobody_known_is_not_vouched_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the published signature of m cannot be verified"):
        signer(tmp_path).check(tmp_path / "m", tmp_path / "m.bundle", is_needed=True)
    signer(tmp_path).check(tmp_path / "m", tmp_path / "m.bundle", is_needed=False)
    assert not (tmp_path / "asked").exists()


def test_the_workflow_that_builds_is_beside_the_one_that_runs() -> None:
    own = signing.own_identity(
        {"GITHUB_WORKFLOW_REF": "runfinch/finch-core/.github/workflows/p.yaml@refs/heads/main"}
    )
    assert own == WORKFLOW.format("p.yaml")
    assert signing.builders_identity(own) == WORKFLOW.format("build-os.yaml")
    assert signing.own_identity({}) == signing.builders_identity("") == ""
