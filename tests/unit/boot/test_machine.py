"""QEMU's command line."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from scripts.arch import AARCH64, X86_64, Arch
from scripts.boot.firmware import FIRMWARE
from scripts.boot.machine import MachineSpec

FOLDER = Path("/home/jörg, o/my work")


def command(arch: Arch = X86_64, accelerator: str = "tcg") -> list[str]:
    machine = MachineSpec(
        arch=arch,
        firmware=FIRMWARE[arch][0],
        base=FOLDER / "os-image.raw",
        overlay=FOLDER / "disk.qcow2",
        variables=FOLDER / "variables.fd",
        seed=FOLDER / "seed.iso",
        share=FOLDER / "share",
        port=40022,
    )
    return machine.command(accelerator, FOLDER / "console.log")


def values(line: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(line) if name == option]


def nodes(line: list[str]) -> dict[str, dict[str, object]]:
    return {node["node-name"]: node for node in map(json.loads, values(line, "-blockdev"))}


def test_the_built_image_is_only_read() -> None:
    disks = nodes(command())
    assert disks["base"]["read-only"] is True
    assert disks["disk"]["backing"] == "base"
    assert disks["disk"]["driver"] == "qcow2"


def test_the_guest_is_reached_on_loopback_and_has_no_way_out() -> None:
    [network] = values(command(), "-netdev")
    assert "hostfwd=tcp:127.0.0.1:40022-:22" in network
    assert "restrict=on" in network


def test_a_folder_may_be_called_anything() -> None:
    line = command()
    assert nodes(line)["base"]["file"] == {
        "driver": "file",
        "filename": "/home/jörg, o/my work/os-image.raw",
    }
    [console] = [value for value in values(line, "-chardev") if "console" in value]
    assert console.endswith("path=/home/jörg,, o/my work/console.log")


def test_the_cpu_is_the_machines_own_only_under_kvm() -> None:
    assert values(command(accelerator="kvm"), "-cpu") == ["host"]
    assert values(command(accelerator="kvm"), "-accel") == ["kvm"]
    assert values(command(accelerator="tcg"), "-cpu") == ["max,svm=off"]


def test_aarch64_is_the_same_machine_by_another_table() -> None:
    line = command(AARCH64)
    assert line[0] == "qemu-system-aarch64"
    assert values(line, "-machine")[0].startswith("virt,")
    assert "AAVMF" in str(nodes(line)["code"]["file"])


def test_a_folder_is_offered_by_9p_to_be_read_only() -> None:
    [share] = values(command(), "-fsdev")
    assert "readonly=on" in share
    assert share.endswith("path=/home/jörg,, o/my work/share")
