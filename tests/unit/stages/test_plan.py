from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scripts import arch
from scripts.stages import plan
from scripts.stages.plan import StageTarget
from scripts.system.errors import UsageError

TARGET = StageTarget("debian", arch.parse("x86_64"), {"release": "trixie"})

# base <- kernel <- {disk, container}, base <- rootfs, and disk <- initrd.
IMAGES = {
    "base": "",
    "initrd": "",
    "kernel": "Dependencies=base",
    "disk": "Dependencies=kernel,initrd",
    "container": "Dependencies=kernel",
    "rootfs": "Dependencies=base",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small configuration of mkosi."""
    write(tmp_path / "mkosi.conf", "[Output]\nFormat=none\n")
    write(tmp_path / "mkosi.conf.d/debian.conf", "[Match]\nDistribution=debian\n")
    for name, dependencies in IMAGES.items():
        folder = tmp_path / "mkosi.images" / name
        write(folder / "mkosi.conf", "[Output]\nFormat=directory\n")
        write(
            folder / "mkosi.conf.d/dependencies.conf",
            f"[Match]\nProfiles=!staged\n\n[Config]\n{dependencies}\n",
        )
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def keys(root: Path, target: StageTarget = TARGET) -> dict[str, str]:
    return {stage.name: stage.key for stage in plan.plan(root, IMAGES, target)}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_a_stage_comes_after_all_that_it_needs(root: Path) -> None:
    names = [stage.name for stage in plan.plan(root, ["disk"], TARGET)]

    assert names == ["base", "kernel", "initrd", "disk"]


def test_a_stage_that_several_need_is_planned_once(root: Path) -> None:
    names = [stage.name for stage in plan.plan(root, ["container", "disk", "container"], TARGET)]

    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    ("name", "concerned"),
    [
        ("base", {"base", "kernel", "disk", "container", "rootfs"}),
        ("initrd", {"initrd", "disk"}),
        ("kernel", {"kernel", "disk", "container"}),
        ("disk", {"disk"}),
        ("rootfs", {"rootfs"}),
    ],
)
def test_a_change_concerns_the_stage_and_what_stands_on_it(
    root: Path, name: str, concerned: set[str]
) -> None:
    before = keys(root)
    write(root / f"mkosi.images/{name}/mkosi.extra/etc/motd", "hello\n")

    assert changed(before, keys(root)) == concerned


@pytest.mark.parametrize(
    "path",
    [
        "mkosi.conf",
        "mkosi.conf.d/debian.conf",
        "mkosi.profiles/staged.conf",
        "mkosi.local.conf",
    ],
)
def test_a_change_in_what_all_images_share_concerns_all(root: Path, path: str) -> None:
    before = keys(root)
    write(root / path, "[Build]\nWithNetwork=no\n")

    assert changed(before, keys(root)) == set(IMAGES)


@pytest.mark.parametrize(
    "match",
    ["Distribution=fedora", "Architecture=arm64", "Distribution=debian\nArchitecture=arm64"],
)
def test_a_drop_in_for_something_else_concerns_nothing(root: Path, match: str) -> None:
    before = keys(root)
    for folder in ("mkosi.conf.d", "mkosi.images/base/mkosi.conf.d"):
        write(root / folder / "other.conf", f"[Match]\n{match}\n\n[Content]\nPackages=less\n")

    assert not changed(before, keys(root))


@pytest.mark.parametrize("folder", ["mkosi.images/rootfs", "mkosi.images/rootfs/mkosi.extra"])
def test_the_tree_of_another_distribution_concerns_nothing(root: Path, folder: str) -> None:
    before = keys(root)
    write(root / folder / "mkosi.amazonlinux/etc/some.conf", "")
    expected = {"rootfs"} if "extra" in folder else set()
    assert changed(before, keys(root)) == expected


def test_the_tree_of_the_distribution_concerns_its_stage(root: Path) -> None:
    before = keys(root)
    write(root / "mkosi.images/rootfs/mkosi.debian/etc/some.conf", "")
    assert changed(before, keys(root)) == {"rootfs"}


@pytest.mark.parametrize("folder", ["etc", "usr/lib/network"])
def test_a_file_for_the_image_that_looks_like_a_drop_in_concerns_its_stage(
    root: Path, folder: str
) -> None:
    before = keys(root)
    path = root / "mkosi.images/rootfs/mkosi.extra" / folder / "some.conf"
    write(path, "[Match]\nDistribution=fedora\n")

    assert changed(before, keys(root)) == {"rootfs"}


@pytest.mark.parametrize(
    "match", ["Distribution=debian", "Distribution=!fedora", "Distribution=|fedora", "Release=sid"]
)
def test_a_drop_in_that_may_match_concerns_its_stage(root: Path, match: str) -> None:
    before = keys(root)
    write(root / "mkosi.images/rootfs/mkosi.conf.d/some.conf", f"[Match]\n{match}\n")

    assert changed(before, keys(root)) == {"rootfs"}


@pytest.mark.parametrize(
    "target",
    [
        replace(TARGET, arch=arch.parse("aarch64")),
        replace(TARGET, distribution="fedora"),
        replace(TARGET, values={"release": "forky"}),
        replace(TARGET, values={"release": "trixie", "mkosi": "27.2"}),
    ],
)
def test_another_target_changes_every_key(root: Path, target: StageTarget) -> None:
    assert changed(keys(root), keys(root, target)) == set(IMAGES)


def test_where_the_configuration_lies_does_not_matter(root: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    before = keys(root)
    moved.mkdir()
    for path in list(root.glob("mkosi.*")):
        path.rename(moved / path.name)

    assert keys(moved) == before


def test_a_file_that_becomes_executable_changes_the_key(root: Path) -> None:
    script = root / "mkosi.images/disk/mkosi.postinst"
    write(script, "#!/bin/sh\n")
    before = keys(root)
    script.chmod(0o755)

    assert changed(before, keys(root)) == {"disk"}


def test_a_file_that_goes_changes_the_key(root: Path) -> None:
    extra = root / "mkosi.images/disk/mkosi.extra/etc/motd"
    write(extra, "hello\n")
    before = keys(root)
    extra.unlink()

    assert changed(before, keys(root)) == {"disk"}


def test_an_image_that_needs_itself_is_refused_with_the_way_round(root: Path) -> None:
    write(root / "mkosi.images/base/mkosi.conf", "[Config]\nDependencies=disk\n")

    with pytest.raises(UsageError, match="base → disk → kernel → base"):
        plan.plan(root, ["base"], TARGET)


def test_an_unknown_image_is_refused_with_those_that_are_known(root: Path) -> None:
    with pytest.raises(UsageError, match="no image 'bass'") as caught:
        plan.plan(root, ["bass"], TARGET)

    assert all(name in caught.value.hint for name in IMAGES)


def test_a_dependency_that_is_no_image_is_refused(root: Path) -> None:
    write(root / "mkosi.images/base/mkosi.conf", "[Config]\nDependencies=bottom\n")

    with pytest.raises(UsageError, match="no image 'bottom'"):
        plan.plan(root, ["disk"], TARGET)


def test_a_file_that_is_no_configuration_is_named(root: Path) -> None:
    write(root / "mkosi.images/base/mkosi.conf", "Dependencies=disk\n")

    with pytest.raises(UsageError, match=r"mkosi\.images/base/mkosi\.conf is not a mkosi"):
        plan.plan(root, ["base"], TARGET)


def test_of_a_setting_given_twice_the_last_one_counts(tmp_path: Path) -> None:
    write(
        tmp_path / "mkosi.conf", "[Content]\nPackages=one\nPackages=two\n[Content]\nBootable=no\n"
    )

    assert plan.read_conf(tmp_path / "mkosi.conf") == {
        "Content": {"Packages": "two", "Bootable": "no"}
    }


def test_a_stage_says_whether_packages_are_installed_into_it(root: Path) -> None:
    write(root / "mkosi.images/base/mkosi.conf", "[Content]\nPackages=systemd\n")
    write(
        root / "mkosi.images/kernel/mkosi.conf.d/debian.conf",
        "[Match]\nDistribution=debian\n\n[Content]\nPackages=linux-image\n",
    )

    planned = plan.plan(root, ["disk"], TARGET)

    assert {stage.name: stage.installs for stage in planned} == {
        "base": True,
        "kernel": True,
        "initrd": False,
        "disk": False,
    }
