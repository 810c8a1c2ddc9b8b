"""The archives that others take: the rootfs for WSL and Lima, and the container image as one tar.

Equal contents come out as equal bytes: members in the order of their names, owners as numbers,
nothing of the machine and the moment that made them.
"""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.system.errors import HarnessError
from scripts.system.process import Arg, CommandError, running, start

# The name that `docker load` gives to the image.
IMAGE_NAME = "localhost/finch/container-with-kernel:latest"

# What containerd, and so nerdctl and Finch, takes an image's name from.
CONTAINERD_NAME = "io.containerd.image.name"


def pack_rootfs(tar: Path, compressor: Sequence[Arg]) -> Path:
    """Rewrite the plain tar of a root file system as <tar>.gz and remove it; returns that file.

    compressor is a command that compresses stdin to stdout. Raises CommandError where it fails.
    """
    packed = tar.with_name(f"{tar.name}.gz")
    with (
        tarfile.open(tar, "r:") as source,
        packed.open("wb") as file,
        running(start(compressor, stdin=subprocess.PIPE, stdout=file)) as process,
    ):
        is_whole = _write(source, process)
    if process.returncode or not is_whole:
        raise CommandError([os.fspath(arg) for arg in compressor], process.returncode, "")
    tar.unlink()
    return packed


def _write(source: tarfile.TarFile, process: subprocess.Popen[bytes]) -> bool:
    """Write the members of source to process and wait for its end; whether it took all of them."""
    assert process.stdin
    try:
        with tarfile.open(fileobj=process.stdin, mode="w|", format=tarfile.PAX_FORMAT) as target:
            for member, content in _in_order(source):
                target.addfile(member, source.extractfile(content) if content else None)
        process.stdin.close()
    except BrokenPipeError:
        process.wait()
        return False
    process.wait()
    return True


def _in_order(source: tarfile.TarFile) -> Iterable[tuple[tarfile.TarInfo, tarfile.TarInfo | None]]:
    """Each member as it is written, by name, and the one that holds its content, if it has any.

    Of the names of one file the first is the file and the others are links to it, as an archive has
    to have it.
    """
    first: dict[str, str] = {}
    for member in sorted(source.getmembers(), key=lambda member: _name(member.name)):
        name = _name(member.name)
        if not name:  # the root itself, which whoever unpacks has made
            continue
        written = copy.copy(member)
        written.name, written.uname, written.gname = name, "", ""
        written.mtime = int(member.mtime)
        written.pax_headers = _attributes(member.pax_headers)
        if not (member.isreg() or member.islnk()):
            yield written, None
            continue
        content = source.getmember(member.linkname) if member.islnk() else member
        if (to := first.setdefault(content.name, name)) != name:
            written.type, written.linkname, written.size = tarfile.LNKTYPE, to, 0
            yield written, None
        else:
            written.type, written.linkname, written.size = tarfile.REGTYPE, "", content.size
            yield written, content


def _name(name: str) -> str:
    return name.removeprefix(".").removeprefix("/")


def _attributes(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a member's extended headers is of the file, such as its capabilities."""
    return {name: value for name, value in headers.items() if name.startswith("SCHILY.")}


def link_wsl(packed: Path) -> Path:
    """Give <name>.tar.gz the name <name>.wsl too, which Windows installs at a double click."""
    wsl = packed.with_name(f"{packed.name.removesuffix('.tar.gz')}.wsl")
    wsl.unlink(missing_ok=True)
    wsl.hardlink_to(packed)
    return wsl


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
