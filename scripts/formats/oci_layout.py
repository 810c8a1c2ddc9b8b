"""Reads, labels and writes OCI image layouts, and packs them as tar archives.

The formats are those of the OCI image specification: image-layout, descriptor, manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import tarfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.system.errors import HarnessError
from scripts.system.text import printable

# The annotation that containerd, and so nerdctl and Finch, takes an image's name from.
CONTAINERD_NAME = "io.containerd.image.name"

# The label that says when an image was made.
CREATED = "org.opencontainers.image.created"

# The digests that the specification registers: the algorithm, and the digest in hex.
DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")

# The most bytes of index.json or a manifest; registries accept no larger manifests (the OCI
# distribution specification, "Pushing Manifests").
JSON_BYTES = 4 << 20

# The media types that index.json, a manifest's config and its layers may have.
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CONFIGS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
LAYERS = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
)


@dataclass(frozen=True)
class Blob:
    """A blob of a layout: its digest as in sha256:HEX, and its size in bytes."""

    layout: Path
    digest: str
    size: int

    @property
    def name(self) -> str:
        """Its path in the layout."""
        return f"blobs/{self.digest.replace(':', '/')}"

    @property
    def path(self) -> Path:
        """Its path."""
        return self.layout / self.name

    def check(self) -> None:
        """Raise HarnessError unless it is a file of its own with that size and digest."""
        algorithm, _, expected = self.digest.partition(":")
        with _opened(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if (size, found) != (self.size, expected):
            raise HarnessError(f"{self.path} is not the blob that the layout names")


@dataclass(frozen=True)
class Image:
    """The one image in a layout: its entry in index.json, its manifest, config and layers."""

    entry: Mapping[str, Any]
    manifest: Blob
    config: Blob
    layers: Sequence[Blob]

    @classmethod
    def read(cls, layout: Path) -> Image:
        """Return the image in layout. Raises HarnessError unless it holds exactly one.

        The manifest is checked against its digest, the other blobs are not.
        """
        index = _json(layout / "index.json")
        entries = index.get("manifests") if isinstance(index, dict) else None
        if not isinstance(entries, list) or len(entries) != 1:
            raise HarnessError(f"{layout} is not an OCI image layout with one image")
        manifest = _blob(layout, entries[0], MANIFESTS)
        manifest.check()
        data = _json(manifest.path)
        layers = data.get("layers") if isinstance(data, dict) else None
        if not isinstance(layers, list):
            raise HarnessError(f"{manifest.path} is not the manifest of an image")
        return cls(
            entries[0],
            manifest,
            _blob(layout, data.get("config"), CONFIGS),
            [_blob(layout, layer, LAYERS) for layer in layers],
        )


def label(layout: Path, labels: Mapping[str, str]) -> None:
    """Give the one image in layout labels, and the label that says when it was made.

    They are added to its config, where `docker inspect` shows them, and to its manifest, where
    registries do. The same image and labels always give the same bytes. Raises HarnessError unless
    the layout holds exactly one image.
    """
    image = Image.read(layout)
    config, manifest = _object(image.config.path), _object(image.manifest.path)
    if isinstance(created := config.get("created"), str):
        labels = {**labels, CREATED: created}
    inner = config.get("config") or {}
    config["config"] = {**inner, "Labels": {**(inner.get("Labels") or {}), **labels}}
    manifest["config"] = {**manifest["config"], **_write_blob(layout, config)}
    manifest["annotations"] = {**manifest.get("annotations", {}), **labels}
    entry = {**image.entry, **_write_blob(layout, manifest)}
    index = {**_json(layout / "index.json"), "manifests": [entry]}
    (layout / "index.json").write_text(json.dumps(index))
    now = Image.read(layout)
    kept = {now.manifest.path, now.config.path, *(layer.path for layer in now.layers)}
    for blob in {image.config.path, image.manifest.path} - kept:
        blob.unlink()


def pack_oci(layout: Path) -> Path:
    """Write an OCI image layout as <layout>.tar for `docker load` and skopeo, and return the file.

    The archive is a layout itself. For engines older than Docker 25, it also has a manifest.json,
    as `docker save` writes it. Raises HarnessError unless the layout holds exactly one image, and
    all blobs of that are there.
    """
    image, name = Image.read(layout), image_name(layout)
    blobs = {blob.name: blob for blob in (image.manifest, image.config, *image.layers)}
    for blob in blobs.values():
        blob.check()
    entry = {
        **image.entry,
        "annotations": {**image.entry.get("annotations", {}), CONTAINERD_NAME: name},
    }
    docker = [
        {
            "Config": image.config.name,
            "RepoTags": [name],
            "Layers": [layer.name for layer in image.layers],
        }
    ]
    index = {**_json(layout / "index.json"), "manifests": [entry]}
    texts = {"index.json": json.dumps(index), "manifest.json": json.dumps(docker)}
    folders = {path.as_posix() for name in blobs for path in Path(name).parents if path != Path()}
    archive = layout.with_name(f"{layout.name}.tar")
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted({"oci-layout", *blobs, *texts, *folders}):
            _add(tar, path, texts.get(path), None if path in folders else layout / path)
    return archive


def write_placeholder(layout: Path) -> None:
    """Write an OCI layout with an image without layers, which is different each time."""
    (layout / "blobs/sha256").mkdir(parents=True)
    own = {"created_by": f"a placeholder, {uuid.uuid4()}", "empty_layer": True}
    config = {
        "architecture": "unknown",
        "os": "unknown",
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [own],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFESTS[0],
        "config": {"mediaType": CONFIGS[0], **_write_blob(layout, config)},
        "layers": [],
    }
    entry = {
        "mediaType": MANIFESTS[0],
        **_write_blob(layout, manifest),
        "annotations": {"org.opencontainers.image.ref.name": layout.name},
    }
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def image_name(layout: Path) -> str:
    """Return the name that `docker load` gives to the image in layout."""
    return f"localhost/finch/{layout.name}:latest"


def _add(tar: tarfile.TarFile, name: str, text: str | None, path: Path | None) -> None:
    """Add the text, or else the file at path, or else a folder, as name."""
    member = tarfile.TarInfo(name)
    if text is not None:
        data = text.encode()
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    elif path:
        with _opened(path) as file:
            member.size = os.fstat(file.fileno()).st_size
            tar.addfile(member, file)
    else:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)


def _blob(layout: Path, descriptor: Any, types: Sequence[str]) -> Blob:
    """Return the blob that descriptor describes. Raises HarnessError unless it is one of types."""
    data = descriptor if isinstance(descriptor, dict) else {}
    digest, size = data.get("digest"), data.get("size")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise HarnessError(f"{layout} has {_quoted(digest)} where a digest should be")
    if type(size) is not int or size < 0:
        raise HarnessError(f"{layout} has {_quoted(size)} where the size of {digest} should be")
    if data.get("mediaType") not in types:
        raise HarnessError(
            f"{layout} has a blob of the type {_quoted(data.get('mediaType'))}, where one of "
            f"{types[0]} should be"
        )
    return Blob(layout, digest, size)


def _write_blob(layout: Path, data: object) -> dict[str, Any]:
    """Write data as a blob of layout, and return its digest and size for a descriptor."""
    text = json.dumps(data).encode()
    digest = hashlib.sha256(text).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(text)
    return {"digest": f"sha256:{digest}", "size": len(text)}


def _object(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at path. Raises HarnessError."""
    data = _json(path)
    if not isinstance(data, dict):
        raise HarnessError(f"{path} cannot be read: it is not an object")
    return data


def _quoted(value: object) -> str:
    return printable(repr(value))[:100]


def _opened(path: Path) -> io.BufferedReader:
    """Open the regular file at path, and no link. Raises HarnessError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HarnessError(f"{path} cannot be read: it is not a file")
    return os.fdopen(descriptor, "rb")


def _json(path: Path) -> Any:
    with _opened(path) as file:
        data = file.read(JSON_BYTES + 1)
    if len(data) > JSON_BYTES:
        raise HarnessError(f"{path} cannot be read: it has more than {JSON_BYTES >> 20} MiB")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HarnessError(f"{path} cannot be read: {printable(str(error))}") from error
