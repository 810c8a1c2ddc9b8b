"""Signs files with cosign: with a key, or with the identity that CI has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import Arg, CommandError, run

# Where GitHub Actions hands out tokens, in a job with the permission id-token: write; and a token
# that was got elsewhere.
IDENTITIES = ("ACTIONS_ID_TOKEN_REQUEST_URL", "SIGSTORE_ID_TOKEN")


@dataclass(frozen=True)
class Signer:
    """cosign, the command that starts it, and the private key, None to sign with an identity."""

    cosign: Sequence[Arg]
    key: Path | None

    def sign(self, path: Path) -> Path:
        """Sign the file at path; its bundle, a file beside it. Raises HarnessError.

        With a key nothing is written to the public log, whose server need not be in reach; who
        verifies says so (`--insecure-ignore-tlog`). The key's password is in COSIGN_PASSWORD.
        """
        bundle = path.with_name(f"{path.name}.bundle")
        how: list[Arg] = ["--key", self.key, "--tlog-upload=false"] if self.key else []
        try:
            run(
                [*self.cosign, "sign-blob", "--yes", *how, "--bundle", bundle, path],
            )
        except CommandError as error:
            lines = [line for line in error.output.splitlines() if line.strip()]
            raise HarnessError(
                f"{path.name} cannot be signed: {lines[-1] if lines else error}",
                hint="for a key with a password set COSIGN_PASSWORD",
            ) from error
        return bundle


def has_identity(environ: Mapping[str, str]) -> bool:
    """Whether cosign can sign without a key."""
    return any(environ.get(name) for name in IDENTITIES)


def check_key(key: Path | None) -> None:
    """Raise UsageError for a key that is no file."""
    if key and not key.is_file():
        raise UsageError(f"there is no key {key}", hint="cosign generate-key-pair makes one")
