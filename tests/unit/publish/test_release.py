"""Names of published files, which come from the catalogue."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import catalog
from scripts.catalog import Image
from scripts.publish import announcement, release
from scripts.publish.release import Build
from scripts.system.errors import HarnessError, UsageError
from tests import builds


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A build of Debian with one artifact."""
    (tmp_path / "os-image.qcow2").write_text("disk")
    builds.write_manifest(tmp_path, {"base": {}, "os-image": {}}, "os-image.qcow2")
    return Build.load(tmp_path)


def test_what_people_download_comes_before_the_container_image() -> None:
    # SHA512SUMS of a release lists its files in this order, and is never replaced.
    assert list(release.published()) == [
        "os-image.qcow2",
        "wsl-rootfs.tar.gz",
        "wsl-rootfs.wsl",
        "container-with-kernel.tar",
    ]


def test_platforms_are_go_s_names() -> None:
    assert release.platforms() == {"os-image.qcow2": "darwin", "wsl-rootfs.tar.gz": "windows"}


@pytest.mark.parametrize(
    ("distribution", "release_", "product"),
    [("amazonlinux", "2023.12.20260930", "al2023"), ("debian", "trixie", "debian-trixie")],
)
def test_files_are_named_after_the_product(
    build: Build, distribution: str, release_: str, product: str
) -> None:
    told = replace(build.manifest, distribution=distribution, release=release_)
    build = replace(build, manifest=told)

    assert build.named(release.published()["os-image.qcow2"], "7") == (
        f"finch-{product}-os-image-x86-64-7.qcow2"
    )


def test_an_image_of_the_catalogue_is_published_without_further_ado(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    sixth = Image(
        "sixth",
        ("x86_64",),
        ("sixth.raw",),
        published={"sixth.raw": "{product}-{arch}-{run}.raw"},
        platforms={"sixth.raw": "linux"},
    )
    monkeypatch.setattr(catalog, "IMAGES", {**catalog.IMAGES, "sixth": sixth})

    assert build.named(release.published()["sixth.raw"], "7") == "debian-trixie-x86-64-7.raw"
    assert release.platforms()["sixth.raw"] == "linux"


def test_a_build_has_the_images_of_its_artifacts(build: Build) -> None:
    assert build.images == ["os-image"]


def test_a_build_of_a_distribution_that_nobody_knows_is_refused(build: Build) -> None:
    replace(build.manifest, distribution="plan9").write(build.out)

    with pytest.raises(HarnessError, match="unknown distribution, 'plan9'"):
        Build.load(build.out)


def test_where_no_build_is_the_hint_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*manifest\.json"):
        Build.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"artifacts": [], "container_images": []}'])
def test_a_manifest_that_lists_nothing_is_of_no_run(text: str) -> None:
    assert announcement.newest_run(text.encode()) == 0


@pytest.mark.parametrize(
    "text",
    [
        '{"artifacts": [{"url": "https://a.b/x-9.qcow2"}, {"url": "https://a.b/x-11.tar.gz"',
        '{"artifacts": {"darwin/arm64": "https://a.b/x-11.qcow2"}}',
        '{"artifacts": [{"name": "no address"}, {"url": "https://a.b/x-11.qcow2"}]}',
        '{"images": ["a.b/c:2026.9.30-build-11-arm64-with-kernel"], "expires_at": "2027-01-01"}',
    ],
    ids=["cut off", "another form", "an entry without a name", "images alone"],
)
def test_the_run_of_a_manifest_in_another_form_is_known_all_the_same(text: str) -> None:
    assert announcement.newest_run(text.encode()) == 11


def test_the_newest_run_is_that_of_the_largest_number() -> None:
    told = {
        "artifacts": [{"url": "https://a.b/x-9.tar.gz"}, {"url": "https://a.b/x-10.qcow2"}],
        "container_images": [{"image": "a.b/c:x86-64-with-kernel-11"}],
    }

    assert announcement.newest_run(json.dumps(told).encode()) == 11
