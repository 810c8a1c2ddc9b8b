"""Writes small finished builds of Amazon Linux that may be published together as one release."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from scripts import catalog
from scripts.arch import Arch
from scripts.boot.results import Check, Result, Status, to_json
from scripts.formats import oci_layout
from scripts.stages import artifacts
from scripts.system.digests import file_digest
from tests import builds, publishing


def write_build(out: Path, machine: Arch, root: Path, qemu_img: list[Any]) -> Path:
    """Write a finished and booted build for machine to a folder in out, and return that folder.

    root is the checkout that it seems to have been built from, qemu_img the command.
    """
    folder = out / catalog.DEFAULT.name / machine.name
    folder.mkdir(parents=True)
    (folder / "os-image.raw").write_bytes(machine.name.encode() * 65536)
    publishing.convert(qemu_img, folder / "os-image.raw", folder / "os-image.qcow2")
    _write_container(folder / catalog.CONTAINER, machine)
    if "wsl-rootfs" in catalog.images(machine.name):
        builds.write_rootfs(folder, {"etc/hostname": "finch"})
    for name, text in {artifacts.REPORT: "<!doctype html>", artifacts.SBOM: "{}"}.items():
        (folder / name).write_text(text)
    _describe(folder, machine, root)
    _write_boot_test(folder, machine)
    return folder


def _write_container(layout: Path, machine: Arch) -> None:
    """Write an OCI layout, whose only layer differs between architectures."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(machine.name))
    builds.write_layout(layout, layer.getvalue())
    oci_layout.pack_oci(layout)


def _describe(folder: Path, machine: Arch, root: Path) -> None:
    stages = {"base", "base-with-kernel", "initrd", *catalog.images(machine.name)}
    outputs = [name for image in catalog.images(machine.name)
               for name in catalog.artifacts(image) if (folder / name).exists()]  # fmt: skip
    builds.write_manifest(
        folder, {name: {"bash": "5.2"} for name in sorted(stages)}, *outputs,
        root=root, distribution=catalog.DEFAULT, machine=machine,
    )  # fmt: skip
    builds.write_provenance(folder)


def _write_boot_test(folder: Path, machine: Arch) -> None:
    (folder / "boot-test").mkdir()
    result = Result(
        catalog.DEFAULT.name, machine.name, [Check("ssh", "sshd answers", Status.PASSED)],
        "kvm", "KVM works", "10.0", 20.0, disk=file_digest(folder / "os-image.raw", "sha512"),
    )  # fmt: skip
    (folder / artifacts.BOOT_TEST).write_text(to_json(result))
