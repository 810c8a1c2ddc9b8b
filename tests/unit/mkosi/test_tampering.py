"""Attempts to slip in another mkosi: by its archive, git's surroundings, or what is kept of it."""

from __future__ import annotations

import io
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.distributions import debian
from scripts.mkosi import installation, package
from scripts.mkosi.patches import apply_patch
from scripts.mkosi.source import Mkosi
from scripts.system.errors import HarnessError
from tests.unit.mkosi.test_source import (
    PATCH,
    asked_for,
    config,
    make_package,
    obtain,
    obtain_as_pinned,
    pack,
    renew,
    tree,
)
from tests.unit.server import Server

__all__ = ["asked_for", "tree"]

EVIL = "import pathlib; pathlib.Path({!r}).touch()\n"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists as soon as any of the attacker's code has run."""
    return tmp_path / "canary"


@pytest.fixture
def patched(asked_for: Path) -> Path:
    """The folder mkosi/ with a patch and the digest that mkosi has with it."""
    (asked_for / "0001-Know.patch").write_text(PATCH)
    renew(asked_for)
    return asked_for


def home_of(patched: Path) -> Path:
    [home] = (patched.parent / "work/mkosi").iterdir()
    return home


def repository(folder: Path, canary: Path) -> None:
    """Make folder a git repository whose filters and hooks touch the canary."""
    trap = folder.parent / f"trap-{folder.name}"
    trap.write_text(f"#!/bin/sh\ntouch '{canary}'\nexec cat\n")
    trap.chmod(0o755)
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    for name in ("core.fsmonitor", "filter.trap.clean", "filter.trap.smudge", "core.pager"):
        subprocess.run(["git", "-C", folder, "config", name, trap], check=True)
    for hook in ("post-index-change", "applypatch-msg", "pre-applypatch"):
        (folder / ".git/hooks").mkdir(exist_ok=True)
        (folder / ".git/hooks" / hook).symlink_to(trap)
    (folder / ".gitattributes").write_text("* filter=trap\n")


# --- archives


@pytest.mark.parametrize("form", ["tarball", "folder"])
def test_a_repository_that_comes_with_mkosi_filters_nothing(
    asked_for: Path, tree: Path, canary: Path, form: str
) -> None:
    repository(tree, canary)
    repository(tree / "mkosi", canary)
    (asked_for / "0001-Know.patch").write_text(PATCH)
    given = tree if form == "folder" else pack(tree, tree.parent / "own.tar.gz")
    made = obtain(asked_for, given)

    assert "line two\n" in config(made)
    assert not canary.exists()
    assert not list(made.folder.rglob(".git*"))


def test_bytecode_that_comes_with_mkosi_is_not_run(
    asked_for: Path, tree: Path, canary: Path
) -> None:
    plant_bytecode(tree / "mkosi", canary)
    made = obtain(asked_for, pack(tree, tree.parent / "own.tar.gz"))

    run_mkosi(made.folder)
    assert not canary.exists()


@pytest.mark.parametrize(
    "name", ["mkosi-27.1/../../../../canary", "mkosi-27.1/mkosi/out/../../../../../canary"]
)
def test_an_archive_that_writes_elsewhere_is_refused(
    asked_for: Path, tree: Path, name: str
) -> None:
    archive = tree.parent / "own.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree, "mkosi-27.1")
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(HarnessError, match=r"own\.tar may not be unpacked: .* leaves the folder"):
        obtain(asked_for, archive)

    assert not list((asked_for.parent / "work/mkosi").iterdir())


def test_a_package_that_is_a_link_is_no_mkosi(asked_for: Path, tree: Path) -> None:
    (tree / "mkosi").rename(tree / "elsewhere")
    (tree / "mkosi").symlink_to("elsewhere")
    with pytest.raises(HarnessError, match="does not contain mkosi"):
        obtain(asked_for, pack(tree, tree.parent / "own.tar.gz"))


