from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import arch
from scripts.stages import configuration, plan
from scripts.stages.plan import StageTarget
from scripts.system.errors import UsageError

TARGET = StageTarget("debian", arch.X86_64, {"release": "trixie"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with one image, whose files have the modes of a usual clone."""
    root = tmp_path / "checkout"
    write(root / "mkosi.conf", "[Output]\nFormat=none\n")
    write(root / "mkosi.images/base/mkosi.conf", "[Output]\nFormat=directory\n")
    write(root / "mkosi.images/base/mkosi.postinst", "#!/bin/sh\n").chmod(0o755)
    write(root / "mkosi.images/base/mkosi.extra/etc/motd", "hello\n")
    link = root / "mkosi.images/base/mkosi.extra/etc/localtime"
    link.symlink_to("/usr/share/zoneinfo/UTC")
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def git(root: Path, *argv: str) -> None:
    subprocess.run(["git", "-C", root, *argv], check=True, capture_output=True)


def commit(root: Path) -> None:
    git(root, "init", "--quiet")
    git(root, "add", "--all")


def key(root: Path) -> str:
    [stage] = plan.plan(root, ["base"], TARGET)
    return stage.key


def contents(root: Path) -> dict[str, tuple[str, str | bool]]:
    """The type, mode and contents of everything below root."""
    found: dict[str, tuple[str, str | bool]] = {}
    for path in sorted(root.rglob("*")):
        mode = oct(path.lstat().st_mode)
        text = str(path.readlink()) if path.is_symlink() else path.is_file() and path.read_text()
        found[path.relative_to(root).as_posix()] = (mode, text)
    return found


def copied(root: Path) -> dict[str, tuple[str, str | bool]]:
    target = root.with_name("copy")
    configuration.copy(root, target)
    return contents(target)


def test_the_copy_has_the_same_key_as_the_checkout(root: Path) -> None:
    commit(root)
    configuration.copy(root, root.with_name("copy"))

    assert key(root.with_name("copy")) == key(root)


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_the_umask_of_a_clone_reaches_neither_key_nor_image(root: Path, umask: int) -> None:
    commit(root)
    expected = key(root), copied(root)
    for path in (path for path in root.rglob("*") if not path.is_symlink()):
        if ".git" not in path.parts:
            path.chmod(path.stat().st_mode & ~umask if umask else 0o777)

    assert (key(root), copied(root)) == expected


def test_a_file_system_on_which_everything_is_executable_changes_nothing(root: Path) -> None:
    commit(root)
    expected = key(root), copied(root)
    for path in root.rglob("mkosi.*"):
        path.chmod(0o777)
    (root / "mkosi.images/base/mkosi.extra/etc/motd").chmod(0o777)

    assert (key(root), copied(root)) == expected


def test_git_says_what_may_be_executed_in_a_folder_of_a_larger_checkout(root: Path) -> None:
    commit(root.parent)
    expected = key(root)
    (root / "mkosi.images/base/mkosi.extra/etc/motd").chmod(0o777)

    assert key(root) == expected


def test_without_git_the_file_system_says_what_may_be_executed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(root)
    expected = key(root)
    monkeypatch.setenv("PATH", "/nowhere")

    assert key(root) == expected


def test_special_modes_do_not_reach_an_image(root: Path) -> None:
    (root / "mkosi.images/base/mkosi.extra/etc/motd").chmod(0o6777)

    mode, _ = copied(root)["mkosi.images/base/mkosi.extra/etc/motd"]

    assert mode == oct(0o100755)


def test_whether_a_file_may_be_executed_matters(root: Path) -> None:
    before = key(root)
    (root / "mkosi.images/base/mkosi.extra/etc/motd").chmod(0o755)

    assert key(root) != before


@pytest.mark.parametrize(
    "name", ["mkosi.extra/etc/planted", "mkosi.extra/etc/.planted.swp", "mkosi.postinst~"]
)
def test_an_untracked_file_that_reaches_the_image_changes_the_key(root: Path, name: str) -> None:
    commit(root)
    before = key(root)
    write(root / "mkosi.images/base" / name, "planted")

    assert key(root) != before
    assert f"mkosi.images/base/{name}" in copied(root)


@pytest.mark.parametrize(
    "name",
    [
        "mkosi.images/base/mkosi.extra/usr/lib/__pycache__/planted.pyc",
        "mkosi.images/base/README.md",
        "mkosi.profiles/README.md",
        "mkosi.output/image",
        "mkosi.cache/planted",
    ],
)
def test_a_file_that_leaves_the_key_as_it_is_does_not_reach_mkosi(root: Path, name: str) -> None:
    before = key(root)
    write(root / name, "planted")

    assert key(root) == before
    assert name not in copied(root)


def test_an_empty_folder_which_git_does_not_see_does_not_reach_the_image(root: Path) -> None:
    (root / "mkosi.images/base/mkosi.extra/opt").mkdir()

    assert "mkosi.images/base/mkosi.extra/opt" not in copied(root)


@pytest.mark.parametrize("name", ["mkosi.crt", "mkosi.version", "mkosi.rootpw", "mkosi.env"])
def test_every_file_that_mkosi_finds_by_its_name_is_in_the_key(root: Path, name: str) -> None:
    before = key(root)
    write(root / name, "planted")

    assert key(root) != before


@pytest.mark.parametrize(
    "name", ["mkosi.sandbox", "mkosi.pkgmngr", "mkosi.packages", "mkosi.extra"]
)
def test_every_folder_that_mkosi_finds_by_its_name_is_in_the_key(root: Path, name: str) -> None:
    before = key(root)
    write(root / name / "etc/planted", "planted")

    assert key(root) != before


def test_the_target_of_a_drop_in_that_is_a_link_is_in_the_key(root: Path, tmp_path: Path) -> None:
    target = write(tmp_path / "elsewhere.conf", "[Content]\nBootable=no\n")
    (root / "mkosi.conf.d").mkdir()
    (root / "mkosi.conf.d/10-link.conf").symlink_to(target)
    before = key(root)
    target.write_text("[Content]\nBootable=yes\n")

    assert key(root) != before
    assert copied(root)["mkosi.conf.d/10-link.conf"] == (oct(0o100644), target.read_text())


def test_the_files_in_a_tree_that_is_a_link_are_in_the_key(root: Path, tmp_path: Path) -> None:
    planted = write(tmp_path / "tree/etc/planted", "one")
    (root / "mkosi.skeleton").symlink_to(tmp_path / "tree")
    before = key(root)
    planted.write_text("two")

    assert key(root) != before
    assert copied(root)["mkosi.skeleton/etc/planted"] == (oct(0o100644), "two")


def test_links_in_a_tree_stay_links(root: Path) -> None:
    link = copied(root)["mkosi.images/base/mkosi.extra/etc/localtime"]

    assert link == (oct(0o120777), "/usr/share/zoneinfo/UTC")


def test_a_private_key_stays_private(root: Path) -> None:
    write(root / "mkosi.key", "secret")

    assert copied(root)["mkosi.key"][0] == oct(0o100600)


@pytest.mark.parametrize(
    "plant",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/nowhere"),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("."),
    ],
    ids=["a fifo", "a link to nothing", "a link to a device", "a loop"],
)
def test_what_cannot_be_copied_is_one_sentence(root: Path, plant: Callable[[Path], None]) -> None:
    (root / "mkosi.conf.d").mkdir()
    plant(root / "mkosi.conf.d/planted.conf")

    with pytest.raises(UsageError, match=r"planted\.conf"):
        configuration.copy(root, root.with_name("copy"))


def test_a_copy_has_nothing_of_the_copy_before(root: Path) -> None:
    planted = write(root / "mkosi.local.conf", "[Content]\n")
    copied(root)
    planted.unlink()

    assert "mkosi.local.conf" not in copied(root)


def test_a_checkout_inside_another_repository_takes_no_modes_from_it(
    root: Path, tmp_path: Path
) -> None:
    commit(root)
    inner = root / "inner"
    shutil.copytree(root, inner, symlinks=True, ignore=shutil.ignore_patterns(".git", "inner"))
    script = inner / "mkosi.images/base/mkosi.postinst"
    script.chmod(0o644)

    configuration.copy(inner, tmp_path / "copy")

    assert not (tmp_path / "copy/mkosi.images/base/mkosi.postinst").stat().st_mode & 0o111
