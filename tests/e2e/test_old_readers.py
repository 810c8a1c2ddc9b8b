"""rpm and e2fsprogs as old as Amazon Linux 2023's read what newer ones have written."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import arch
from scripts.boot import Subject
from tests import verification
from tests.e2e import bills, roots
from tests.e2e.debian11 import SHOWN, Debian11

IMAGES = ("os-image", "container-with-kernel", "wsl-rootfs")

# What the first boot's disk has more than the image, in bytes.
GROWTH = 4 << 30

on_x86_64 = pytest.mark.skipif(
    not arch.X86_64.is_native, reason="Amazon Linux is built on x86_64 machines only"
)


def fsck(old_debian: Debian11, file_system: Path) -> str:
    """Check a file system without changing it, and return what e2fsck says of it."""
    done = old_debian.run(["e2fsck", "-f", "-n", f"{SHOWN}/{file_system.name}"], file_system.parent)
    return done.stdout


def test_the_programs_are_as_old_as_amazon_linux(old_debian: Debian11, tmp_path: Path) -> None:
    assert "4.16.1" in old_debian.run(["rpm", "--version"], tmp_path).stdout
    assert "1.46." in old_debian.run(["e2fsck", "-V"], tmp_path).stderr


@pytest.fixture(params=["debian", pytest.param("amazonlinux", marks=on_x86_64)])
def file_system(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the root file system of a distribution's os-image."""
    target = tmp_path / "root.ext4"
    if request.param == "debian":
        subject: Subject = request.getfixturevalue("built")
        return roots.of_disk(subject.disk, arch.native(), target)
    original: Path = request.getfixturevalue("amazon_roots")["os-image"]
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", original, target], check=True)
    return target


def test_e2fsck_finds_nothing_wrong(old_debian: Debian11, file_system: Path) -> None:
    said = fsck(old_debian, file_system)
    assert said.startswith("Pass 1"), said
    assert "Fix?" not in said


def test_resize2fs_grows_the_root_as_the_first_boot_does(
    old_debian: Debian11, file_system: Path
) -> None:
    size = file_system.stat().st_size + GROWTH
    with file_system.open("r+b") as file:
        file.truncate(size)
    name, folder = f"{SHOWN}/{file_system.name}", file_system.parent
    old_debian.run(["resize2fs", name], folder)
    assert fsck(old_debian, file_system).startswith("Pass 1")
    header = old_debian.run(["dumpe2fs", "-h", name], folder).stdout
    count, block = (int(field(header, label)) for label in ("Block count", "Block size"))
    assert size - block < count * block <= size
    kept = old_debian.run(["find", SHOWN, "-path", f"{SHOWN}/usr/lib/os-release"], file_system)
    assert kept.stdout.strip() == f"{SHOWN}/usr/lib/os-release"


def field(header: str, label: str) -> str:
    """The value of a field that dumpe2fs prints."""
    [line] = [line for line in header.splitlines() if line.startswith(f"{label}:")]
    return line.partition(":")[2].strip()


def test_a_damaged_file_system_would_be_noticed(old_debian: Debian11, file_system: Path) -> None:
    with file_system.open("r+b") as file:
        file.seek(4096)  # the first group descriptors
        file.write(b"\xff" * 4096)
    name = f"{SHOWN}/{file_system.name}"
    done = old_debian.run(["e2fsck", "-f", "-n", name], file_system.parent, check=False)
    assert done.returncode & 4, done.stdout


@pytest.fixture(params=[pytest.param(name, marks=on_x86_64) for name in IMAGES])
def image(request: pytest.FixtureRequest) -> str:
    """The name of an image of Amazon Linux that has a package database."""
    name: str = request.param
    return name


def test_rpm_lists_the_packages_of_the_bill_of_materials(
    old_debian: Debian11, amazon_images: Path, amazon_roots: dict[str, Path], image: str
) -> None:
    listed = packages(old_debian, amazon_roots[image])
    assert listed == {str(one) for one in bills.packages(amazon_images, image)}


def packages(old_debian: Debian11, shown: Path) -> set[str]:
    """The packages in the database of the root file system shown, without rpm's keys."""
    query = "%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}\n"
    lines = old_debian.rpm("--query", "--all", "--queryformat", query, shown=shown).splitlines()
    return {line for line in lines if not line.startswith("gpg-pubkey ")}


@on_x86_64
def test_rpm_can_write_the_database_anew(
    old_debian: Debian11, amazon_roots: dict[str, Path], tmp_path: Path
) -> None:
    database = Path("var/lib/rpm")
    original = amazon_roots["wsl-rootfs"]
    shutil.copytree(original / database, tmp_path / database)
    assert old_debian.rpm("--rebuilddb", shown=tmp_path, program="rpmdb") == ""
    assert old_debian.rpm("--verifydb", shown=tmp_path, program="rpmdb") == ""
    assert packages(old_debian, tmp_path) == packages(old_debian, original)


def test_rpm_finds_the_database_in_order(
    old_debian: Debian11, amazon_roots: dict[str, Path], image: str
) -> None:
    assert old_debian.rpm("--verifydb", shown=amazon_roots[image], program="rpmdb") == ""


def test_each_difference_from_the_packages_has_a_reason(
    old_debian: Debian11, amazon_roots: dict[str, Path], image: str
) -> None:
    said = old_debian.rpm("--verify", "--all", shown=amazon_roots[image])
    assert verification.complaints(said, verification.explained(image)) == []


def test_a_package_manager_has_left_nothing_large_but_the_database(
    old_debian: Debian11, amazon_roots: dict[str, Path], image: str
) -> None:
    """A history, or the journal of its database, would tell of the build and take megabytes."""
    shown = amazon_roots[image]
    large = ["find", f"{SHOWN}/var", "-type", "f", "-size", "+127k"]
    assert old_debian.run(large, shown).stdout.split() == [f"{SHOWN}/var/lib/rpm/rpmdb.sqlite"]
    history = ["find", SHOWN, "-name", "*history.sqlite*"]
    assert old_debian.run(history, shown).stdout == ""
