"""The validator of tests/wsl.py accepts what is right and names what is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.formats import archives
from tests import wsl

IMAGE = Path(__file__).resolve().parents[3] / "mkosi.images/wsl-rootfs"


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
        (units / unit).write_text("[Unit]\nDescription=Wanted by what Windows does\n")
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


RESOLVED = "systemd-resolved.service"


@pytest.fixture
def disabled(tree: Path) -> Path:
    """The tree, in which a unit is disabled instead of masked."""
    (tree / "etc/systemd/system" / RESOLVED).unlink()
    text = "[Install]\nWantedBy=sysinit.target\nAlias=dbus-org.freedesktop.resolve1.service\n"
    (tree / "usr/lib/systemd/system" / RESOLVED).write_text(text)
    return tree


def test_a_disabled_unit_does_not_run(disabled: Path) -> None:
    assert complaints(disabled) == []


def test_a_unit_that_is_not_there_does_not_run(disabled: Path) -> None:
    (disabled / "usr/lib/systemd/system" / RESOLVED).unlink()
    assert complaints(disabled) == []


@pytest.mark.parametrize(
    "link", [f"sysinit.target.wants/{RESOLVED}", "dbus-org.freedesktop.resolve1.service"]
)
def test_an_enabled_unit_is_named(disabled: Path, link: str) -> None:
    path = disabled / "etc/systemd/system" / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(f"/usr/lib/systemd/system/{RESOLVED}")
    assert complaints(disabled) == [f"{RESOLVED} is neither disabled nor masked"]


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("[None]", "[NoCloud]", "cloud-init looks for another datasource than None"),
        ("users: []", "users: [default]", "cloud-init makes users"),
        ("users: []", "", "cloud-init makes users"),
        ("disabled", "{version: 2}", "cloud-init configures the network"),
    ],
)
def test_a_cloud_init_that_configures_what_lima_does_is_named(
    tree: Path, before: str, after: str, complaint: str
) -> None:
    path = tree / "etc/cloud/cloud.cfg.d/99-wsl.cfg"
    path.write_text(path.read_text().replace(before, after))
    assert complaints(tree) == [complaint]


def test_of_cloud_init_s_files_the_last_one_decides(tree: Path) -> None:
    (tree / "etc/cloud/cloud.cfg").write_text("users: [default]\n")
    (tree / "etc/cloud/cloud.cfg.d/90-dpkg.cfg").write_text("datasource_list: [Ec2]\n")
    assert complaints(tree) == []
    (tree / "etc/cloud/cloud.cfg.d/99-zzz.cfg").write_text("datasource_list: [Ec2]\n")
    assert complaints(tree) == ["cloud-init looks for another datasource than None"]


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
