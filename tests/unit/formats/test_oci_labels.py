"""Labels of container images: in the config, in the manifest, and the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import catalog
from scripts.build import labels
from scripts.formats import oci_layout
from scripts.formats.oci_layout import Image
from scripts.origin import Checkout
from scripts.system.errors import HarnessError
from tests import builds

TITLE = {"org.opencontainers.image.title": "a title"}


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    builds.write_layout(tmp_path / "container-with-kernel", b"layer")
    return tmp_path / "container-with-kernel"


def test_labels_are_in_the_config_and_in_the_manifest(layout: Path) -> None:
    before = Image.read(layout)
    config = json.loads(before.config.path.read_text())
    manifest = json.loads(before.manifest.path.read_text())
    oci_layout.label(layout, TITLE)

    after = Image.read(layout)
    after.config.check()
    assert json.loads(after.config.path.read_text()) == {
        **config, "config": {**config["config"], "Labels": TITLE}
    }  # fmt: skip
    labelled = json.loads(after.manifest.path.read_text())
    assert labelled["annotations"] == TITLE
    assert labelled["layers"] == manifest["layers"]
    assert [layer.digest for layer in after.layers] == [layer.digest for layer in before.layers]
    blobs = {path.name for path in (layout / "blobs/sha256").iterdir()}
    assert blobs == {blob.path.name for blob in (after.manifest, after.config, *after.layers)}
    oci_layout.pack_oci(layout)


def test_labels_say_when_an_image_was_made_and_keep_others(layout: Path) -> None:
    image = Image.read(layout)
    config = json.loads(image.config.path.read_text())
    config |= {"created": "2026-09-30T00:00:00+00:00", "config": {"Labels": {"mine": "1"}}}
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(image.manifest.path.read_text())
    manifest |= {"config": {**manifest["config"], **oci_layout._write_blob(layout, config)}}
    index["manifests"][0] |= oci_layout._write_blob(layout, manifest)
    (layout / "index.json").write_text(json.dumps(index))
    oci_layout.label(layout, TITLE)

    told = json.loads(Image.read(layout).config.path.read_text())["config"]["Labels"]
    assert told == {"mine": "1", **TITLE, oci_layout.CREATED: "2026-09-30T00:00:00+00:00"}


def test_the_same_image_gets_the_same_digest_each_time(layout: Path, tmp_path: Path) -> None:
    builds.write_layout(tmp_path / "again/container-with-kernel", b"layer")
    oci_layout.label(layout, TITLE)
    oci_layout.label(tmp_path / "again/container-with-kernel", TITLE)
    again = Image.read(tmp_path / "again/container-with-kernel")
    assert Image.read(layout).manifest.digest == again.manifest.digest
    oci_layout.label(layout, TITLE)
    assert Image.read(layout).manifest.digest == again.manifest.digest


def test_a_config_that_is_no_object_is_refused(layout: Path) -> None:
    Image.read(layout).config.path.write_text("[]")
    with pytest.raises(HarnessError, match="it is not an object"):
        oci_layout.label(layout, TITLE)


@pytest.mark.parametrize(
    ("checkout", "revision"),
    [
        (Checkout("ab" * 20), "ab" * 20),
        (Checkout("ab" * 20, modified=("mkosi.conf",)), None),
        (Checkout("", reason="it is not a git checkout"), None),
    ],
)
def test_the_commit_is_a_label_only_if_it_is_what_was_built(
    checkout: Checkout, revision: str | None
) -> None:
    amazon = catalog.DISTRIBUTIONS["amazonlinux"]
    found = labels.of("container-with-kernel", amazon, "2023.12.20260930", checkout)
    assert found["org.opencontainers.image.title"] == "container-with-kernel (Amazon Linux 2023)"
    assert found["org.opencontainers.image.version"] == "2023.12.20260930"
    assert found.get("org.opencontainers.image.revision") == revision
