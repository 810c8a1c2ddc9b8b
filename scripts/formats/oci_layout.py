"""Packs OCI image layouts as tar archives."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

from scripts.system import strict
from scripts.system.errors import HarnessError

# The annotation that containerd, and so nerdctl and Finch, takes an image's name from.
DIGEST = re.compile(r"sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})")
CONTAINERD_NAME = "io.containerd.image.name"


def pack_oci(layout: Path) -> Path:
    """Write an OCI image layout as <layout>.tar for `docker load` and skopeo, and return the file.

    The archive is a layout itself. For engines older than Docker 25, it also has a manifest.json,
    as `docker save` writes it. Raises HarnessError unless the layout holds exactly one image.
    """
    try:
        texts = _texts(layout)
    except strict.ODDITIES as error:
        raise HarnessError(
            f"{layout} is not an OCI image layout with one image: {error!r}"
        ) from error
    archive = layout.with_name(f"{layout.name}.tar")
    files = {path.relative_to(layout).as_posix(): path for path in layout.rglob("*")}
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted({*files, *texts}):
            _add(tar, path, texts[path] if path in texts else files[path])
    return archive


def _texts(layout: Path) -> dict[str, str]:
    """Return the files of the archive that the layout does not have, or not so, by name.

    Raises what looking into a damaged layout raises.
    """
    name = image_name(layout)
    index = _json(layout / "index.json")
    [entry] = index["manifests"]
    entry["annotations"] = {**entry.get("annotations", {}), CONTAINERD_NAME: name}
    manifest = _json(_blob(layout, entry["digest"]))
    docker = [
        {
            "Config": _path(manifest["config"]["digest"]),
            "RepoTags": [name],
            "Layers": [_path(layer["digest"]) for layer in manifest["layers"]],
        }
    ]
    return {"index.json": json.dumps(index), "manifest.json": json.dumps(docker)}


def image_name(layout: Path) -> str:
    """Return the name that `docker load` gives to the image in layout."""
    return f"localhost/finch/{layout.name}:latest"


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
    """Return the path of a blob in a layout (OCI image specification, image-layout).

    Raises ValueError if digest is not one, such as a path that leads out of the layout.
    """
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is not a digest")
    return f"blobs/{digest.replace(':', '/')}"


def _blob(layout: Path, digest: str) -> Path:
    return layout / _path(digest)


def _json(path: Path) -> Any:
    try:
        return strict.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HarnessError(f"{path} cannot be read: {error}") from error
