"""Signs files with cosign, with a key or with the identity of a CI job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts import catalog
from scripts.publish import programs
from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import Arg, CommandError, last_line, run
from scripts.system.progress import Progress

# The issuer of the identities of GitHub's jobs, by which their signatures are verified.
ISSUER = "https://token.actions.githubusercontent.com"

# Sigstore's own server of signed times (RFC 3161). Finch accepts a signature by identity only in
# the bundle format of Sigstore's libraries, and only with such a time in it.
TIMES = "https://timestamp.sigstore.dev/api/v1/timestamp"

# The workflow of this repository that builds and publishes a run, and where its name is in the URL
# of a workflow: https://github.com/OWNER/NAME/.github/workflows/FILE@REF.
BUILDER = "build-os.yaml"
WORKFLOW = re.compile(r"(/\.github/workflows/)[^/@]+(@)")

# The environment variables that give a job an identity: the first is set by GitHub Actions in jobs
# with the permission id-token: write, the second holds a token from elsewhere.
IDENTITIES = ("ACTIONS_ID_TOKEN_REQUEST_URL", "SIGSTORE_ID_TOKEN")

# Variables that cosign needs: the password of a key, or the identity of a job.
CREDENTIALS = r"(COSIGN|SIGSTORE|TUF|ACTIONS_ID_TOKEN_REQUEST)_\w+"


@dataclass(frozen=True)
class Signer:
    """Makes signatures, and verifies those that are published already.

    cosign is the command that starts cosign, and key the private key; None means signing with an
    identity. identity is the URL of the workflow whose signatures are accepted then; "" means that
    it is unknown.
    """

    cosign: Sequence[Arg]
    key: Path | None
    identity: str = ""

    def sign(self, path: Path) -> Path:
        """Sign the file at path and return the signature, a bundle beside it.

        With a key, nothing is written to the public log, so its server need not be reachable.
        Such signatures are verified with `--insecure-ignore-tlog`. The key's password comes from
        the variable COSIGN_PASSWORD. Raises HarnessError.
        """
        bundle = path.with_name(f"{path.name}.bundle")
        how: list[Arg] = ["--new-bundle-format", "--timestamp-server-url", TIMES]
        if self.key:
            how = ["--key", self.key, "--tlog-upload=false"]
        try:
            run(
                [*self.cosign, "sign-blob", "--yes", *how, "--bundle", bundle, path],
                also=CREDENTIALS,
            )
        except CommandError as error:
            raise HarnessError(
                f"{path.name} cannot be signed: {last_line(error.output) or error}",
                hint="if the key has a password, set COSIGN_PASSWORD",
            ) from error
        return bundle

    def check(self, path: Path, bundle: Path, *, is_needed: bool) -> None:
        """Raise HarnessError unless bundle is a signature of the file at path that is accepted.

        is_needed tells whether it must be verified: a job that adds to a file and signs it vouches
        for the rest. Otherwise, a signature by an identity that is unknown here is left to the
        people who download the file.
        """
        if self.key:
            self._check_key(path, bundle, self.key)
        elif self.identity:
            how = ["--certificate-identity", self.identity, "--certificate-oidc-issuer", ISSUER]
            self._verify(path, bundle, ["--new-bundle-format", *how], self.identity)
        elif is_needed:
            raise UsageError(
                f"the published signature of {path.name} cannot be verified",
                hint=f"name the workflow that made it with {catalog.option('signed-by')}",
            )

    def _check_key(self, path: Path, bundle: Path, key: Path) -> None:
        public = bundle.with_name(f"{bundle.name}.pub")
        try:
            printed = run([*self.cosign, "public-key", "--key", key], also=CREDENTIALS)
            public.write_text(printed.stdout)
            self._verify(path, bundle, ["--key", public, "--insecure-ignore-tlog"], f"{key}")
        except CommandError as error:
            raise _not_by(path, f"{key}", error) from error
        finally:
            public.unlink(missing_ok=True)

    def _verify(self, path: Path, bundle: Path, how: Sequence[Arg], by: str) -> None:
        try:
            run([*self.cosign, "verify-blob", *how, "--bundle", bundle, path])
        except CommandError as error:
            raise _not_by(path, by, error) from error


@dataclass(frozen=True)
class Signing:
    """The means to sign: a private key, or else the identity of a CI job, if it has one.

    identity is the URL of the job's workflow, "" if that is unknown.
    """

    key: Path | None
    has_identity: bool = False
    identity: str = ""

    @property
    def is_possible(self) -> bool:
        """Whether anything can be signed."""
        return self.key is not None or self.has_identity

    def signer(self, work: Path, progress: Progress, *, by: str = "") -> Signer | None:
        """Return the signer, or None if nothing can be signed. Raises MachineError.

        It accepts signatures of the workflow by, "" for its own. work is as in `programs.obtain`.
        """
        if not self.is_possible:
            return None
        cosign = programs.obtain("cosign", work, progress)
        return Signer(cosign, self.key, by or self.identity)


def _not_by(path: Path, by: str, error: CommandError) -> HarnessError:
    return HarnessError(
        f"the published signature of {path.name} was not made with {by}: "
        f"{last_line(error.output) or error}",
        hint="if the key has a password, set COSIGN_PASSWORD; else publish with another "
        f"{catalog.flag('run-id')}",
    )


def own_identity(environ: Mapping[str, str]) -> str:
    """Return the URL of the workflow that this job says it is of, or "" if it says none.

    Signatures have the one that GitHub has signed for, so if environ is wrong, none verifies.
    """
    workflow = environ.get("GITHUB_WORKFLOW_REF", "")
    server = environ.get("GITHUB_SERVER_URL", "https://github.com")
    return f"{server}/{workflow}" if workflow else ""


def builders_identity(own: str) -> str:
    """Return the URL of the workflow that builds, beside own in the same repository and branch."""
    return WORKFLOW.sub(rf"\g<1>{BUILDER}\g<2>", own)


def has_identity(environ: Mapping[str, str]) -> bool:
    """Whether cosign can sign without a key, by what environ has."""
    return any(environ.get(name) for name in IDENTITIES)


def check_key(key: Path | None) -> None:
    """Raise UsageError if key is not a file."""
    if key and not key.is_file():
        raise UsageError(f"there is no key {key}", hint="cosign generate-key-pair makes one")
