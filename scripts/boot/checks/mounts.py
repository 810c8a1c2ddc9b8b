"""Checks of the file systems that the guest has mounted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.checks.text import as_objects, json_object
from scripts.boot.facts import Facts, Verdict
from scripts.boot.machine import ROOM
from scripts.boot.probes import Answers
from scripts.formats.disk import Partition

MIB = 1 << 20

# The options that the kernel shows for an ESP mounted with umask=0077,shortname=winnt.
ESP_OPTIONS = {"fmask=0077", "dmask=0077", "shortname=winnt"}

ROOT_OPTIONS = {"rw", "errors=remount-ro"}
NOT_ROOT_OPTIONS = {"nodev", "nosuid", "noexec"}


@check(
    "root-mounted",
    "/ is ext4 without orphan_file on the root partition",
    needs=["first"],
    probes=["mounts", "blocks", "superblock"],
)
def root_mounted(facts: Facts, first: Answers) -> Verdict:
    """The guest runs from the partition that was built as its root."""
    mount = _mount(first, "/")
    device = _block(first, str(mount.get("source")))
    features = re.search(r"features: .*", first["superblock"].text)
    problems = {
        f"/ is {mount.get('fstype')}, not ext4": mount.get("fstype") != "ext4",
        f"/ is on a partition of type {device.get('parttype')}": (
            device.get("parttype") != facts.arch.root_type
        ),
        "dumpe2fs shows no features": not features,
        "the file system has orphan_file": features and "orphan_file" in features[0],
    }
    return failed_if(problems, f"{mount}\n{device}\n{features and features[0]}")


@check(
    "root-options",
    "/ allows device nodes and set-user-ID programs, and an error stops all writing to it",
    needs=["first"],
    probes=["mounts", "device-node"],
)
def root_options(_facts: Facts, first: Answers) -> Verdict:
    """mkosi.images/os-image/mkosi.repart gives the reasons."""
    options = str(_mount(first, "/").get("options", "")).split(",")
    missing = sorted(ROOT_OPTIONS - {*options})
    forbidden = sorted(NOT_ROOT_OPTIONS & {*options})
    node = first["device-node"]
    problems = {
        f"/ is mounted without {', '.join(missing)}": missing,
        f"/ is mounted with {', '.join(forbidden)}": forbidden,
        f"a device node does not work: {node.text}": node.status != 0,
    }
    return failed_if(problems, ",".join(options))


@check(
    "root-grown",
    "root has grown to fill its disk",
    needs=["first", "root_partition"],
    probes=["mounts", "blocks"],
)
def root_grown(_facts: Facts, first: Answers, root: Partition) -> Verdict:
    """The guest's disk is bigger than the image, and the first boot makes use of it."""
    mount = _mount(first, "/")
    wanted = root.size + ROOM - 16 * MIB  # alignment and the second GPT may take that much
    partition = int(_block(first, str(mount.get("source"))).get("size", 0))
    inside = int(mount.get("size") or 0)
    problems = {
        "the root partition did not grow to fill the disk": partition < wanted,
        # ext4 keeps a few percent for its own tables; 85 % tells a grown one from one that is not.
        "the root file system did not grow to fill its partition": inside < 0.85 * partition,
    }
    evidence = (
        f"partition built with {root.size // MIB} MiB, disk enlarged by {ROOM // MIB} MiB, "
        f"partition now {partition // MIB} MiB, file system {inside // MIB} MiB"
    )
    return failed_if(problems, evidence)


@check(
    "esp-mounted",
    "the ESP is mounted at /boot/efi with umask=0077,shortname=winnt",
    needs=["first"],
    probes=["mounts"],
)
def esp_mounted(_facts: Facts, first: Answers) -> Verdict:
    """Only root can read the ESP, where a new kernel would be put."""
    mount = _mount(first, "/boot/efi")
    elsewhere = [
        str(other.get("target"))
        for other in _mounts(first)
        if other != mount and other.get("source") == mount.get("source")
    ]
    missing = ESP_OPTIONS - set(str(mount.get("options", "")).split(","))
    problems = {
        "nothing is mounted at /boot/efi": not mount,
        f"/boot/efi is {mount.get('fstype')}, not vfat": mount and mount.get("fstype") != "vfat",
        f"the ESP is also mounted at {', '.join(elsewhere)}": mount and elsewhere,
        f"/boot/efi is mounted without {', '.join(sorted(missing))}": mount and missing,
    }
    return failed_if(problems, str(mount))


def _mounts(answers: Answers) -> list[Mapping[str, Any]]:
    return list(as_objects(json_object(answers["mounts"].text).get("filesystems", [])))


def _mount(answers: Answers, target: str) -> Mapping[str, Any]:
    return next((mount for mount in _mounts(answers) if mount.get("target") == target), {})


def _block(answers: Answers, path: str) -> Mapping[str, Any]:
    devices = as_objects(json_object(answers["blocks"].text).get("blockdevices", []))
    return next((device for device in devices if device.get("path") == path), {})
