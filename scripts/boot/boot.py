"""One boot of a guest: wait for sshd, ask the probes, power off."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from scripts.boot import cidata, probes, ssh
from scripts.boot.machine import MachineSpec
from scripts.boot.monitor import MonitorError
from scripts.boot.watch import EXPLAIN_SECONDS, BootFailure, Greeter, Watch
from scripts.mkosi.sandbox import Tools

KEYSCANS = 3  # attempts; on a busy machine one may run into its own time limit
POWER_OFF_SECONDS = 90.0
SSH_RETRY_SECONDS = 3.0
SAID = 400  # characters kept from the end of ssh's output, which says why it failed


@dataclass(frozen=True)
class Boot:
    """A guest that has been switched on, from spec.

    Every method raises BootFailure and AcceleratorFailure as `Watch` does.
    """

    spec: MachineSpec
    watch: Watch
    tools: Tools
    key: ssh.Key

    def host_key(self) -> str:
        """Wait for sshd and return its host key, or "" if it presents none."""
        self.watch.until_sshd(self.spec.port)
        self.watch.milestone("sshd")
        output = self._file("keyscan")
        for _ in range(KEYSCANS):
            self.watch.until_done(ssh.start_keyscan(self.tools, self.spec.port, output), output)
            if key := ssh.parse_keyscan(output.read_text(errors="replace")):
                return key
        return ""

    def ask(self, names: Collection[str]) -> probes.Answers:
        """Return the answers to the probes called names, once the guest lets us log in."""
        self.watch.step("checks")
        mark = f"boot-test-{secrets.token_hex(8)}"
        script, output = self._file("probes.sh"), self._file("answers")
        script.write_text(probes.script(mark, self.spec.arch, names))
        while True:
            # cloud-init installs our key before it reports.
            last = self.watch.scanner.reported_at is not None
            asked = ssh.start_script(self.tools, self.key, self.spec.port, script, output)
            self.watch.until_done(asked, output)
            text = output.read_text(errors="replace")
            if output.stat().st_size >= ssh.OUTPUT_BYTES:
                self.watch.fail(
                    f"the guest sent more than {decimal(ssh.OUTPUT_BYTES)} over SSH, and the rest"
                    " was cut off"
                )
            if probes.is_complete(mark, text):
                self.watch.milestone("checked")
                return probes.parse(mark, text)
            if last or asked.returncode != ssh.FAILED:
                self.watch.fail(f"the guest could not be asked over SSH: {text.strip()[-SAID:]}")
            self.watch.pause(SSH_RETRY_SECONDS)
            self.watch.check_cloud_init()

    def explain(self, failure: BootFailure) -> BootFailure:
        """Return failure with a reason that names its cause, as far as the guest tells it.

        This takes up to EXPLAIN_SECONDS, unless the console has shown the cause already.
        """
        scanner = self.watch.scanner
        # No more is read of a guest that floods its console.
        with contextlib.suppress(BootFailure):
            if scanner.has_failed:
                self._await_explanation()
                return BootFailure(scanner.reason, scanner.tail, flaky=failure.flaky)
            parts = [failure.reason]
            if "sshd" in scanner.milestones:
                known = len(scanner.jobs)
                self._ask_for_report(EXPLAIN_SECONDS)
                parts += map(str, scanner.failed.values())
                parts += [scanner.waiting] if len(scanner.jobs) > known else []
            cause = f"{scanner.cause.reason}; then " if scanner.cause else ""
            return BootFailure(cause + "; ".join(parts), scanner.tail)
        return failure

    def _await_explanation(self) -> None:
        """Wait for more than symptoms: on the console, in the guest's report there, or over SSH."""
        watch, scanner = self.watch, self.watch.scanner
        before, end = scanner.reported_at, watch.seconds + EXPLAIN_SECONDS

        def is_done() -> bool:
            reported = scanner.reported_at != before
            return reported or scanner.is_hopeless or watch.is_over or watch.seconds > end

        with contextlib.closing(Greeter(self.spec.port)) as greeter:
            while not is_done():
                watch.linger(is_done, SSH_RETRY_SECONDS)
                if not is_done() and greeter.greeted():
                    self._ask_for_report(end - watch.seconds)

    def _ask_for_report(self, seconds: float) -> None:
        """Have the guest report over SSH, if it does so within seconds."""
        script, output = self._file("report.sh"), self._file("report")
        script.write_text(cidata.REPORT)
        asked = ssh.start_script(self.tools, self.key, self.spec.port, script, output)
        try:
            self.watch.linger(lambda: asked.poll() is not None, seconds)
        finally:
            asked.kill()
            asked.wait()
        self.watch.scanner.hear(output.read_text(errors="replace"), self.watch.seconds)

    def log_in_without_key(self) -> dict[str, str]:
        """Try each way to log in without a key, and return ssh's answer to each.

        This must be the last use of SSH in a boot: sshd shuts out an address after failed logins
        (PerSourcePenalties in sshd_config(5)).
        """
        said = {}
        for method in ssh.WITHOUT_KEY:
            output = self._file(f"login-{method}")
            self.watch.until_done(
                ssh.start_login(self.tools, self.spec.port, method, output), output
            )
            said[method] = output.read_text(errors="replace").strip()[-SAID:]
        return said

    def power_off(self) -> str:
        """Press the power button and return the reason that QEMU gives for the guest's end."""
        self.watch.step("power-off")
        with contextlib.suppress(MonitorError):
            self.watch.machine.press_power_button()
        end = self.watch.until_power_off(POWER_OFF_SECONDS)
        self.watch.milestone("off")
        return end

    def _file(self, name: str) -> Path:
        return self.spec.overlay.parent / name
