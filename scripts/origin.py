"""The origin of a build: its checkout, and the person or CI job that ran it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.system.process import Arg, CommandError, run

# The builder of everything that a person builds, in provenance (SLSA's builder.id).
LOCAL = "https://github.com/runfinch/finch-core/finch-os-images/a-persons-machine"


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
    def of(cls, environ: Mapping[str, str]) -> Builder:
        """Return the builder: GitHub Actions if environ is its environment, or a person's machine.

        https://docs.github.com/actions/reference/workflows-and-actions/variables
        """
        if environ.get("GITHUB_ACTIONS") != "true":
            return cls()
        server, repository, workflow, run_id, attempt = (
            environ.get(f"GITHUB_{name}", "unknown")
            for name in ("SERVER_URL", "REPOSITORY", "WORKFLOW_REF", "RUN_ID", "RUN_ATTEMPT")
        )
        return cls(
            id=f"{server}/{workflow}",
            invocation=f"{server}/{repository}/actions/runs/{run_id}/attempts/{attempt}",
            repository=f"git+{server}/{repository}",
        )
