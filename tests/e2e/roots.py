"""Takes the root file systems out of finished images, as their consumers do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from scripts.arch import Arch
from scripts.formats import disk


def of_disk(image: Path, arch: Arch, target: Path) -> Path:
    """Copy the root partition of a raw disk to the file target, with its holes; return target."""
    partition = disk.of_type(disk.partitions(image), arch.root_type)
    assert partition
    subprocess.run(
        [
            "dd", f"if={image}", f"of={target}", "bs=1M", "iflag=skip_bytes,count_bytes",
            f"skip={partition.offset}", f"count={partition.size}", "conv=sparse", "status=none",
        ],
        check=True,
    )  # fmt: skip
    with target.open("r+b") as file:
        file.truncate(partition.size)  # conv=sparse leaves out a hole at the end
    return target


def of_layout(layout: Path, target: Path) -> Path:
    """Unpack the layers of the image in an OCI layout to the folder target; return target.

    The images of this project have a single layer, so that whiteouts need not be followed.
    """
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(layout, index["manifests"][0]["digest"]).read_text())
    [layer] = manifest["layers"]
    return unpack(blob(layout, layer["digest"]), target)


def blob(layout: Path, digest: str) -> Path:
    """The path of the blob with a digest in an OCI layout."""
    return layout / "blobs" / digest.replace(":", "/")


def unpack(archive: Path, target: Path) -> Path:
    """Unpack a tarball with owners, modes and extended attributes to target; return target."""
    target.mkdir(mode=0o755)
    subprocess.run(
        [
            "tar", "--extract", "--file", archive, "--directory", target, "--numeric-owner",
            "--same-owner", "--same-permissions", "--xattrs", "--xattrs-include=*",
        ],
        check=True,
    )  # fmt: skip
    return target
