"""Watching a guest: every wait keeps an eye on its console, its signs of life and the clock."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf
from pathlib import Path
from subprocess import Popen

from rich.filesize import decimal

from scripts.boot.console import Finding, Scanner, why_no_ssh
from scripts.boot.machine import Machine
from scripts.boot.ssh import ADDRESS

TICK = 0.2  # seconds between looks

# Seconds without a sign of life, and until the first one. Under KVM, OVMF prints its first bytes
# after 2 s; if it has not done so after 30 s, it never will.
SILENCE = 240.0
FIRST_SIGN = 30.0

# Bytes of a console that are read. A sound boot prints 30 to 200 kB, at the speed of a serial port.
CONSOLE_BYTES = 16 << 20

# The time for explaining lines to arrive after a line that ends the test.
AFTERMATH_SECONDS = 3.0

# The time from the guest's report that sshd runs to sshd's answer, and from the login prompt to the
# first sign of cloud-init. Both take less than 15 s under TCG on two busy cores. If the image
# switches cloud-init off, only sshd is awaited, which may run without it.
SSH_GRACE_SECONDS = 60.0
CLOUD_INIT_GRACE_SECONDS = 120.0
CLOUD_INIT_OFF_GRACE_SECONDS = 20.0

# The time from a symptom, such as a failed unit, to what explains it: a line of the console, or the
# guest's report. The unit that fails first may do so 40 s before sshd is up.
EXPLAIN_SECONDS = 90.0

# The time from the guest's report that no sshd runs to the end of the test.
NO_SSH_GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class Limits:
    """The limits of a boot.

    silence and first_sign are the seconds without a sign of life and until the first one; deadline
    is the end of the test by time.monotonic.
    """

    silence: float
    first_sign: float
    deadline: float


class BootFailure(Exception):
    """The guest failed.

    reason is one sentence, and console holds the last console lines. flaky tells whether emulation
    may be to blame, in which case another attempt tells more.
    """

    def __init__(self, reason: str, console: str, *, flaky: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.console = console
        self.flaky = flaky


class AcceleratorFailure(Exception):
    """The accelerator failed, and not the guest."""


class Cancelled(Exception):
    """The boot is no longer needed."""


class Greeter:
    """Asks the forwarded port for an SSH server's greeting, without blocking.

    QEMU accepts the connection whether or not the guest does, so only the greeting counts.
    """

    RETRY_SECONDS = 1.0
    PATIENCE_SECONDS = 15.0

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: socket.socket | None = None
        self._opened = 0.0

    def greeted(self) -> bool:
        """Return whether the greeting has arrived."""
        age = time.monotonic() - self._opened
        if self._connection is None:
            if age > self.RETRY_SECONDS:
                self._open()
        elif select.select([self._connection], [], [], 0)[0]:
            return self._read()
        elif age > self.PATIENCE_SECONDS:
            self.close()
        return False

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _open(self) -> None:
        self._opened = time.monotonic()
        try:
            self._connection = socket.create_connection((ADDRESS, self._port), 1)
        except OSError:
            self._connection = None

    def _read(self) -> bool:
        assert self._connection
        try:
            return self._connection.recv(4) == b"SSH-"
        except OSError:
            return False
        finally:
            self.close()


class Watch:
    """The watch over one boot of a machine, from QEMU's start to its end.

    console is the file that QEMU writes the serial console to. step is called with each milestone
    when the boot reaches it. Another thread ends the watch by setting cancelled. cloud_init_off
    says what in the image switches cloud-init off; it is "" if nothing does. degraded says that
    units of the guest may fail.
    """

    def __init__(
        self,
        machine: Machine,
        console: Path,
        limits: Limits,
        step: Callable[[str], None],
        *,
        accelerator: str,
        cancelled: threading.Event,
        cloud_init_off: str = "",
        degraded: bool = False,
    ) -> None:
        self.machine = machine
        self.step = step
        self._cancelled = cancelled
        self.scanner = Scanner(cloud_init_off=cloud_init_off, degraded=degraded)
        self._shutdown = ""
        self._may_end = False
        self._ended = False
        self._console = console
        self._offset = 0
        self._limits = limits
        self._accelerator = accelerator
        self._started = time.monotonic()
        self._alive = self._started

    @property
    def seconds(self) -> float:
        """The seconds since the start of the boot."""
        return time.monotonic() - self._started

    @property
    def is_over(self) -> bool:
        """Whether QEMU has ended, or the boot is no longer needed."""
        return self.machine.ended or self._cancelled.is_set()

    def until(self, reached: Callable[[], bool]) -> None:
        """Watch until reached returns true. Raises what `tick` raises."""
        while not reached():
            self.tick()

    def tick(self) -> None:
        """Watch for a moment.

        Raises BootFailure if the guest fails, AcceleratorFailure if KVM does, and Cancelled if
        another thread wants the boot to end.
        """
        if self._cancelled.is_set():
            raise Cancelled
        # Asked before the events are read, since QEMU gives the reason just before it ends.
        self._ended = self.machine.ended
        events = self.machine.events(TICK)
        self._read_console()
        for event in events:
            if event["event"] == "SHUTDOWN":
                self._shutdown = str(event["data"].get("reason", "unknown"))
            elif event["event"] == "STOP" and self.machine.status() == "internal-error":
                self._broken("QEMU stopped the guest with an internal error")
        if self.scanner.has_failed:
            self._report_finding()
        if self._ended and not self._may_end:
            self._report_end()
        self._check_time()

    def milestone(self, name: str) -> None:
        """Record a milestone that the guest's console does not show."""
        self.scanner.milestones[name] = self.seconds

    def sign_of_life(self) -> None:
        """Record a sign of life that the guest's console does not show."""
        self._alive = time.monotonic()

    def until_done(self, process: Popen[bytes], output: Path, seconds: float = inf) -> bool:
        """Watch until process ends, for at most seconds, and end it. Returns whether it ended.

        Its output, in the file output, is a sign of life while it grows. Silence is no failure if
        seconds limits it.
        """
        size, end = 0, time.monotonic() + seconds

        def ended() -> bool:
            nonlocal size
            if output.stat().st_size > size:
                size = output.stat().st_size
                self.sign_of_life()
            return process.poll() is not None or time.monotonic() > end

        try:
            if seconds < inf:
                self.until_late(ended)
            else:
                self.until(ended)
            return process.poll() is not None
        finally:
            process.kill()
            process.wait()

    def pause(self, seconds: float) -> None:
        """Watch for so many seconds."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)

    def until_late(self, reached: Callable[[], bool]) -> None:
        """Watch until reached returns true, which it does in time; the guest may be silent."""

        def reached_in_silence() -> bool:
            self.sign_of_life()
            return reached()

        self.until(reached_in_silence)

    def linger(self, done: Callable[[], bool], seconds: float) -> None:
        """Read on for at most seconds until done returns true, whatever the guest does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (done() or self.is_over):
            self.machine.events(TICK)
            self._read_console()

    def until_sshd(self, port: int) -> None:
        """Watch until sshd greets. Raises BootFailure with the cause if it never will."""
        greeter = Greeter(port)
        try:
            while not ("kernel" in self.scanner.milestones and greeter.greeted()):
                self.tick()
                self._check_sshd()
                self.check_cloud_init()
        finally:
            greeter.close()

    def until_power_off(self, seconds: float) -> str:
        """Watch until QEMU ends, for at most seconds. Returns the reason that QEMU gives.

        If the guest is still up afterwards, returns that.
        """
        self._may_end = True
        end = time.monotonic() + seconds
        self.until(lambda: self._ended or time.monotonic() > end)
        return self._shutdown if self._ended else f"still up after {seconds:.0f} s"

    def fail(self, reason: str, *, flaky: bool = False) -> None:
        """Raise BootFailure with reason and the last lines of the console."""
        raise BootFailure(reason, self.scanner.tail, flaky=flaky)

    def _read_console(self) -> None:
        if not self._console.exists():
            return
        with self._console.open("rb") as file:
            file.seek(self._offset)
            data = file.read(CONSOLE_BYTES - self._offset)
        if data:
            self._offset += len(data)
            before = self.scanner.step
            if self.scanner.feed(data, self.seconds):
                self.sign_of_life()
            if self.scanner.step != before:
                self.step(self.scanner.step)
        if self._offset >= CONSOLE_BYTES:
            self.fail(
                f"the guest printed more than {decimal(CONSOLE_BYTES)} on its console, where the"
                " test stopped reading"
            )

    def _report_finding(self) -> None:
        self.linger(lambda: False, AFTERMATH_SECONDS)
        self.fail(self.scanner.reason, flaky=_is_flaky(self.scanner.findings.values()))

    def _report_end(self) -> None:
        """Raise the reason why QEMU ended although nobody asked it to."""
        if self._shutdown:
            self.fail(f"the guest went down by itself {self._where()} ({self._shutdown})")
        self._broken(f"QEMU ended with status {self.machine.process.returncode}")

    def _broken(self, what: str) -> None:
        complaints = self.machine.complaints()
        reason = f"{what}: {complaints}" if complaints else what
        if self._accelerator == "kvm":
            raise AcceleratorFailure(reason)
        self.fail(reason)

    def check_cloud_init(self) -> None:
        """Give up early if the console shows that cloud-init will never install our key."""
        scanner = self.scanner
        grace = CLOUD_INIT_OFF_GRACE_SECONDS if scanner.cloud_init_off else CLOUD_INIT_GRACE_SECONDS
        waited = self.seconds - scanner.milestones.get("login", self.seconds)
        started = "cloud-init" in scanner.milestones or scanner.reported_at is not None
        if not started and waited > grace:
            self.fail(why_no_ssh(scanner))

    def _check_sshd(self) -> None:
        """Give up early if the guest has reported on sshd, and sshd does not answer."""
        scanner = self.scanner
        grace = SSH_GRACE_SECONDS if scanner.sshd_runs else NO_SSH_GRACE_SECONDS
        if scanner.reported_at is not None and self.seconds - scanner.reported_at > grace:
            self.fail(why_no_ssh(scanner))

    def _check_time(self) -> None:
        now = time.monotonic()
        if (
            self._accelerator == "kvm"
            and not self._offset
            and self.seconds > self._limits.first_sign
        ):
            raise AcceleratorFailure(
                f"no sign of life from the firmware within {self._limits.first_sign:.0f} s"
            )
        if now - self._alive > self._limits.silence:
            self.fail(f"no sign of life for {self._limits.silence:.0f} s {self._where()}")
        if now > self._limits.deadline:
            self.fail(f"the test ran out of time {self._where()}")

    def _where(self) -> str:
        milestones, waiting = self.scanner.milestones, self.scanner.waiting
        if "login" in milestones and "sshd" not in milestones:
            return f"after the login prompt, and sshd never answered; {why_no_ssh(self.scanner)}"
        return f"after the step {self.scanner.step!r} of the boot" + (
            f": {waiting}" if waiting else ""
        )


def _is_flaky(findings: Collection[Finding]) -> bool:
    panicked = any("panic" in finding.line for finding in findings)
    return panicked and not any(finding.failure.deterministic for finding in findings)
