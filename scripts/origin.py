"""The origin of a build: its checkout, and the person or CI job that ran it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.system import git
from scripts.system.errors import MachineError
from scripts.system.process import CommandError

# The builder of everything that a person builds, in provenance (SLSA's builder.id).
LOCAL = "https://github.com/runfinch/finch-core/finch-os-images/a-persons-machine"

# The builder's ID if a machine claims to be CI and cannot prove it.
UNPROVEN = "https://github.com/runfinch/finch-core/finch-os-images/a-machine-that-claims-to-be-ci"

# The server whose jobs can prove what they are; GitHub Enterprise has other issuers of tokens.
GITHUB = "https://github.com"

# The files of a checkout that a build reads, as git's pathspecs. A file among them takes part even
# if git ignores it. The last ones exclude the folders that mkosi leaves behind if it is called by
# hand.
PARTS = (
    *(":(glob)mkosi.*", ":(glob)mkosi.*/**", "mkosi", "scripts", "third-party"),
    *("al2023-package-build", "binfmt", "requirements"),
    *(":(exclude,glob)scripts/**/__pycache__/**", ":(exclude,glob)mkosi.tools*"),
    *(f":(exclude,glob)mkosi.{name}*/**" for name in ("tools", "cache", "output", "workspace")),
)

# git's name of a symbolic link's and a submodule's mode (git-fast-import(1)).
LINK, SUBMODULE = "120000", "160000"


@dataclass(frozen=True)
class Checkout:
    """The checkout that was built.

    commit is in hex, or "" if it is unknown, and then reason says why. modified are the files that
    differ from the commit, and those that took part although the commit does not have them.
    """

    commit: str
    modified: tuple[str, ...] = ()
    reason: str = ""

    @classmethod
    def of(cls, root: Path) -> Checkout:
        """Return the state of the checkout at root.

        The contents of files are compared, not git's cached state: someone may have told git to
        overlook a change. No filter runs.
        """
        try:
            if reason := _refusal(root):
                return cls("", reason=reason)
            commit = git.read(root, "rev-parse", "--verify", "HEAD^{commit}").strip()
        except MachineError as error:
            return cls("", reason=error.message)
        except CommandError:
            return cls("", reason="it has no commit yet")
        try:
            return cls(commit, tuple(sorted(_modified(root, commit))))
        except (CommandError, OSError):
            return cls("", reason="its files cannot be compared with its commit")


def _refusal(root: Path) -> str:
    """Return why root is not a checkout of its own to git, "" if it is one."""
    try:
        top = git.read(root, "rev-parse", "--show-toplevel").removesuffix("\n")
    except CommandError as error:
        if "not a git repository" in error.output:
            return "it is not a git checkout"
        return "git cannot read its repository"
    try:
        is_own = Path(top).samefile(root)
    except OSError:  # its configuration names another folder, or the path is not UTF-8
        return f"git looks for its files in {top!r}, which is not there"
    # An unpacked archive may lie inside some other repository.
    return "" if is_own else "it is not a checkout, but lies inside another one"


def _modified(root: Path, commit: str) -> Iterator[str]:
    """Yield the files below root that commit does not have, or has with other contents."""
    committed = _committed(root, commit)
    listed = git.read(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    ignored = git.read(root, "ls-files", "-z", "--others", "--", *PARTS)
    yield from {name for name in (listed + ignored).split("\0") if name} - committed.keys()
    has_modes = git.read(root, "config", "--type=bool", "--default=true", "core.fileMode")
    for name, (mode, digest) in committed.items():
        if not _is_unchanged(root / name, mode, digest, has_modes=has_modes.strip() == "true"):
            yield name


def _committed(root: Path, commit: str) -> dict[str, tuple[str, str]]:
    """Return mode and digest of the files in commit, by path."""
    tree = git.read(root, "ls-tree", "-r", "-z", "--full-tree", commit)
    entries = (entry.split("\t", 1) for entry in tree.split("\0") if entry)
    found = {name: description.split() for description, name in entries}
    return {name: (mode, digest) for name, (mode, _, digest) in found.items() if mode != SUBMODULE}


def _is_unchanged(path: Path, mode: str, digest: str, *, has_modes: bool) -> bool:
    """Return whether the file at path has the mode and the digest that git recorded."""
    try:
        if path.is_symlink() or mode == LINK:
            content = os.fsencode(path.readlink())
            return mode == LINK and _blob(content, digest) == digest
        runs = bool(path.stat().st_mode & stat.S_IXUSR)
        if has_modes and runs != (mode == "100755"):
            return False
        return _blob(path.read_bytes(), digest) == digest
    except OSError:  # it is gone, a folder, or not readable
        return False


def _blob(content: bytes, like: str) -> str:
    """Return git's digest of a file with content, by the algorithm that made the digest like."""
    algorithm = "sha256" if len(like) == hashlib.sha256().digest_size * 2 else "sha1"
    # git's own digest of a file; nothing here relies on it being hard to forge.
    made = hashlib.new(algorithm, usedforsecurity=False)
    made.update(b"blob %d\0" % len(content))
    made.update(content)
    return made.hexdigest()


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
    def of(cls, environ: Mapping[str, str], *, keys: str = "") -> Builder:
        """Return the builder: a job of GitHub Actions that proves it, or a person's machine.

        Anybody can set the variables GITHUB_*, so they only say when to ask. Everything in the
        result comes from a token that GitHub has signed for this job; keys is the URL of its
        public keys, "" for GitHub's own. A machine that claims to be CI without such a token gets
        an id that says so.
        """
        if environ.get("GITHUB_ACTIONS") != "true":
            return cls()
        # The noxfile imports this module, in an environment without any library.
        from scripts.system import oidc  # noqa: PLC0415

        try:
            job = oidc.current_job(environ, keys=keys or oidc.KEYS)
        except oidc.TokenError:
            return cls(UNPROVEN)
        return cls(
            id=f"{GITHUB}/{job.workflow_ref}",
            invocation=f"{GITHUB}/{job.repository}/actions/runs/{job.run_id}/attempts/{job.run_attempt}",
            repository=f"git+{GITHUB}/{job.repository}",
        )
