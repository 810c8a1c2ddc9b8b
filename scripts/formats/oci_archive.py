"""Writes a container image for several architectures as an OCI archive.

An OCI archive is an image layout in a tar file (OCI image specification, image-layout). Its one
image is an index with a manifest for each architecture, as in a registry.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from scripts.arch import Arch
from scripts.formats.oci_layout import CONFIGS, CONTAINERD_NAME, LAYERS, MANIFESTS

INDEX = "application/vnd.oci.image.index.v1+json"


def write(archive: Path, name: str, layers: Mapping[Arch, bytes]) -> None:
    """Write the image called name to archive: for each architecture one layer, which is a tar.

    The same layers always give the same bytes.
    """
    blobs: dict[str, bytes] = {}
    index = _described(blobs, _index(blobs, layers), INDEX)
    index["annotations"] = {CONTAINERD_NAME: name}
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [index]}),
        **{f"blobs/sha256/{digest}": data for digest, data in sorted(blobs.items())},
    }
    with tarfile.open(archive, "w") as tar:
        for path, data in files.items():
            _add(tar, path, data, 0o644)


def layer(programs: Mapping[str, Path], links: Mapping[str, str]) -> bytes:
    """Return a layer with programs and symbolic links, each by its path in the container."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, program in programs.items():
            _add(tar, path, program.read_bytes(), 0o755)
        for path, target in links.items():
            link = tarfile.TarInfo(path)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    return stream.getvalue()


def _index(blobs: dict[str, bytes], layers: Mapping[Arch, bytes]) -> bytes:
    manifests = []
    for arch, data in layers.items():
        entry = _described(blobs, _manifest(blobs, arch, data), MANIFESTS[0])
        manifests.append({**entry, "platform": {"architecture": arch.debian, "os": "linux"}})
    return _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})


def _manifest(blobs: dict[str, bytes], arch: Arch, data: bytes) -> bytes:
    described = _described(blobs, data, LAYERS[0])
    config = {
        "architecture": arch.debian,
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [described["digest"]]},
    }
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFESTS[0],
            "config": _described(blobs, _json(config), CONFIGS[0]),
            "layers": [described],
        }
    )


def _described(blobs: dict[str, bytes], data: bytes, media_type: str) -> dict[str, object]:
    """Add data to blobs and return its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _json(data: object) -> bytes:
    return json.dumps(data).encode()


def _add(tar: tarfile.TarFile, path: str, data: bytes, mode: int) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(data), mode
    tar.addfile(member, io.BytesIO(data))
