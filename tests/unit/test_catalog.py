"""The catalogue: what there is, and how it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import arch, catalog


def test_every_image_has_its_mkosi_files(checkout: Path) -> None:
    roles = (catalog.ADDITIONS, catalog.KERNEL, catalog.INITRD, catalog.TOOLS_TREE)
    named = {*catalog.IMAGES, *roles, catalog.DISK, catalog.CONTAINER}
    assert named == {path.parent.name for path in checkout.glob("mkosi.images/*/mkosi.conf")}


def test_every_distribution_has_its_mkosi_files(checkout: Path) -> None:
    for distribution in catalog.DISTRIBUTIONS.values():
        assert (checkout / distribution.conf).is_file()


def test_images_are_built_for_architectures_that_there_are() -> None:
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


@pytest.mark.parametrize("ask", [catalog.flag, catalog.option, catalog.command])
def test_what_the_catalogue_lacks_cannot_be_typed(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(KeyError):
        ask("nonsense")
