"""The origin of a build: its checkout, and the person or CI job that ran it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.system import oidc
from scripts.system.process import Arg, CommandError, run

# The builder of everything that a person builds, in provenance (SLSA's builder.id).
LOCAL = "https://github.com/runfinch/finch-core/finch-os-images/a-persons-machine"

# The builder of everything that a machine builds that claims to be CI and cannot prove it.
UNPROVEN = "https://github.com/runfinch/finch-core/finch-os-images/a-machine-that-claims-to-be-ci"

# The server whose jobs can prove what they are; GitHub Enterprise has other issuers of tokens.
GITHUB = "https://github.com"


@dataclass(frozen=True)
class Checkout:
    """The checkout that was built.

    commit is in hex, or "" if git knows of none. modified are the files that differ from it.
    """

    commit: str
    modified: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: Path) -> Checkout:
        """Return the state of the checkout at root, as git sees it."""
        git: list[Arg] = ["git", "-C", root]
        try:
            commit = run([*git, "rev-parse", "--verify", "HEAD"]).stdout.strip()
            status = run([*git, "status", "--porcelain=v1", "-z"]).stdout
        except (CommandError, FileNotFoundError):
            return cls("")
        return cls(commit, tuple(sorted(line[3:] for line in status.split("\0") if line[3:])))


@dataclass(frozen=True)
class Builder:
    """Who ran the build.

    id and invocation are the URIs of the builder and of its run ("" on a person's machine).
    repository is the URI of the sources, or "" if only this machine has them.
    """

    id: str = LOCAL
    invocation: str = ""
    repository: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str], *, keys: str = oidc.KEYS) -> Builder:
        """Return the builder: a job of GitHub Actions that proves it, or a person's machine.

        Anybody can set the variables GITHUB_*, so they only say when to ask. Everything in the
        result comes from a token that GitHub has signed for this job; keys is the URL of its
        public keys. A machine that claims to be CI without such a token gets an id that says so.
        """
        if environ.get("GITHUB_ACTIONS") != "true":
            return cls()
        try:
            job = oidc.current_job(environ, keys=keys)
        except oidc.TokenError:
            return cls(UNPROVEN)
        return cls(
            id=f"{GITHUB}/{job.workflow_ref}",
            invocation=f"{GITHUB}/{job.repository}/actions/runs/{job.run_id}/attempts/{job.run_attempt}",
            repository=f"git+{GITHUB}/{job.repository}",
        )
