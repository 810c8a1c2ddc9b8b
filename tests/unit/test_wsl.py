"""The validator of tests/wsl.py accepts what is right and names what is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts import archives
from tests import wsl

IMAGE = Path(__file__).resolve().parents[2] / "mkosi.images/wsl-rootfs"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system in little, with the files that our own image adds."""
    tree = tmp_path / "tree"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "boot").mkdir()
    subprocess.run(
        ["cp", "-a", "--no-preserve=ownership", f"{IMAGE}/mkosi.extra/.", tree], check=True
    )
    units = tree / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in wsl.UNITS:
        (units / unit).touch()
    (tree / "etc/shadow").write_text("root:!*:1::::::\ndaemon:*:1::::::\n")
    return tree


def complaints(tree: Path) -> list[str]:
    tar = tree.with_suffix(".tar")
    subprocess.run(
        ["tar", "-C", tree, "--owner=0", "--group=0", "--format=pax", "-cf", tar, "."], check=True
    )
    return wsl.complaints(archives.pack_rootfs(tar, ["gzip", "--no-name"]))


def test_our_configuration_keeps_to_the_rules(tree: Path) -> None:
    assert complaints(tree) == []


@pytest.mark.parametrize("name", wsl.FORBIDDEN)
def test_what_windows_brings_itself_is_named(tree: Path, name: str) -> None:
    (tree / name).symlink_to("somewhere")
    assert complaints(tree) == [f"/{name} is there"]


def test_a_kernel_is_named(tree: Path) -> None:
    (tree / "boot/vmlinuz-6.18").touch()
    assert complaints(tree) == ["/boot/vmlinuz-6.18 is a kernel or an initramfs"]


def test_a_password_is_named(tree: Path) -> None:
    (tree / "etc/shadow").write_text("root:$y$j9T$abc:1::::::\n")
    assert complaints(tree) == ["/etc/shadow has a password of root"]


@pytest.mark.parametrize("unit", wsl.UNITS)
def test_a_unit_that_would_run_is_named(tree: Path, unit: str) -> None:
    (tree / "etc/systemd/system" / unit).unlink()
    assert complaints(tree) == [f"{unit} is neither disabled nor masked"]


@pytest.mark.parametrize("name", wsl.CONFIGURATION)
def test_a_configuration_that_others_may_write_is_named(tree: Path, name: str) -> None:
    (tree / name).chmod(0o666)
    assert complaints(tree) == [f"/{name} is not of root with mode 0644"]


def test_a_tarball_of_names_and_disorder_is_named(tree: Path, tmp_path: Path) -> None:
    subprocess.run(
        ["tar", "-C", tree, "-czf", tmp_path / "plain.wsl", "./usr", "./etc", "./boot"], check=True
    )
    found = wsl.complaints(tmp_path / "plain.wsl")

    assert "the members are not in the order of their names" in found
    assert "the root of the file system is not the root of the archive" in found
    assert "owners have names" in found
