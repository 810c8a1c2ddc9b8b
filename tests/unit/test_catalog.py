"""The catalogue: what there is, and how it is typed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import arch, catalog


@pytest.fixture
def text(checkout: Path) -> str:
    return (checkout / "scripts/catalog.toml").read_text()


def test_every_image_has_its_mkosi_files(checkout: Path) -> None:
    roles = (catalog.ADDITIONS, catalog.KERNEL, catalog.INITRD, catalog.TOOLS_TREE)
    named = {*catalog.IMAGES, *roles, catalog.DISK, catalog.CONTAINER}
    assert named == {path.parent.name for path in checkout.glob("mkosi.images/*/mkosi.conf")}


def test_every_distribution_has_its_mkosi_files(checkout: Path) -> None:
    for distribution in catalog.DISTRIBUTIONS.values():
        assert (checkout / distribution.conf).is_file()


def test_images_are_built_for_architectures_that_there_are(text: str) -> None:
    assert tomllib.loads(text)["arches"] == [*arch.NAMES]
    for image in catalog.IMAGES.values():
        assert {*image.arches} <= {*arch.NAMES}


def test_only_artifacts_are_published() -> None:
    for image in catalog.IMAGES.values():
        assert {*image.platforms} <= {*image.published} <= {*image.artifacts}


def test_finch_has_a_wsl_rootfs_on_x86_64_only() -> None:
    assert "wsl-rootfs" in catalog.images("x86_64")
    assert "wsl-rootfs" not in catalog.images("aarch64")


def test_a_command_names_its_parameters_and_options() -> None:
    assert catalog.command("boot-test") == "./nox -s boot-test"
    assert catalog.command("boot-test", arch="aarch64") == "./nox -s \"boot-test(arch='aarch64')\""
    typed = catalog.command("image", "--force", arch="x86_64", image="base")
    assert typed == "./nox -s \"image-3.12(arch='x86_64', image='base')\" -- --force"


def test_an_option_is_shown_with_what_it_takes() -> None:
    assert catalog.option("mirror") == "-- --mirror URL"
    assert catalog.option("accel", "tcg") == "-- --accel tcg"
    assert catalog.option("offline") == "-- --offline"
    assert catalog.flag("latest") == "--latest"


def test_the_checkout_is_where_the_catalogue_looks_for_it(checkout: Path) -> None:
    assert checkout == catalog.ROOT


def test_only_amazon_linux_has_rpms() -> None:
    has_rpms = {name: one.has_rpms for name, one in catalog.DISTRIBUTIONS.items()}

    assert has_rpms == {"amazonlinux": True, "debian": False}


def test_only_images_that_people_ask_for_have_artifacts() -> None:
    assert "os-image.raw" in catalog.artifacts("os-image")
    assert catalog.artifacts(catalog.INITRD) == ()


@pytest.mark.parametrize("ask", [catalog.flag, catalog.option, catalog.command])
def test_what_the_catalogue_lacks_cannot_be_typed(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(KeyError):
        ask("nonsense")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('work = ".work"\n', "", "the catalogue lacks work"),
        ('work = ".work"', "work = 1", "work in the catalogue must be a text, not 1"),
        ('work = ".work"', "work = ", "it is not TOML"),
        ('work = ".work"', 'work = ".work"\nextra = ""', "the catalogue has the unknown key extra"),
        ('initrd = "initrd"\n', "", r"\[roles\] lacks initrd"),
        (
            'package-format = "rpm"',
            'package-format = "apk"',
            r"package-format in \[distributions.amazonlinux\] must",
        ),
        ('title = "Debian"\n', "", r"\[distributions.debian\] lacks title"),
        ('mkosi = "debian"\n', 'mkosi = "debian"\nmksi = ""\n', "the unknown key mksi"),
        ('tools-distribution = "debian"', 'tools-distribution = "arch"', "is not one of its"),
        ('arches = ["x86_64"]', 'arches = ["sparc"]', "names the unknown architecture sparc"),
        ('arches = ["x86_64"]', 'arches = "x86_64"', "arches in .* must be a list of texts"),
        ('arches = ["x86_64"]', "arches = [64]", "arches in .* must be a list of texts"),
        ("[images.base]\n", "[images.base]\nartefacts = []\n", "the unknown key artefacts"),
        (
            'artifacts = ["wsl-rootfs.tar.gz", "wsl-rootfs.wsl"]\n',
            "",
            "publishes wsl-rootfs.tar.gz",
        ),
        ("tests = {}", "tests = true", r"tests of \[sessions\] must be a table|must be a table"),
        ("versioned = true", 'versioned = "yes"', "versioned in .* must be true or false"),
    ],
)
def test_a_damaged_catalogue_is_refused(text: str, old: str, new: str, problem: str) -> None:
    assert old in text
    with pytest.raises(catalog.CatalogError, match=problem):
        catalog.Catalog.parse(text.replace(old, new))


def test_a_damaged_catalogue_is_one_clear_sentence_and_no_traceback(
    text: str, tmp_path: Path, checkout: Path
) -> None:
    (tmp_path / "catalog.py").write_text((checkout / "scripts/catalog.py").read_text())
    (tmp_path / "catalog.toml").write_text(text.replace('title = "Debian"\n', ""))

    done = subprocess.run(
        [sys.executable, "catalog.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/catalog.toml cannot be used: [distributions.")
    assert "Traceback" not in done.stderr
