"""What a build says of its checkout, and that git runs nothing that the checkout names."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.origin import Checkout

NOBODY = 65534

AS_SOMEBODY = ("-c", "user.name=T", "-c", "user.email=t@example.org")


def git(root: Path, *args: str | Path) -> str:
    """Run git as a user would, whatever environment the tests have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", root, *AS_SOMEBODY, *args],
        env={**kept, "GIT_CONFIG_GLOBAL": os.devnull},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def commit(root: Path) -> str:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "one")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clean checkout that looks like ours."""
    root = tmp_path / "check ä out"
    (root / "mkosi.images/base/mkosi.extra/etc").mkdir(parents=True)
    (root / "scripts").mkdir()
    (root / "mkosi.conf").write_text("[Output]\n")
    (root / "mkosi.images/base/mkosi.extra/etc/motd").write_text("hello\n")
    (root / "scripts/build.py").write_text("build\n")
    (root / "nox").write_text("#!/bin/sh\n")
    (root / "nox").chmod(0o755)
    (root / "link").symlink_to("nox")
    (root / ".gitignore").write_text("/.work/\n__pycache__/\n*.pyc\n/mkosi.local*\n/mkosi.tools*\n")
    git(tmp_path, "init", "--quiet", root)
    commit(root)
    return root


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists as soon as anything of the checkout was executed."""
    return tmp_path / "canary"


def head(root: Path) -> str:
    return git(root, "rev-parse", "HEAD")


def test_a_clean_checkout_is_its_commit_and_nothing_more(root: Path) -> None:
    (root / ".work/mkosi").mkdir(parents=True)
    (root / ".work/mkosi/file").touch()
    (root / "scripts/__pycache__").mkdir()
    (root / "scripts/__pycache__/build.cpython-312.pyc").touch()
    (root / "mkosi.tools").mkdir()
    (root / "mkosi.tools/bash").touch()

    assert Checkout.of(root) == Checkout(head(root))


def test_a_commit_by_sha256_is_known_as_well(root: Path) -> None:
    shutil.rmtree(root / ".git")
    git(root.parent, "init", "--quiet", "--object-format=sha256", root)
    made = commit(root)

    assert len(made) == 64
    assert Checkout.of(root) == Checkout(made)


@pytest.mark.parametrize(
    "name",
    [
        "mkosi.local.conf",
        "mkosi.local/mkosi.conf",
        "mkosi.images/base/mkosi.extra/usr/lib/x/__pycache__/x.pyc",
        "mkosi.images/base/mkosi.extra/etc/secret",
        "mkosi.conf.d/own.conf",
        "scripts/own.py",
        "new.txt",
    ],
)
def test_a_file_that_git_ignores_or_does_not_know_is_named_if_it_takes_part(
    root: Path, name: str
) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("1")

    assert Checkout.of(root).modified == (name,)


def test_a_file_that_was_added_but_not_committed_is_named(root: Path) -> None:
    (root / "mkosi.local.conf").write_text("1")
    git(root, "add", "--force", "mkosi.local.conf")

    assert Checkout.of(root).modified == ("mkosi.local.conf",)


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_change_that_git_was_told_to_overlook_is_named(root: Path, flag: str) -> None:
    git(root, "update-index", flag, "mkosi.conf")
    (root / "mkosi.conf").write_text("[Evil]\n")

    assert git(root, "status", "--porcelain") == ""
    assert Checkout.of(root).modified == ("mkosi.conf",)


def test_a_commit_that_is_replaced_by_another_is_compared_as_itself(root: Path) -> None:
    honest = head(root)
    (root / "mkosi.conf").write_text("[Evil]\n")
    evil = commit(root)
    git(root, "reset", "--quiet", "--hard", honest)
    git(root, "replace", honest, evil)
    (root / "mkosi.conf").write_text("[Evil]\n")

    assert Checkout.of(root) == Checkout(honest, ("mkosi.conf",))


def test_a_removed_file_another_link_and_another_mode_are_named(root: Path) -> None:
    (root / "mkosi.conf").unlink()
    (root / "nox").chmod(0o644)
    (root / "link").unlink()
    (root / "link").symlink_to("mkosi.conf")

    assert Checkout.of(root).modified == ("link", "mkosi.conf", "nox")


def test_a_file_system_without_modes_changes_nothing(root: Path) -> None:
    git(root, "config", "core.fileMode", "false")
    (root / "mkosi.conf").chmod(0o777)

    assert Checkout.of(root) == Checkout(head(root))


