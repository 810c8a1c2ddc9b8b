"""The virtual machine: QEMU's command line, and QEMU while it runs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import AARCH64, X86_64, Arch
from scripts.boot.cidata import MAC_ADDRESS, SHARE_TAG
from scripts.boot.firmware import Firmware
from scripts.boot.monitor import Event, Monitor, MonitorError
from scripts.mkosi.sandbox import Tools
from scripts.system import process
from scripts.system.errors import MachineError

MEMORY_MIB = 2048
CPUS = 2

# How much bigger than the image the disk is that the guest is given, in bytes:
# enough for "grown" to be told from rounding.
ROOM = 2 << 30


@dataclass(frozen=True)
class Model:
    """What QEMU calls the parts of a machine: program, machine type, CPU model per accelerator."""

    program: str
    machine: str
    cpu: Mapping[str, str]


# Without svm, which TCG gives every x86 guest, the guest does not load KVM: of
# the 90 to 100 s of CPU time that a boot under TCG takes that is 10 s.
MODELS = {
    X86_64: Model("qemu-system-x86_64", "q35", {"kvm": "host", "tcg": "max,svm=off"}),
    AARCH64: Model("qemu-system-aarch64", "virt", {"kvm": "host", "tcg": "max"}),
}

# thread=multi, since of two boots under the same load it had sshd up after 87 s and
# thread=single after 113 s, for the same CPU time. Neither panicked nor hung in
# any of 12 boots with QEMU 10.0.13 (the silence of two minutes that was once seen
# was systemd-networkd-wait-online's).
ACCELERATORS = {"kvm": "kvm", "tcg": "tcg,thread=multi"}


@dataclass(frozen=True)
class Machine:
    """One instance of a guest: its own disk and variables over a base that is only read.

    share is a folder that it offers the guest by 9p, to read; port is the loopback port forwarded
    to the guest's sshd.
    """

    arch: Arch
    firmware: Firmware
    base: Path
    overlay: Path
    variables: Path
    seed: Path
    share: Path
    port: int

    def command(self, accelerator: str, console: Path) -> list[str]:
        """QEMU's command line. The console is appended to the file console, QMP is on stdio.

        No option depends on what characters a path consists of. The guest has
        no way out: `restrict` leaves DHCP and the forwarded port. Only the
        disk has a boot index, so firmware tries nothing else.
        """
        model = MODELS[self.arch]
        network = f"user,id=network,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        return [
            model.program,
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display", "none",
            "-machine", f"{model.machine},pflash0=code,pflash1=variables",
            "-accel", ACCELERATORS[accelerator],
            "-cpu", model.cpu[accelerator],
            "-smp", str(CPUS),
            "-m", str(MEMORY_MIB),
            "-chardev", "stdio,id=monitor,signal=off",
            "-mon", "chardev=monitor,mode=control",
            "-chardev", f"file,id=console,append=on,path={_escaped(console)}",
            "-serial", "chardev:console",
            "-blockdev", _blockdev("code", "raw", self.firmware.code, read_only=True),
            "-blockdev", _blockdev("variables", "raw", self.variables),
            "-blockdev", _blockdev("base", "raw", self.base, read_only=True),
            "-blockdev", _blockdev("disk", "qcow2", self.overlay, backing="base"),
            "-device", "virtio-blk-pci,drive=disk,bootindex=1",
            "-blockdev", _blockdev("seed", "raw", self.seed, read_only=True),
            "-device", "virtio-blk-pci,drive=seed",
            "-fsdev", f"local,id=share,security_model=none,readonly=on,path={_escaped(self.share)}",
            "-device", f"virtio-9p-pci,fsdev=share,mount_tag={SHARE_TAG}",
            "-netdev", network,
            "-device", f"virtio-net-pci,netdev=network,mac={MAC_ADDRESS},romfile=",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip


def _escaped(path: Path) -> str:
    """A path in a list of options that commas part."""
    return os.fspath(path).replace(",", ",,")


def _blockdev(
    name: str, driver: str, path: Path, *, read_only: bool = False, backing: str = ""
) -> str:
    file = {"driver": "file", "filename": os.fspath(path)}
    node = {"node-name": name, "driver": driver, "read-only": read_only, "file": file}
    if backing:
        node["backing"] = backing
    return json.dumps(node)


def create_overlay(tools: Tools, overlay: Path, size: int) -> None:
    """Make an empty qcow2 of size bytes; the command line, not the file, names its backing."""
    create: list[process.Arg] = ["qemu-img", "create", "-q", "-f", "qcow2", overlay, str(size)]
    process.run(tools.command(create, write=[overlay.parent]))


def free_port() -> int:
    """A loopback TCP port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Vm:
    """QEMU running a machine. To be ended with `close`, at any point of its life."""

    def __init__(
        self, machine: Machine, tools: Tools, accelerator: str, console: Path, errors: Path
    ) -> None:
        """Start QEMU; errors is the file its own complaints go to.

        Raises MachineError where the tools tree has no QEMU for the architecture.
        """
        program = MODELS[machine.arch].program
        if not tools.has(f"usr/bin/{program}"):
            raise MachineError(
                f"the tools tree has no {program}: {tools.tree}",
                hint="build the tools tree again: ./nox -s clean, then the build",
            )
        command = tools.command(
            machine.command(accelerator, console),
            read=[machine.base, machine.seed, machine.share],
            write=[machine.overlay.parent, console.parent],
        )
        self.errors = errors
        ours, theirs = socket.socketpair()
        self.monitor = Monitor(ours)
        with errors.open("wb") as stderr, theirs:
            self.process = process.start(
                command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=stderr
            )

    def connect(self) -> str:
        """Wait until QEMU answers; where it does not, what it complains of."""
        try:
            self.monitor.connect()
        except MonitorError as error:
            return self.complaints() or str(error)
        return ""

    @property
    def ended(self) -> bool:
        """Whether QEMU has."""
        return self.process.poll() is not None

    def events(self, wait: float) -> list[Event]:
        """The events of the next wait seconds."""
        return self.monitor.events(wait)

    def status(self) -> str:
        """QEMU's run state (`running`, `internal-error`, …), empty where it does not answer."""
        try:
            return str(self.monitor.execute("query-status")["status"])
        except MonitorError:
            return ""

    def version(self) -> str:
        """QEMU's version, empty where it does not answer."""
        try:
            version = self.monitor.execute("query-version")["qemu"]
        except MonitorError:
            return ""
        return f"{version['major']}.{version['minor']}.{version['micro']}"

    def press_power_button(self) -> None:
        """Ask the guest to power off, as `limactl stop` does. Raises MonitorError."""
        self.monitor.execute("system_powerdown")

    def complaints(self) -> str:
        """What QEMU printed on stderr."""
        return self.errors.read_text(errors="replace").strip()

    def close(self) -> None:
        """End QEMU, if it has not ended by itself."""
        try:
            process.terminate(self.process, grace=5)
        finally:
            self.monitor.close()
