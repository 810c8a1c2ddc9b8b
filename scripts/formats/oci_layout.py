"""OCI image layouts, packed as one tar."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from scripts.system.errors import HarnessError

# The name that `docker load` gives to the image.
IMAGE_NAME = "localhost/finch/container-with-kernel:latest"


# What containerd, and so nerdctl and Finch, takes an image's name from.
CONTAINERD_NAME = "io.containerd.image.name"


def pack_oci(layout: Path) -> Path:
    """Write the OCI image layout as <layout>.tar, which `docker load` and skopeo take.

    It is a layout in itself, and names its blobs once more in manifest.json, the way `docker save`
    does, for engines older than Docker 25. Raises HarnessError for a layout that is not of one
    image.
    """
    index = _json(layout / "index.json")
    if len(index.get("manifests", [])) != 1:
        raise HarnessError(f"{layout} is no OCI image layout of one image")
    [entry] = index["manifests"]
    entry["annotations"] = {**entry.get("annotations", {}), CONTAINERD_NAME: IMAGE_NAME}
    manifest = _json(_blob(layout, entry["digest"]))
    docker = [
        {
            "Config": _path(manifest["config"]["digest"]),
            "RepoTags": [IMAGE_NAME],
            "Layers": [_path(layer["digest"]) for layer in manifest["layers"]],
        }
    ]
    texts = {"index.json": json.dumps(index), "manifest.json": json.dumps(docker)}
    archive = layout.with_name(f"{layout.name}.tar")
    files = {path.relative_to(layout).as_posix(): path for path in layout.rglob("*")}
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted({*files, *texts}):
            _add(tar, name, texts[name] if name in texts else files[name])
    return archive


def _add(tar: tarfile.TarFile, name: str, what: str | Path) -> None:
    member = tarfile.TarInfo(name)
    if isinstance(what, str):
        data = what.encode()
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    elif what.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
    else:
        member.size = what.stat().st_size
        with what.open("rb") as file:
            tar.addfile(member, file)


def _path(digest: str) -> str:
    """Where a layout keeps the blob with this digest (OCI image specification, image-layout)."""
    return f"blobs/{digest.replace(':', '/')}"


def _blob(layout: Path, digest: str) -> Path:
    return layout / _path(digest)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path} cannot be read: {error}") from error
