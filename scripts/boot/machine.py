"""The virtual machine: QEMU's command line, and QEMU while it runs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scripts import catalog
from scripts.arch import AARCH64, X86_64, Arch
from scripts.boot.cidata import MAC_ADDRESS, SHARE_TAG
from scripts.boot.firmware import Firmware
from scripts.boot.monitor import Event, Monitor, MonitorError
from scripts.mkosi.sandbox import Tools
from scripts.system import process
from scripts.system.errors import MachineError, UsageError

MEMORY_MIB = 2048
CPUS = 2

KVM = Path("/dev/kvm")

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


class Hardware(Protocol):
    """A machine to start: its command line, and the files that QEMU reads and writes for it."""

    @property
    def arch(self) -> Arch:
        """Its architecture."""

    @property
    def firmware(self) -> Firmware:
        """The firmware, inside the tools tree."""

    @property
    def base(self) -> Path:
        """The built image, which is only read."""

    @property
    def overlay(self) -> Path:
        """The qcow2 over the image, for what the guest writes."""

    @property
    def variables(self) -> Path:
        """The firmware's variables."""

    def command(self, accelerator: str, console: Path) -> list[str]:
        """The command line of QEMU, which appends what the guest's console says to console."""

    def reads(self) -> Sequence[Path]:
        """The files and folders that QEMU reads."""

    def writes(self) -> Sequence[Path]:
        """The files and folders that QEMU writes."""


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
        return [
            *core(self, accelerator, console),
            "-serial", "chardev:console",
            "-blockdev", blockdev("seed", "raw", self.seed, read_only=True),
            "-device", "virtio-blk-pci,drive=seed",
            "-fsdev", f"local,id=share,security_model=none,readonly=on,path={escaped(self.share)}",
            "-device", f"virtio-9p-pci,fsdev=share,mount_tag={SHARE_TAG}",
            "-netdev", f"{forwarding(self.port)},restrict=on",
            "-device", f"virtio-net-pci,netdev=network,mac={MAC_ADDRESS},romfile=",
        ]  # fmt: skip

    def reads(self) -> Sequence[Path]:
        """The image, the seed and the shared folder."""
        return [self.base, self.seed, self.share]

    def writes(self) -> Sequence[Path]:
        """The folder of this instance."""
        return [self.overlay.parent]


def core(
    spec: Hardware, accelerator: str, console: Path, *, memory: int = MEMORY_MIB, options: str = ""
) -> list[str]:
    """The part of QEMU's command line that all machines share, up to their system disk.

    The chardev called console appends to the file console; memory is in MiB, and options are more
    properties of the machine.
    """
    model = MODELS[spec.arch]
    return [
        model.program,
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display", "none",
        "-machine", f"{model.machine},pflash0=code,pflash1=variables{options}",
        "-accel", ACCELERATORS[accelerator],
        "-cpu", model.cpu[accelerator],
        "-smp", str(CPUS),
        "-m", str(memory),
        "-chardev", "stdio,id=monitor,signal=off",
        "-mon", "chardev=monitor,mode=control",
        "-chardev", f"file,id=console,append=on,path={escaped(console)}",
        "-blockdev", blockdev("code", "raw", spec.firmware.code, read_only=True),
        "-blockdev", blockdev("variables", "raw", spec.variables),
        "-blockdev", blockdev("base", "raw", spec.base, read_only=True),
        "-blockdev", blockdev("disk", "qcow2", spec.overlay, backing="base"),
        "-device", "virtio-blk-pci,drive=disk,bootindex=1",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip


def forwarding(port: int) -> str:
    """QEMU's user network, which forwards the loopback port to the guest's sshd."""
    return f"user,id=network,hostfwd=tcp:127.0.0.1:{port}-:22"


def escaped(path: Path) -> str:
    """A path as QEMU reads it in a comma-separated list of options."""
    return os.fspath(path).replace(",", ",,")


def blockdev(
    name: str, driver: str, path: Path, *, read_only: bool = False, backing: str = ""
) -> str:
    """QEMU's option for a block device, as JSON, because a path may hold any character."""
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


def accelerators(arch: Arch, accel: str) -> tuple[list[str], str]:
    """The accelerators to try in turn, and the reason for this choice."""
    if accel in ACCELERATORS:
        return [accel], "asked for"
    if accel != "auto":
        raise UsageError(f"unknown accelerator {accel!r}", hint="use one of auto, kvm, tcg")
    if not arch.is_native:
        return ["tcg"], f"{arch} is not this machine's architecture"
    if not KVM.exists():
        return ["tcg"], f"there is no {KVM}"
    if not os.access(KVM, os.R_OK | os.W_OK):
        return ["tcg"], f"this user may not open {KVM}"
    return ["kvm", "tcg"], "KVM works"


def no_accelerator(reason: str, tried: Sequence[str]) -> MachineError:
    """Return the error that says why none of the accelerators tried can start a guest."""
    doctor = catalog.command("doctor")
    emulate = f"try {catalog.option('accel', 'tcg')}, or run {doctor}"
    hint = f"run {doctor}" if "tcg" in tried else emulate
    return MachineError(f"no guest can be started: {reason}", hint=hint)


class Machine:
    """A running QEMU. End it with `close`, at any point of its life."""

    def __init__(
        self, spec: Hardware, tools: Tools, accelerator: str, console: Path, errors: Path
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
            read=spec.reads(),
            write=[*spec.writes(), console.parent],
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
