"""Checks that Amazon has published every package of Amazon Linux that we name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import arch, catalog
from scripts.mkosi import source
from scripts.mkosi.source import Mkosi
from scripts.packages import thirdparty
from scripts.sessions import patch_check
from scripts.system.progress import Progress

NAMES = "tests/amazon-package-names.txt"

# A page of Amazon's release notes: those of one release, or the list of all packages.
SOURCE = re.compile(
    r"https://docs\.aws\.amazon\.com/linux/al2023/release-notes/"
    r"(relnotes-2023\.\d+\.\d{8}|all-packages-AL2023\.\d+)\.html"
)

# mkosi's built-in configurations, with the profiles whose packages Amazon Linux has. It does not
# have plymouth, fish or QEMU.
BUILT_IN = {
    "mkosi-initrd": "lvm,network,nfs,pkcs11,raid",
    "mkosi-tools": "devel,package-manager",
    "mkosi-vm": "",
}


@pytest.fixture(scope="module")
def published(checkout: Path) -> set[str]:
    """The names that Amazon has published, and the other ones that we allow."""
    return {*(checkout / NAMES).read_text().split(), *allowed()}


@pytest.fixture(scope="module")
def using(checkout: Path) -> Mkosi:
    """The mkosi that builds use."""
    return source.obtain(checkout / "mkosi", checkout / ".work", Progress(live=False))


def allow_list() -> dict[str, dict[str, str]]:
    path = Path(__file__).with_name("amazon-packages.toml")
    return tomllib.loads(path.read_text())


def allowed() -> set[str]:
    return {name for table in allow_list().values() for name in table}


def packages_of_images(using: Mkosi, root: Path) -> set[str]:
    found: set[str] = set()
    for name in arch.NAMES:
        for image in set(patch_check.images(root)) - {catalog.TOOLS_TREE}:
            read = patch_check.read_configuration(
                using, root, "amazonlinux", arch.parse(name), image
            )
            for setting in ("Packages", "BuildPackages", "VolatilePackages"):
                value = read.get(setting) or []
                assert isinstance(value, list)
                found |= set(value)
    return found


def packages_of_mkosi(using: Mkosi) -> set[str]:
    """Return the packages that mkosi itself installs into initrds, tools trees and machines."""
    found: set[str] = set()
    for name in arch.NAMES:
        for included, profiles in BUILT_IN.items():
            result = subprocess.run(
                [
                    sys.executable, "-m", "mkosi", "--directory", "", "--tools-tree", "no",
                    "--distribution", "amazonlinux", "--architecture", arch.parse(name).mkosi,
                    "--include", included, "--profile", profiles, "--json", "summary",
                ],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": os.fspath(using.folder)},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            found |= set(json.loads(result.stdout)["Images"][-1]["Packages"])
    return found


def packages_of_the_full_tree(root: Path) -> set[str]:
    """Return the packages in the configuration that our patch adds to mkosi's sources."""
    text = (root / "mkosi/0002-Test-Amazon-Linux.patch").read_text()
    added = re.findall(r"^\+{3} b/mkosi\.conf\.d/\S+\n((?:(?!^diff ).*\n)*)", text, re.MULTILINE)
    return {name for part in added for name in re.findall(r"^\+ {8}(\S+)$", part, re.MULTILINE)}


def test_the_images_ask_for_published_packages_only(
    checkout: Path, using: Mkosi, published: set[str]
) -> None:
    asked = packages_of_images(using, checkout)

    assert {"systemd-networkd", "kernel6.18"} <= asked
    assert sorted(asked - published) == []


def test_mkosi_with_our_patch_asks_for_published_packages_only(
    using: Mkosi, published: set[str]
) -> None:
    asked = packages_of_mkosi(using)

    assert {"dnf", "libfido2", "xfsprogs", "nfs-utils", "grub2-efi-aa64-modules"} <= asked
    assert sorted(asked - published) == []


def test_the_patch_of_the_full_tree_asks_for_published_packages_only(
    checkout: Path, published: set[str]
) -> None:
    asked = packages_of_the_full_tree(checkout)

    assert {"openssh-server", "grub2-pc"} <= asked
    assert sorted(asked - published) == []


def test_packages_are_built_with_published_packages_only(
    checkout: Path, published: set[str]
) -> None:
    text = (checkout / "al2023-package-build/Dockerfile").read_text()
    [installed] = re.findall(r"\binstall ([\w .+-]+)$", text, re.MULTILINE)

    assert "rpm-build" in installed.split()
    assert sorted(set(installed.split()) - published) == []


def test_third_party_files_require_published_packages_only(
    checkout: Path, published: set[str]
) -> None:
    pins = thirdparty.read_pins(checkout / thirdparty.PINS)
    required = {name for pin in pins for name in pin.requires}

    assert "gnupg2" in required
    assert sorted(required - published) == []


def test_no_name_is_allowed_that_nothing_asks_for(checkout: Path, using: Mkosi) -> None:
    lab = tomllib.loads((checkout / "tests/lab/packages.toml").read_text())["rpm"]
    asked = packages_of_images(using, checkout) | packages_of_mkosi(using)

    assert sorted(allowed() - asked - lab.keys()) == []


def test_what_came_later_has_its_source_and_what_provides_a_name_is_published(
    checkout: Path,
) -> None:
    names = set((checkout / NAMES).read_text().split())
    table = allow_list()

    assert allowed() & names == set()
    assert [name for name, page in table["later"].items() if not SOURCE.fullmatch(page)] == []
    assert set(table["provided"].values()) <= names
