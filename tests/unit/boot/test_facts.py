"""What the collected facts say of an image."""

from __future__ import annotations

import pytest

from scripts import catalog
from scripts.arch import X86_64
from scripts.boot.facts import Facts
from scripts.boot.inspection import Files
from scripts.formats.ext4 import Entry
from scripts.formats.uki import Uki
from tests.unit.boot.trees import LINK, entry

UNITS = "/etc/systemd/system"


def facts(*entries: Entry, cmdline: str = "rw console=ttyS0") -> Facts:
    return Facts(
        X86_64,
        catalog.DISTRIBUTIONS["debian"],
        Uki(cmdline, "6.12", ""),
        disk_before="",
        files=Files(entries),
    )


def link(name: str, target: str) -> Entry:
    return entry(f"{UNITS}/{name}", LINK | 0o777, target=target)


def test_an_image_says_that_its_file_switches_cloud_init_off() -> None:
    path = "/etc/cloud/cloud-init.disabled"
    assert facts(entry("/etc/fstab"), entry(path)).cloud_init_off == path


def test_an_image_says_that_its_kernel_command_line_switches_cloud_init_off() -> None:
    off = facts(cmdline="rw cloud-init=disabled").cloud_init_off
    assert off == "cloud-init=disabled on the kernel command line"


@pytest.mark.parametrize(
    "name", ["cloud-init.target", "cloud-init-main.service", "cloud-init.service"]
)
def test_an_image_says_which_masked_unit_switches_cloud_init_off(name: str) -> None:
    assert facts(link(name, "/dev/null")).cloud_init_off == f"{UNITS}/{name}"


def test_an_image_with_cloud_init_does_not_switch_it_off() -> None:
    good = facts(
        entry("/etc/cloud/cloud.cfg"),
        link("cloud-init.target", "/usr/lib/systemd/system/cloud-init.target"),
        link("systemd-networkd-wait-online.service", "/dev/null"),
    )
    assert not good.cloud_init_off
