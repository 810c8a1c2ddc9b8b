"""Checks of the built disk before it is booted: its partitions, its UKI, its root file system."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.facts import Facts, Verdict
from scripts.formats.disk import FileSystem, Partition

MIB = 1 << 20


@check(
    "partitions",
    "the GPT has an ESP and a root partition of this architecture",
    needs=["partitions"],
    fatal=True,
)
def partitions(facts: Facts, table: Sequence[Partition]) -> Verdict:
    """The firmware and systemd find both partitions by their type."""
    evidence = "\n".join(
        f"{p.number}: type {p.type} uuid {p.uuid} label {p.label} {p.size // MIB} MiB"
        for p in table
    )
    problems = {
        "the disk has no EFI system partition": not facts.esp_partition,
        f"the disk has no partition of type {facts.arch.root_type}, a root of {facts.arch}":
            not facts.root_partition,
    }  # fmt: skip
    return failed_if(problems, evidence)


@check(
    "uki-on-esp",
    "the UKI on the ESP is the built one, byte for byte",
    needs=["esp_uki"],
    fatal=True,
)
def uki_on_esp(facts: Facts, found: str) -> Verdict:
    """The firmware boots the UKI from the path for removable media."""
    path = facts.arch.boot_file
    problems = {
        f"the UKI is missing on the ESP: there is no {path}": not found,
        f"the UKI on the ESP ({path}) is not the built one": found and found != facts.uki.sha256,
    }
    evidence = f"ESP {path}: {found or facts.esp_complaint}\nbuilt: {facts.uki.sha256}"
    return failed_if(problems, evidence)


@check(
    "root-file-system",
    "the root file system is ext4 without orphan_file",
    needs=["root"],
    fatal=True,
)
def root_file_system(_facts: Facts, root: FileSystem) -> Verdict:
    """The guest mounts it without a repair, and its own e2fsck understands it."""
    name = root.name or "none, only zeros"
    problems = {
        "the root partition holds no file system": not root.name,
        f"the root file system is {name}, not ext4": root.name not in ("", "ext4"),
        "the root file system has the feature orphan_file, which Amazon Linux 2023's e2fsck does"
        " not know": root.orphan_file,
        "the build did not leave the root file system clean": not root.clean,
    }
    return failed_if(problems, f"{name}, orphan_file {root.orphan_file}, clean {root.clean}")
