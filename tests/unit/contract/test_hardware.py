"""QEMU's command line for the machines of the contract."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from scripts.arch import ARCHES, X86_64, Arch
from scripts.boot.cidata import MAC_ADDRESS
from scripts.boot.firmware import FIRMWARE
from scripts.contract.hardware import ContractMachine, mac_address

CONSOLE = Path("/results/console.log")


@pytest.fixture
def machine() -> ContractMachine:
    folder = Path("/work/a, b")
    return ContractMachine(
        X86_64,
        FIRMWARE[X86_64][0],
        base=Path("/out/os-image.raw"),
        overlay=folder / "disk.qcow2",
        variables=folder / "variables.fd",
        seed=folder / "seed.iso",
        port=2222,
    )


def values(machine: ContractMachine, option: str) -> list[str]:
    line = machine.command("tcg", CONSOLE)
    return [value for name, value in pairwise(line) if name == option]


@pytest.mark.parametrize("arch", ARCHES)
def test_a_guest_of_vz_has_a_virtio_console_and_no_uart(
    machine: ContractMachine, arch: Arch
) -> None:
    vz = replace(machine, arch=arch, devices="vz")
    assert not values(vz, "-serial")
    assert "virtconsole,chardev=console" in values(vz, "-device")


def test_a_guest_of_qemu_has_a_uart_and_its_seed_as_a_cd(machine: ContractMachine) -> None:
    assert values(machine, "-serial") == ["chardev:console"]
    assert "scsi-cd,bus=scsi.0,drive=seed" in values(machine, "-device")


def test_a_guest_that_is_offline_reaches_nobody(machine: ContractMachine) -> None:
    assert all("restrict=on" in network for network in values(machine, "-netdev"))
    assert "restrict=on" not in values(replace(machine, is_online=True), "-netdev")[0]


def test_no_card_announces_a_resolver_that_does_not_answer(machine: ContractMachine) -> None:
    two = replace(machine, cards=2, is_online=True)
    assert ["ipv6=off" in network for network in values(two, "-netdev")] == [True, True]


def test_each_card_has_an_address_and_a_network_of_its_own(machine: ContractMachine) -> None:
    two = replace(machine, cards=2)
    networks = values(two, "-netdev")
    assert len(networks) == 2
    assert "hostfwd=tcp:127.0.0.1:2222-:22" in networks[0]
    assert "net=10.0.3.0/24" in networks[1]
    cards = [device for device in values(two, "-device") if device.startswith("virtio-net")]
    assert [mac_address(0) in cards[0], mac_address(1) in cards[1]] == [True, True]


def test_the_first_card_is_the_one_that_the_plain_seed_configures() -> None:
    assert mac_address(0) == MAC_ADDRESS
    assert mac_address(1) == "52:54:00:12:34:57"


def test_virtiofs_gets_memory_that_its_daemon_can_map(machine: ContractMachine) -> None:
    shared = replace(machine, sockets={"home": Path("/run/fs.sock")}, memory=1024)
    assert "memory-backend-memfd,id=memory,size=1024M,share=on" in values(shared, "-object")
    assert "memory-backend=memory" in values(shared, "-machine")[0]
    assert "vhost-user-fs-pci,chardev=virtiofs0,tag=home" in values(shared, "-device")
    assert not values(machine, "-object")


def test_a_disk_is_known_by_its_serial_number(machine: ContractMachine) -> None:
    more = replace(machine, drives={"data": Path("/d")}, extras={"containers": Path("/c")})
    assert "virtio-blk-pci,drive=drive-data,serial=data" in values(more, "-device")
    [extra] = [one for one in values(more, "-blockdev") if "drive-containers" in one]
    assert '"read-only": true' in extra


def test_the_sandbox_lets_qemu_read_and_write_what_it_needs(machine: ContractMachine) -> None:
    more = replace(
        machine,
        extras={"containers": Path("/c")},
        sockets={"home": Path("/run/fs.sock")},
        folders={"mount0": Path("/share")},
    )
    assert {Path("/out/os-image.raw"), machine.seed, Path("/c")} <= {*more.reads()}
    assert {*more.writes()} == {machine.overlay.parent, Path("/run"), Path("/share")}
