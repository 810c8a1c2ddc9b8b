"""Signs files with cosign, with a key or with the identity of a CI job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts import catalog
from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import Arg, CommandError, last_line, run

# The environment variables that give a job an identity: the first is set by GitHub Actions in jobs
# with the permission id-token: write, the second holds a token from elsewhere.
IDENTITIES = ("ACTIONS_ID_TOKEN_REQUEST_URL", "SIGSTORE_ID_TOKEN")

# Variables that cosign needs: the password of a key, or the identity of a job.
CREDENTIALS = r"(COSIGN|SIGSTORE|TUF|ACTIONS_ID_TOKEN_REQUEST)_\w+"


@dataclass(frozen=True)
class Signer:
    """The command that starts cosign, and the private key; None means signing with an identity."""

    cosign: Sequence[Arg]
    key: Path | None

    def sign(self, path: Path) -> Path:
        """Sign the file at path and return the signature, a bundle beside it.

        With a key, nothing is written to the public log, so its server need not be reachable.
        Such signatures are verified with `--insecure-ignore-tlog`. The key's password comes from
        the variable COSIGN_PASSWORD. Raises HarnessError.
        """
        bundle = path.with_name(f"{path.name}.bundle")
        how: list[Arg] = ["--key", self.key, "--tlog-upload=false"] if self.key else []
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

    def check(self, path: Path, bundle: Path) -> None:
        """Raise HarnessError unless bundle is a signature of the file at path, made with the key.

        A signature by identity is not checked: it is verified against the name of a workflow, and
        this process's environment is a less reliable source of that than the people who download
        the file.
        """
        if not self.key:
            return
        public = bundle.with_name(f"{bundle.name}.pub")
        try:
            printed = run([*self.cosign, "public-key", "--key", self.key], also=CREDENTIALS)
            public.write_text(printed.stdout)
            run(
                [*self.cosign, "verify-blob", "--key", public, "--insecure-ignore-tlog",
                 "--bundle", bundle, path]
            )  # fmt: skip
        except CommandError as error:
            raise HarnessError(
                f"the published signature of {path.name} was not made with {self.key}: "
                f"{last_line(error.output) or error}",
                hint="if the key has a password, set COSIGN_PASSWORD; else publish with another "
                f"{catalog.flag('run-id')}",
            ) from error
        finally:
            public.unlink(missing_ok=True)


def has_identity(environ: Mapping[str, str]) -> bool:
    """Whether cosign can sign without a key, by what environ has."""
    return any(environ.get(name) for name in IDENTITIES)


def check_key(key: Path | None) -> None:
    """Raise UsageError if key is not a file."""
    if key and not key.is_file():
        raise UsageError(f"there is no key {key}", hint="cosign generate-key-pair makes one")
