"""The machines of the contract: with the devices that Lima gives its guests on macOS and Linux."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.arch import Arch
from scripts.boot.cidata import MAC_ADDRESS
from scripts.boot.firmware import Firmware
from scripts.boot.machine import blockdev, core, escaped, forwarding


def mac_address(card: int) -> str:
    """Return the MAC address of a card, which are counted from 0: the boot test's, and the next."""
    head, _, last = MAC_ADDRESS.rpartition(":")
    return f"{head}:{int(last, 16) + card:02x}"


@dataclass(frozen=True)
class ContractMachine:
    """The parts of a scenario's machine.

    devices is "vz" or "qemu" (scenario.py). drives maps the serial number of an empty disk to its
    raw file, extras that of a disk with programs to its image, which is only read. sockets maps the
    tag of a virtiofs mount to virtiofsd's socket, folders the tag of a 9p mount to the folder of
    the host. port is the loopback port that is forwarded to the guest's sshd.
    """

    arch: Arch
    firmware: Firmware
    base: Path
    overlay: Path
    variables: Path
    seed: Path
    port: int
    devices: str = "qemu"
    is_online: bool = False
    cards: int = 1
    memory: int = 2048
    drives: Mapping[str, Path] = field(default_factory=dict)
    extras: Mapping[str, Path] = field(default_factory=dict)
    sockets: Mapping[str, Path] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)

    def command(self, accelerator: str, console: Path) -> list[str]:
        """The command line of QEMU, which appends what the guest's console says to console.

        QMP is on stdin and stdout. virtiofs needs memory that virtiofsd can map.
        """
        return [
            *core(
                self, accelerator, console, memory=self.memory,
                options=",memory-backend=memory" if self.sockets else "",
            ),
            *(self._shared_memory() if self.sockets else []),
            *(self._apple() if self.devices == "vz" else self._qemu()),
            *self._disks(),
            *self._shares(),
            *self._cards(),
        ]  # fmt: skip

    def reads(self) -> Sequence[Path]:
        """The image, the seed, the disks with programs, and the folders that are shared by 9p."""
        return [self.base, self.seed, *self.extras.values()]

    def writes(self) -> Sequence[Path]:
        """The folder of this machine, virtiofsd's sockets, and what the guest may write by 9p."""
        return [
            self.overlay.parent,
            *{socket.parent for socket in self.sockets.values()},
            *self.folders.values(),
        ]

    def _shared_memory(self) -> list[str]:
        return ["-object", f"memory-backend-memfd,id=memory,size={self.memory}M,share=on"]

    def _apple(self) -> list[str]:
        """Devices as Apple's Virtualization framework has them: a virtio console, and no UART."""
        return [
            "-device", "virtio-serial-pci",
            "-device", "virtconsole,chardev=console",
            "-device", "virtio-balloon-pci",
            "-blockdev", blockdev("seed", "raw", self.seed, read_only=True),
            "-device", "virtio-blk-pci,drive=seed",
        ]  # fmt: skip

    def _qemu(self) -> list[str]:
        """Devices as Lima's QEMU driver has them: a UART, and the seed as a CD-ROM."""
        return [
            "-serial", "chardev:console",
            "-device", "virtio-scsi-pci,id=scsi",
            "-blockdev", blockdev("seed", "raw", self.seed, read_only=True),
            "-device", "scsi-cd,bus=scsi.0,drive=seed",
        ]  # fmt: skip

    def _disks(self) -> list[str]:
        drives = [(name, path, False) for name, path in self.drives.items()]
        extras = [(name, path, True) for name, path in self.extras.items()]
        return [
            arg
            for name, path, read_only in (*drives, *extras)
            for arg in (
                "-blockdev", blockdev(f"drive-{name}", "raw", path, read_only=read_only),
                "-device", f"virtio-blk-pci,drive=drive-{name},serial={name}",
            )
        ]  # fmt: skip

    def _shares(self) -> list[str]:
        return [
            *(
                arg
                for number, (tag, socket) in enumerate(self.sockets.items())
                for arg in (
                    "-chardev", f"socket,id=virtiofs{number},path={escaped(socket)}",
                    "-device", f"vhost-user-fs-pci,chardev=virtiofs{number},tag={tag}",
                )
            ),
            *(
                arg
                for number, (tag, folder) in enumerate(self.folders.items())
                for arg in (
                    "-fsdev", f"local,id=share{number},security_model=none,path={escaped(folder)}",
                    "-device", f"virtio-9p-pci,fsdev=share{number},mount_tag={tag}",
                )
            ),
        ]  # fmt: skip

    def _cards(self) -> list[str]:
        """The network cards. The first leads to sshd; the others have networks of their own.

        They have no IPv6: QEMU would announce the resolver fec0::3 to the guest, behind which
        nothing answers on a host without IPv6, and a guest asks all resolvers before it believes
        that a name does not exist.
        """
        limit = "" if self.is_online else ",restrict=on"
        networks = [f"{forwarding(self.port)},ipv6=off{limit}"]
        networks += [
            f"user,id=network{card},ipv6=off,restrict=on,net=10.0.{2 + card}.0/24"
            for card in range(1, self.cards)
        ]
        return [
            *(arg for network in networks for arg in ("-netdev", network)),
            *(arg for card in range(self.cards) for arg in ("-device", _network_card(card))),
        ]


def _network_card(card: int) -> str:
    network = f"network{card or ''}"
    return f"virtio-net-pci,netdev={network},mac={mac_address(card)},romfile="
