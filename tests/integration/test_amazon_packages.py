"""Every name of an Amazon Linux package is one that Amazon has published."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from scripts import arch, mkosi, patches, stages, thirdparty
from scripts.mkosi import Mkosi

NAMES = "tests/amazon-package-names.txt"


@pytest.fixture(scope="module")
def published(checkout: Path) -> set[str]:
    """The names that were published, and those that are allowed besides."""
    return {*(checkout / NAMES).read_text().split(), *allowed()}


@pytest.fixture(scope="module")
def using(checkout: Path) -> Mkosi:
    """The mkosi of a build."""
    return mkosi.obtain(checkout / "mkosi", checkout / ".work")


def allowed() -> dict[str, str]:
    path = Path(__file__).with_name("amazon-packages.toml")
    table: dict[str, str] = tomllib.loads(path.read_text())["allowed"]
    return table


def packages_of_images(using: Mkosi, root: Path) -> set[str]:
    found: set[str] = set()
    for name in arch.NAMES:
        for image in set(patches.images(root)) - {stages.TOOLS_TREE}:
            read = patches.read_configuration(using, root, "amazonlinux", arch.parse(name), image)
            for setting in ("Packages", "BuildPackages", "VolatilePackages"):
                value = read.get(setting) or []
                assert isinstance(value, list)
                found |= set(value)
    return found


def packages_of_patch(using: Mkosi) -> set[str]:
    """What mkosi itself would install, of the files that our patch adds."""
    found: set[str] = set()
    for path in using.folder.glob("mkosi/resources/**/*.conf"):
        if "amazonlinux" in path.relative_to(using.folder).as_posix():
            lines = stages.read_conf(path)["Content"]["Packages"].split("\n")
            found |= {line.partition("#")[0].strip() for line in lines}
    return found - {""}


def test_the_images_ask_for_published_packages_only(
    checkout: Path, using: Mkosi, published: set[str]
) -> None:
    asked = packages_of_images(using, checkout)

    assert {"systemd-networkd", "kernel6.18"} <= asked
    assert sorted(asked - published) == []


def test_mkosi_with_our_patch_asks_for_published_packages_only(
    using: Mkosi, published: set[str]
) -> None:
    asked = packages_of_patch(using)

    assert {"dnf", "libfido2", "grub2-efi-aa64-modules"} <= asked
    assert sorted(asked - published) == []


def test_third_party_files_require_published_packages_only(
    checkout: Path, published: set[str]
) -> None:
    pins = thirdparty.read_pins(checkout / thirdparty.PINS)
    required = {name for pin in pins for name in pin.requires}

    assert "gnupg2" in required
    assert sorted(required - published) == []


def test_no_name_is_allowed_that_nothing_asks_for(checkout: Path, using: Mkosi) -> None:
    asked = packages_of_images(using, checkout) | packages_of_patch(using)

    assert sorted(allowed().keys() - asked) == []