def test_a_version_cannot_command_the_terminal(
    asked_for: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "mkosi/sandbox.py").write_bytes(b'__version__ = "\x1b]0;owned\x07\xff"\n')

    assert obtain(asked_for, tree).version == "unknown"
    assert "\x1b" not in capsys.readouterr().err


# --- git's surroundings


@pytest.mark.parametrize(
    "variables",
    [
        ("GIT_DIR",),
        ("GIT_DIR", "GIT_WORK_TREE"),
        ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"),
    ],
)
def test_a_repository_in_the_environment_does_not_make_git_skip_a_patch(
    patched: Path, monkeypatch: pytest.MonkeyPatch, variables: tuple[str, ...]
) -> None:
    other = patched.parent / "other"
    subprocess.run(["git", "init", "--quiet", other], check=True)
    values = {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": patched.parent,
        "GIT_INDEX_FILE": other / ".git/index",
        "GIT_PREFIX": "sub/",
    }
    for name in variables:
        monkeypatch.setenv(name, str(values[name]))

    assert "line two\n" in config(obtain_as_pinned(patched))


@pytest.mark.parametrize("text", ["[core\nnonsense", "[apply]\n\twhitespace = error-all\n"])
def test_the_user_s_configuration_of_git_does_not_count(
    patched: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (patched.parent / ".gitconfig").write_text(text)
    monkeypatch.setenv("HOME", str(patched.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(patched.parent / ".gitconfig"))

    assert "line two\n" in config(obtain_as_pinned(patched))


def test_a_repository_around_the_work_folder_runs_nothing(patched: Path, canary: Path) -> None:
    repository(patched.parent, canary)

    assert "line two\n" in config(obtain_as_pinned(patched))
    assert not canary.exists()


def test_messages_of_git_in_another_language_do_not_hide_a_hunk(
    patched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGUAGE", "de:fr")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    (patched / "0001-Know.patch").write_text(PATCH.replace("line 38", "line XXXVIII"))
    with pytest.raises(HarnessError, match=r"hunk 2 of mkosi/config\.py"):
        obtain_as_pinned(patched)


def test_a_patch_that_is_applied_already_is_an_error(patched: Path, tree: Path) -> None:
    apply_patch(patched / "0001-Know.patch", tree)
    with pytest.raises(HarnessError, match=r"hunk 1 of mkosi/config\.py"):
        apply_patch(patched / "0001-Know.patch", tree)


@pytest.mark.parametrize("says", ["Skipped patch 'mkosi/config.py'.", ""])
def test_a_git_that_changes_nothing_and_succeeds_is_not_believed(
    patched: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    real = shutil.which("git")
    fake = tree.parent / "bin/git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *--numstat*) exec {real} "$@";; esac\necho "{says}" >&2\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(HarnessError, match=r"git left mkosi/config\.py unchanged"):
        apply_patch(patched / "0001-Know.patch", tree)


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "mkosi/../../outside"])
def test_a_patch_changes_nothing_outside_of_mkosi(patched: Path, tree: Path, name: str) -> None:
    (tree.parent / "outside").write_text((tree / "mkosi/config.py").read_text())
    evil = patched / "0001-Know.patch"
    evil.write_text(re.sub(r"\b([ab])/mkosi/config\.py", rf"\1/{name}", PATCH))
    with pytest.raises(HarnessError, match="does not apply"):
        apply_patch(evil, tree)

    assert "line two" not in (tree.parent / "outside").read_text()


# --- the pin


def test_a_changed_patch_names_the_command_that_renews_the_pin(patched: Path) -> None:
    other = PATCH.replace("+line two", "+line zwei")
    (patched / "0001-Know.patch").write_text(other)
    with pytest.raises(HarnessError) as caught:
        obtain_as_pinned(patched)

    assert "with our patches, has the digest" in caught.value.message
    assert caught.value.hint == (
        "if you changed a patch, renew the pin: ./nox -s patch-check -- --pin"
    )
    assert not list((patched.parent / "work/mkosi").iterdir())


def test_an_unpatched_mkosi_is_refused(patched: Path) -> None:
    (patched / "0001-Know.patch").unlink()
    with pytest.raises(HarnessError, match="is pinned"):
        obtain_as_pinned(patched)


# --- what is kept


def plant_bytecode(folder: Path, canary: Path) -> None:
    """Put bytecode of other code beside __main__.py, which Python takes for up to date."""
    source = folder / "__main__.py"
    evil = folder.parent / "evil.py"
    evil.write_text(EVIL.format(str(canary)))
    target = Path(folder, "__pycache__", f"sandbox.{sys.implementation.cache_tag}.pyc")
    target.parent.mkdir(exist_ok=True)
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(evil), str(target), invalidation_mode=unchecked, doraise=True)
    evil.unlink()
    assert source.exists()


def run_mkosi(folder: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import json, mkosi.sandbox"],
        env={"PYTHONPATH": os.fspath(folder)},
        check=True,
    )


def alter_file(home: Path, canary: Path) -> None:
    (home / "mkosi/sandbox.py").write_text(EVIL.format(str(canary)))


def alter_file_and_record(home: Path, canary: Path) -> None:
    """The attack on a record that attests itself."""
    alter_file(home, canary)
    record = json.loads((home / "mkosi.json").read_text())
    record |= {"digest": package.digest(home / "mkosi"), "folder": "."}
    (home / "mkosi.json").write_text(json.dumps(record))


def name_another_folder(home: Path, canary: Path, *, absolute: bool) -> None:
    evil = make_package(home.parents[2] / "evil")
    alter_file(evil, canary)
    folder = os.fspath(evil) if absolute else os.path.relpath(evil, home)
    record = {"folder": folder, "version": "27.1", "digest": package.digest(evil / "mkosi")}
    (home / "mkosi.json").write_text(json.dumps(record | {"source": "evil", "patches": {}}))


def link_home(home: Path, canary: Path) -> None:
    evil = make_package(home.parents[2] / "evil")
    alter_file(evil, canary)
    shutil.rmtree(home)
    home.symlink_to(evil)


def link_package(home: Path, canary: Path) -> None:
    evil = make_package(home.parents[2] / "evil")
    alter_file(evil, canary)
    shutil.rmtree(home / "mkosi")
    (home / "mkosi").symlink_to(evil / "mkosi")


def link_file(home: Path, _canary: Path) -> None:
    content = home.parents[2] / "content.py"
    (home / "mkosi/sandbox.py").rename(content)
    (home / "mkosi/sandbox.py").symlink_to(content)


ATTACKS: dict[str, Callable[[Path, Path], None]] = {
    "a file": alter_file,
    "a file and the record": alter_file_and_record,
    "an absolute folder": lambda home, canary: name_another_folder(home, canary, absolute=True),
    "a folder with ..": lambda home, canary: name_another_folder(home, canary, absolute=False),
    "a link in place of the home": link_home,
    "a link in place of the package": link_package,
    "a link in place of a file": link_file,
    "bytecode": lambda home, canary: plant_bytecode(home / "mkosi", canary),
    "a module beside the package": lambda home, canary: plant(home / "json.py", canary),
    "a module of the site": lambda home, canary: plant(home / "sitecustomize.py", canary),
    "another file": lambda home, canary: plant(home / "mkosi/other.py", canary),
    "a pipe": lambda home, _canary: os.mkfifo(home / "mkosi/pipe"),
    "a source that commands the terminal": lambda home, _canary: rename_source(home),
    "patches that were never applied": lambda home, _canary: claim_patches(home),
    "a record that is not text": lambda home, _canary: replace_record(home, bytes_=b"\xff"),
    "a pipe in place of the record": lambda home, _canary: replace_record(home, pipe=True),
    "a folder in place of the record": lambda home, _canary: replace_record(home),
    "a file in place of the home": lambda home, _canary: replace_home(home),
}


def replace_record(home: Path, *, bytes_: bytes | None = None, pipe: bool = False) -> None:
    record = home / "mkosi.json"
    record.unlink()
    if pipe:
        os.mkfifo(record)
    elif bytes_ is None:
        record.mkdir()
    else:
        record.write_bytes(bytes_)


def replace_home(home: Path) -> None:
    shutil.rmtree(home)
    home.write_text("no folder")


def plant(path: Path, canary: Path) -> None:
    path.write_text(EVIL.format(str(canary)))


def rename_source(home: Path) -> None:
    record = json.loads((home / "mkosi.json").read_text())
    (home / "mkosi.json").write_text(json.dumps(record | {"source": "\x1b[2Jupstream"}))


def claim_patches(home: Path) -> None:
    record = json.loads((home / "mkosi.json").read_text())
    (home / "mkosi.json").write_text(json.dumps(record | {"patches": {"0007-Evil.patch": "0"}}))


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_kept_mkosi_that_was_altered_is_made_anew(
    patched: Path, canary: Path, attack: str
) -> None:
    before = obtain_as_pinned(patched)
    ATTACKS[attack](home_of(patched), canary)
    made = obtain_as_pinned(patched)

    assert made == before
    run_mkosi(made.folder)
    assert not canary.exists()
    assert package.digest(made.folder / "mkosi") != ""
    assert "line two\n" in config(made)


def test_a_kept_mkosi_of_the_user_s_own_is_made_anew_as_well(
    asked_for: Path, tree: Path, canary: Path
) -> None:
    before = obtain(asked_for, tree)
    alter_file_and_record(before.folder, canary)
    made = obtain(asked_for, tree)

    assert made == before
    run_mkosi(made.folder)
    assert not canary.exists()


def test_a_mkosi_that_another_build_uses_stays_in_place(asked_for: Path, tree: Path) -> None:
    inode = obtain(asked_for, tree).sandbox.stat().st_ino

    assert obtain(asked_for, tree).sandbox.stat().st_ino == inode


# --- what is installed


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    return site


def stamp(site: Path, made: Mkosi) -> None:
    (site / "mkosi/.digest").write_text(made.digest)


@pytest.mark.parametrize(
    "attack", ["a file", "bytecode", "another file", "a link in place of the package", "a pipe"]
)
def test_an_installed_mkosi_that_was_altered_is_installed_anew(
    patched: Path, site: Path, canary: Path, attack: str
) -> None:
    made = obtain_as_pinned(patched)
    installation.install(made, site)
    (site / "deep/er").mkdir(parents=True)
    home = site / "deep/er/home"
    home.mkdir()
    (site / "mkosi").rename(home / "mkosi")
    ATTACKS[attack](home, canary)
    (home / "mkosi").rename(site / "mkosi")
    stamp(site, made)
    installation.install(made, site)

    run_mkosi(site)
    assert not canary.exists()
    assert package.digest(site / "mkosi") is not None
    package.drop_bytecode(site / "mkosi")
    assert package.digest(site / "mkosi") == made.digest


def test_a_mkosi_that_changes_while_it_is_installed_is_not_installed(
    patched: Path, site: Path, canary: Path
) -> None:
    made = obtain_as_pinned(patched)
    alter_file(made.folder, canary)
    with pytest.raises(HarnessError, match="was changed while"):
        installation.install(made, site)

    assert not (site / "mkosi").exists()


def test_the_newest_older_mkosi_of_a_stale_mirror_is_refused(
    asked_for: Path, server: Server, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt vouches for every version that the archive ever had."""
    server.files.clear()
    older = pack(make_package(tree.parent / "older", "26"), tree.parent / "mkosi_26.tar.gz")
    monkeypatch.setattr(debian, "download", lambda *_, **__: older)
    with pytest.raises(HarnessError, match=r"is older than mkosi 27\.1, which is pinned"):
        obtain(asked_for)
