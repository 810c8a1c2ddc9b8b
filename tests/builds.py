"""Writes small finished builds, for tests of the code that works with builds."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from scripts import arch, catalog
from scripts.arch import Arch
from scripts.build.manifest import Added, BuiltImage, Given, ListedFile, Manifest, UsedMkosi, pins
from scripts.catalog import ROOT, Distribution
from scripts.description import provenance
from scripts.formats import archives
from scripts.formats.disk import ESP_TYPE, SECTOR
from scripts.mkosi.pin import Pin
from scripts.mkosi.source import UPSTREAM
from scripts.origin import Builder, Checkout
from scripts.stages import artifacts, places, plan
from scripts.stages.artifacts import Artifact
from scripts.stages.plan import StageTarget
from scripts.stages.records import Package
from scripts.system.digests import file_digest, text_digest

PIN = Pin.read(ROOT / "mkosi/pin.toml")


def write_manifest(
    out: Path,
    images: Mapping[str, Mapping[str, str]],
    *outputs: str,
    root: Path = ROOT,
    distribution: Distribution = catalog.DISTRIBUTIONS["debian"],
    machine: Arch = arch.X86_64,
) -> Manifest:
    """Write the manifest and checksums of a build, and return the manifest.

    images maps the names of images to their packages (name: version). outputs are the artifacts,
    which must be in out already. root is the checkout that they were built from, and of their
    architecture.
    """
    target = StageTarget(distribution.mkosi, machine, {})
    wanted = [image for image in images if (root / "mkosi.images" / image).is_dir()]
    planned = {stage.name: stage for stage in plan.plan(root, wanted, target)}
    described = artifacts.describe(out, outputs)
    manifest = Manifest(
        distribution=distribution.name,
        release=places.release_of(root, distribution),
        arch=machine,
        options=Given(),
        pins=pins(root, distribution),
        mkosi=UsedMkosi(
            version="27.1",
            source=UPSTREAM,
            digest="0" * 64,
            patches={path.name: file_digest(path) for path in (root / "mkosi").glob("*.patch")},
        ),
        additions=Added(),
        images={
            name: BuiltImage(
                planned[name].key if name in planned else text_digest(name),
                planned[name].inputs if name in planned else (),
                seconds=1.5,
                packages=tuple(Package(*one, machine.debian) for one in packages.items()),
                digest=text_digest(f"the build of {name}"),
                built_from={
                    need: text_digest(f"the build of {need}")
                    for need in (planned[name].needs if name in planned else ())
                },
            )
            for name, packages in images.items()
        },
        artifacts=tuple(ListedFile(one.name, one.size, one.sha512) for one in described),
    )
    artifacts.write_checksums(out, described)
    manifest.write(out)
    return manifest


def write_provenance(out: Path) -> None:
    """Write the provenance of the artifacts that the manifest in out lists."""
    manifest = Manifest.read(out)
    listed = [Artifact(one.name, one.size, 0, one.sha512) for one in manifest.artifacts]
    text = provenance.to_json(listed, manifest, {}, {}, PIN, Checkout("c0ffee"), Builder(), made=0)
    (out / artifacts.PROVENANCE).write_text(text)


def write_rootfs(out: Path, files: Mapping[str, str]) -> None:
    """Write a WSL rootfs with files (path: text) and a hard link to the first one."""
    tree = out / "tree"
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
        (tree / name).chmod(0o644)
    first = tree / next(iter(files))
    first.with_name("linked").hardlink_to(first)
    tar = out / "wsl-rootfs.tar"
    subprocess.run(
        ["tar", "-C", tree, "--owner=0", "--group=0", "--mtime=@0", "-cf", tar, "."], check=True
    )
    archives.link_wsl(archives.pack_rootfs(tar, ["gzip", "--no-name"]))
    subprocess.run(["rm", "-r", tree], check=True)


def write_disk(path: Path, sizes: Mapping[str, int]) -> None:
    """Write a disk image that has only a GPT; sizes maps each partition's label to its MiB."""
    start, table = 2048, b""
    for label, mib in sizes.items():
        end = start + mib * 2048 - 1
        type_ = uuid.UUID(ESP_TYPE).bytes_le
        name = label.encode("utf-16-le").ljust(72, b"\0")
        table += type_ + uuid.uuid5(uuid.NAMESPACE_DNS, label).bytes_le
        table += struct.pack("<QQQ", start, end, 0) + name
        start = end + 1
    header = b"EFI PART" + bytes(64) + struct.pack("<QII", 2, len(sizes), 128)
    with path.open("wb") as file:
        file.seek(SECTOR)
        file.write(header)
        file.seek(2 * SECTOR)
        file.write(table)
        file.truncate(start * SECTOR)


def write_uki(path: Path, sections: Mapping[str, bytes]) -> None:
    """Write a PE file that has only sections (Microsoft's specification of the PE format)."""
    headers, contents, offset = b"", b"", 0x400
    for name, data in sections.items():
        padded = data.ljust(-(-len(data) // 512) * 512, b"\0")
        headers += struct.pack(
            "<8sIIIIIIHHI", name.encode(), len(data), 0x1000 * (len(contents) // 512 + 1),
            len(padded), offset, 0, 0, 0, 0, 0x40000040,
        )  # fmt: skip
        contents += padded
        offset += len(padded)
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 240, 0x2022)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, 0, 0, 0, 0x1000, 0x1000)
    optional += struct.pack("<QIIHHHHHHIIIIHHQQQQII", 0, 4096, 512, *[0] * 6, 0, 1 << 20, 0x400,
                            0, 10, 0, 0, 0, 0, 0, 0, 16)  # fmt: skip
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    head = dos + b"PE\0\0" + coff + optional.ljust(240, b"\0") + headers
    path.write_bytes(head.ljust(0x400, b"\0") + contents)


def write_layout(folder: Path, layer: bytes) -> None:
    """Write an OCI image layout with one layer, which is a gzipped tar."""

    def blob(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        (folder / "blobs/sha256" / digest).write_bytes(data)
        return f"sha256:{digest}"

    packed = gzip.compress(layer, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
            },
            "config": {"Cmd": ["/sbin/init"]},
        }
    ).encode()
    media = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{media}.manifest.v1+json",
            "config": {
                "mediaType": f"{media}.config.v1+json",
                "digest": blob(config),
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": f"{media}.layer.v1.tar+gzip",
                    "digest": blob(packed),
                    "size": len(packed),
                }
            ],
        }
    ).encode()
    entry = {
        "mediaType": f"{media}.manifest.v1+json",
        "digest": blob(manifest),
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": "container-with-kernel"},
    }
    index = {
        "schemaVersion": 2, "mediaType": f"{media}.index.v1+json", "manifests": [entry]
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
