"""The virtual machine: QEMU's command line, and QEMU while it runs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts import catalog
from scripts.arch import AARCH64, X86_64, Arch
from scripts.boot.cidata import MAC_ADDRESS, SHARE_TAG
from scripts.boot.firmware import Firmware
from scripts.boot.monitor import Event, Monitor, MonitorError
from scripts.mkosi.sandbox import Tools
from scripts.system import process
from scripts.system.errors import MachineError

MEMORY_MIB = 2048
CPUS = 2

# Bytes that the guest's disk has more than the image: enough to tell growth from rounding.
ROOM = 2 << 30


@dataclass(frozen=True)
class Model:
    """QEMU's names for an architecture: program, machine type, and CPU model by accelerator."""

    program: str
    machine: str
    cpu: Mapping[str, str]


# TCG gives every x86 guest svm, for which the guest loads KVM. Without it a boot under TCG takes
# 10 s less of its 90 to 100 s of CPU time.
MODELS = {
    X86_64: Model("qemu-system-x86_64", "q35", {"kvm": "host", "tcg": "max,svm=off"}),
    AARCH64: Model("qemu-system-aarch64", "virt", {"kvm": "host", "tcg": "max"}),
}

# Two boots under the same load had sshd up after 87 s with thread=multi and after 113 s with
# thread=single, for the same CPU time. Neither panicked or hung in 12 boots with QEMU 10.0.13; a
# silence of two minutes that we once saw was due to systemd-networkd-wait-online.
ACCELERATORS = {"kvm": "kvm", "tcg": "tcg,thread=multi"}


@dataclass(frozen=True)
class MachineSpec:
    """The parts of one instance: its own overlay, firmware variables and seed, and a shared base.

    The base image is only read. share is a folder that the guest can read by 9p; port is the
    loopback port that is forwarded to the guest's sshd.
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
        """The command line of QEMU, which appends the serial console to the file console.

        QMP is on stdin and stdout. Paths may contain any character. The guest cannot reach the
        network: `restrict` leaves it DHCP and the forwarded port. Only the disk has a boot index,
        so the firmware tries nothing else.
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
    """A path as QEMU reads it in a comma-separated list of options."""
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
    """Create an empty qcow2 of size bytes. QEMU's command line, not the file, names its backing."""
    create: list[process.Arg] = ["qemu-img", "create", "-q", "-f", "qcow2", overlay, str(size)]
    process.run(tools.command(create, write=[overlay.parent]))


def free_port() -> int:
    """A loopback TCP port that nothing listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Machine:
    """A running QEMU. End it with `close`, at any point of its life."""

    def __init__(
        self, spec: MachineSpec, tools: Tools, accelerator: str, console: Path, errors: Path
    ) -> None:
        """Start QEMU, whose own complaints go to the file errors.

        Raises MachineError if the tools tree has no QEMU for the architecture.
        """
        program = MODELS[spec.arch].program
        if not tools.has(f"usr/bin/{program}"):
            raise MachineError(
                f"the tools tree has no {program}: {tools.tree}",
                hint=f"build the tools tree again: {catalog.command('clean')}, then the build",
            )
        command = tools.command(
            spec.command(accelerator, console),
            read=[spec.base, spec.seed, spec.share],
            write=[spec.overlay.parent, console.parent],
            network=True,
        )
        self.errors = errors
        ours, theirs = socket.socketpair()
        self.monitor = Monitor(ours)
        with errors.open("wb") as stderr, theirs:
            self.process = process.start(
                command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=stderr
            )

    def connect(self) -> str:
        """Wait until QEMU answers. Returns its complaint if it does not, else ""."""
        try:
            self.monitor.connect()
        except MonitorError as error:
            return self.complaints() or str(error)
        return ""

    @property
    def ended(self) -> bool:
        """Whether QEMU has ended."""
        return self.process.poll() is not None

    def events(self, wait: float) -> list[Event]:
        """Wait for wait seconds, and return the events of that time."""
        return self.monitor.events(wait)

    def status(self) -> str:
        """QEMU's run state (`running`, `internal-error`, …), or "" if QEMU does not answer."""
        try:
            return str(self.monitor.execute("query-status")["status"])
        except MonitorError:
            return ""

    def version(self) -> str:
        """QEMU's version, or "" if QEMU does not answer."""
        try:
            version = self.monitor.execute("query-version")["qemu"]
        except MonitorError:
            return ""
        return f"{version['major']}.{version['minor']}.{version['micro']}"

    def press_power_button(self) -> None:
        """Ask the guest to power off, as `limactl stop` does. Raises MonitorError."""
        self.monitor.execute("system_powerdown")

    def complaints(self) -> str:
        """The text that QEMU printed on stderr."""
        return self.errors.read_text(errors="replace").strip()

    def close(self) -> None:
        """End QEMU, unless it has ended by itself, and close its monitor."""
        try:
            process.terminate(self.process, grace=5)
        finally:
            self.monitor.close()
