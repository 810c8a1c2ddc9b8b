"""The guest of a scenario: a machine that keeps its disks from one boot to the next."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts.boot import ssh
from scripts.boot.cidata import write_seed
from scripts.boot.machine import Machine
from scripts.boot.probes import Answer
from scripts.boot.watch import FIRST_SIGN, SILENCE, AcceleratorFailure, Limits, Watch
from scripts.contract.hardware import ContractMachine
from scripts.contract.seeds import Seed
from scripts.mkosi.sandbox import Tools

OFF = 90.0  # seconds until a guest that was told to is off

RETRY = 2.0  # seconds between two attempts to log in
LOGINS = 20  # attempts: sshd answers before the seed's user exists
KILLED = 137  # the status of a process that SIGKILL ended, as a shell gives it


class StepFailure(Exception):
    """The guest does not meet a demand; the message is one sentence that says how."""

    def __init__(self, reason: str, evidence: str = "") -> None:
        super().__init__(reason)
        self.reason, self.evidence = reason, evidence


@dataclass
class Guest:
    """A machine that can be switched on and off, and asked by SSH while it is on.

    make_seed returns the guest's configuration for the nth start, with the settings that replace
    those of the scenario. environment is given to each script, and controls maps each service to
    what changes it. expected gathers the patterns of journal.toml that matched. results is the
    folder for consoles, work a folder of the machine's own.
    cancelled is set if nobody waits for the guest any more. Every method that waits raises
    BootFailure, AcceleratorFailure and Cancelled as `Watch` does.
    """

    name: str
    machine: ContractMachine
    make_seed: Callable[[int, Mapping[str, object]], Seed]
    tools: Tools
    key: ssh.Key
    accelerator: str
    deadline: float
    work: Path
    results: Path
    step: Callable[[str], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    environment: dict[str, str] = field(default_factory=dict)
    controls: Mapping[str, object] = field(default_factory=dict)
    expected: set[str] = field(default_factory=set)
    starts: int = 0
    seed: Seed = field(default_factory=Seed)
    _running: Machine | None = None
    _watch: Watch | None = None

    @property
    def running(self) -> Machine:
        """QEMU, while the machine is on. Raises StepFailure if it is off."""
        if self._running is None:
            raise StepFailure("the machine is off")
        return self._running

    @property
    def watch(self) -> Watch:
        """What watches the machine while it is on. Raises StepFailure if it is off."""
        if self._watch is None:
            raise StepFailure("the machine is off")
        return self._watch

    def boot(self, **settings: object) -> float:
        """Switch the machine on, and return the seconds until sshd greets.

        settings replace those of the scenario's seed; every start has a seed of its own, as Lima
        writes one.
        """
        self._expect_off()
        self.seed = self.make_seed(self.starts + 1, settings)
        write_seed(self.machine.seed, self.seed.files)
        return self.start()

    def start(self, *, degraded: bool = False) -> float:
        """Start the machine with the seed that it has, as after a reboot, and do as `boot`.

        degraded says that a failed unit is no reason to give up.
        """
        self._expect_off()
        self.starts += 1
        console = self.results / f"console-{self.name}-{self.starts}.log"
        errors = self.work / f"qemu-{self.starts}.log"
        running = Machine(self.machine, self.tools, self.accelerator, console, errors)
        self._running = running
        if complaint := running.connect():
            raise AcceleratorFailure(complaint)
        limits = Limits(SILENCE, FIRST_SIGN, self.deadline)
        self._watch = Watch(
            running, console, limits, self.step,
            accelerator=self.accelerator, cancelled=self.cancelled, degraded=degraded,
        )  # fmt: skip
        self._watch.until_sshd(self.machine.port)
        return self._watch.seconds

    def ssh(self, script: str, *, user: str = "root", seconds: float = 60.0) -> Answer:
        """Run script with bash in the guest, as "root" or as the seed's "user".

        Returns the status of the first command that fails, or 0, and everything that was printed.
        After seconds, the status is 137 and the last line says so.
        """
        path, output = self.work / "script.sh", self.work / "answer"
        exports = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in self.environment.items()
        )
        path.write_text(f"set -eu -o pipefail\n{exports}{{\n{script}\n}} </dev/null\n")
        shell = "sudo -n bash -s" if user == "root" else "bash -s"
        return self._run(path, output, self.seed.user, shell, seconds)

    def off(self, seconds: float = OFF) -> str:
        """Wait until the guest is off, and return the reason that QEMU gives for its end.

        Raises StepFailure if it is still up after seconds.
        """
        end = self.watch.until_power_off(seconds)
        if not self.running.ended:
            raise StepFailure(f"the guest is {end}")
        self.close()
        return end

    def close(self) -> None:
        """End QEMU, whatever the guest does."""
        running, self._running, self._watch = self._running, None, None
        if running:
            running.close()

    def _expect_off(self) -> None:
        if self._running:
            raise StepFailure("the machine is on already")

    def _run(self, path: Path, output: Path, user: str, shell: str, seconds: float) -> Answer:
        """Run the script at path, and repeat that while ssh itself cannot log in."""
        watch, attempt = self.watch, 0
        while True:
            attempt += 1
            asked = ssh.start_script(
                self.tools, self.key, self.machine.port, path, output, user=user, shell=shell
            )
            in_time = watch.until_done(asked, output, seconds)
            said = output.read_text(errors="replace").strip("\n")
            if not in_time:
                return Answer(f"{said}\nnot done within {seconds:g} s".strip(), KILLED)
            if asked.returncode != ssh.FAILED or attempt == LOGINS:
                return Answer(said, asked.returncode)
            watch.pause(RETRY)