def booby_trap(root: Path, canary: Path) -> None:
    """Let every setting of the repository that git could execute touch the canary."""
    trap = root.parent / "trap"
    trap.write_text(f"#!/bin/sh\ntouch '{canary}'\nexit 1\n")
    trap.chmod(0o755)
    hooks = root.parent / "hooks"
    hooks.mkdir()
    for hook in ("post-index-change", "pre-auto-gc", "reference-transaction", "fsmonitor-watchman"):
        (hooks / hook).symlink_to(trap)
    for name, value in {
        "core.fsmonitor": trap,
        "core.hooksPath": hooks,
        "core.pager": trap,
        "core.sshCommand": trap,
        "core.askPass": trap,
        "core.editor": trap,
        "diff.external": trap,
        "diff.trap.textconv": trap,
        "filter.trap.clean": trap,
        "filter.trap.smudge": trap,
        "filter.trap.process": trap,
        "filter.trap.required": "true",
        "alias.ls-files": f"!{trap}",
        "alias.rev-parse": f"!{trap}",
        "core.attributesFile": root.parent / "attributes",
        "remote.origin.url": root.parent / "origin",
        "remote.origin.uploadpack": trap,
        "remote.origin.promisor": "true",
        "protocol.file.allow": "always",
        "extensions.partialClone": "origin",
        "core.repositoryFormatVersion": "1",
    }.items():
        git(root, "config", name, str(value))
    git(root.parent, "init", "--quiet", root.parent / "origin")
    (root.parent / "attributes").write_text("* filter=trap diff=trap\n")
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/attributes").write_text("* filter=trap diff=trap\n")


def test_nothing_that_a_repository_configures_is_executed(root: Path, canary: Path) -> None:
    made = head(root)
    booby_trap(root, canary)
    os.utime(root / "mkosi.conf", (0, 0))  # git would filter the file to see if it has changed
    (root / "scripts/build.py").write_text("build!\n")

    assert Checkout.of(root) == Checkout(made, ("scripts/build.py",))
    assert not canary.exists()
    subprocess.run(["git", "-C", root, "status"], capture_output=True, check=False)
    assert canary.exists()  # the trap works


def test_a_missing_object_is_fetched_from_nobody(root: Path, canary: Path) -> None:
    tree = git(root, "rev-parse", "HEAD^{tree}")
    booby_trap(root, canary)
    (root / f".git/objects/{tree[:2]}/{tree[2:]}").unlink()
    found = Checkout.of(root)

    assert found == Checkout("", reason="its files cannot be compared with its commit")
    assert not canary.exists()
    subprocess.run(["git", "-C", root, "ls-tree", "HEAD"], capture_output=True, check=False)
    assert canary.exists()  # the trap works


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_owner_s_checkout_is_read_but_not_obeyed(root: Path, canary: Path) -> None:
    made = head(root)
    booby_trap(root, canary)
    for path in [root, *root.rglob("*")]:
        os.lchown(path, NOBODY, NOBODY)
    (root / "mkosi.conf").write_text("changed\n")

    refused = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    assert "dubious ownership" in refused.stderr
    assert Checkout.of(root) == Checkout(made, ("mkosi.conf",))
    assert not canary.exists()


@pytest.mark.parametrize(
    "variable",
    [
        *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"),
        *("GIT_COMMON_DIR", "GIT_CEILING_DIRECTORIES", "GIT_CONFIG_PARAMETERS"),
    ],
)
def test_another_repository_in_the_environment_is_not_asked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    expected = Checkout(head(root))
    git(tmp_path, "init", "--quiet", tmp_path / "other")
    monkeypatch.setenv(variable, str(tmp_path / "other/.git"))

    assert Checkout.of(root) == expected


def test_a_broken_configuration_of_the_user_is_not_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Checkout(head(root))
    (tmp_path / ".gitconfig").write_text("[core\nnonsense")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(tmp_path / ".gitconfig"))

    assert Checkout.of(root) == expected


def test_a_tarball_in_another_repository_does_not_take_its_commit(root: Path) -> None:
    unpacked = root / "unpacked"
    unpacked.mkdir()
    (unpacked / "mkosi.conf").touch()
    commit(root)

    assert Checkout.of(unpacked) == Checkout(
        "", reason="it is not a checkout, but lies inside another one"
    )


def test_a_checkout_whose_work_tree_is_elsewhere_does_not_speak_for_it(root: Path) -> None:
    git(root, "config", "core.worktree", root.parent)

    assert Checkout.of(root).commit == ""


def test_a_checkout_whose_work_tree_is_nowhere_has_no_commit(root: Path) -> None:
    git(root, "config", "core.worktree", "/nowhere")

    assert Checkout.of(root) == Checkout(
        "", reason="git looks for its files in '/nowhere', which is not there"
    )


def test_a_checkout_whose_path_is_not_utf_8_has_no_commit(root: Path) -> None:
    other = root.with_name(os.fsdecode(b"checkout-\xe9"))
    root.rename(other)
    found = Checkout.of(other)

    assert not found.commit
    assert "which is not there" in found.reason


def test_a_worktree_and_a_link_to_a_checkout_are_checkouts(root: Path, tmp_path: Path) -> None:
    git(root, "worktree", "add", "--quiet", "--detach", tmp_path / "worktree")
    (tmp_path / "link").symlink_to(root)

    assert Checkout.of(tmp_path / "worktree") == Checkout(head(root))
    assert Checkout.of(tmp_path / "link") == Checkout(head(root))


def test_why_a_commit_is_unknown_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".git/HEAD").write_text("ref: refs/heads/none-yet\n")
    assert Checkout.of(root).reason == "it has no commit yet"
    (root / ".git/config").write_text("[core\n")
    assert Checkout.of(root).reason == "git cannot read its repository"
    shutil.rmtree(root / ".git")
    assert Checkout.of(root).reason == "it is not a git checkout"
    monkeypatch.setenv("PATH", "/nowhere")
    assert Checkout.of(root).reason == "git is not installed"
