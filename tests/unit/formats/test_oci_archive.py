"""The archives with container images that the contract's guests import."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scripts.arch import AARCH64, X86_64
from scripts.formats import oci_archive
from scripts.formats.oci_layout import CONTAINERD_NAME

NAME = "localhost/greeting:latest"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "greeting.tar"
    oci_archive.write(path, NAME, {X86_64: b"x86_64's layer", AARCH64: b"aarch64's layer"})
    return path


def files(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        opened = {member.name: tar.extractfile(member) for member in tar}
        return {name: file.read() for name, file in opened.items() if file}


def follow(found: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    return found["blobs/" + descriptor["digest"].replace(":", "/")]


def test_every_blob_is_named_by_its_digest(archive: Path) -> None:
    blobs = {name: data for name, data in files(archive).items() if name.startswith("blobs/")}
    assert len(blobs) == 7  # an index, and for each architecture a manifest, a config and a layer
    for name, data in blobs.items():
        assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"


def test_the_one_image_of_the_archive_has_a_name(archive: Path) -> None:
    [entry] = json.loads(files(archive)["index.json"])["manifests"]
    assert entry["annotations"] == {CONTAINERD_NAME: NAME}


def test_each_architecture_has_its_own_layer(archive: Path) -> None:
    found = files(archive)
    [entry] = json.loads(found["index.json"])["manifests"]
    layers = {}
    for descriptor in json.loads(follow(found, entry))["manifests"]:
        manifest = json.loads(follow(found, descriptor))
        config = json.loads(follow(found, manifest["config"]))
        [layer] = manifest["layers"]
        assert config["architecture"] == descriptor["platform"]["architecture"]
        assert config["rootfs"]["diff_ids"] == [layer["digest"]]
        layers[config["architecture"]] = follow(found, layer)
    assert layers == {"amd64": b"x86_64's layer", "arm64": b"aarch64's layer"}


def test_the_same_layers_give_the_same_archive(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    oci_archive.write(again, NAME, {X86_64: b"x86_64's layer", AARCH64: b"aarch64's layer"})
    assert again.read_bytes() == archive.read_bytes()


def test_a_layer_has_executable_programs_and_links(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"a program")
    layer = oci_archive.layer({"bin/program": program}, {"bin/sh": "program"})
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        member = tar.getmember("bin/program")
        assert (member.mode, member.size, member.mtime) == (0o755, 9, 0)
        assert tar.getmember("bin/sh").linkname == "program"
