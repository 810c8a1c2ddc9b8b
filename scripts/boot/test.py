"""The boot test: which boots there are, and what is asked of each."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.arch import Arch
from scripts.boot import checks, cidata, disk, firmware, machine, probes, ssh, uki
from scripts.boot.checks import Facts
from scripts.boot.machine import Machine, Vm
from scripts.boot.monitor import MonitorError
from scripts.boot.results import Check, Result, Status, to_json, to_junit
from scripts.boot.watch import AcceleratorFailure, BootFailure, Limits, Watch
from scripts.errors import HarnessError, MachineError, UsageError
from scripts.progress import Progress, Task
from scripts.tools import Tools

KVM = Path("/dev/kvm")

# Seconds without a sign of life, to the first one, and in all, by accelerator.
# OVMF prints its first bytes after 2 s under KVM; one that has not after 30 never will.
SILENCE = 240.0
FIRST_SIGN = 30.0
TOTAL = {"kvm": 300.0, "tcg": 900.0}

POWER_OFF_SECONDS = 90.0
SSH_RETRY_SECONDS = 3.0
SSH_FAILED = 255  # ssh's own failures, ssh(1)

# The boots, by the names of their consoles.
FIRST, SECOND, OTHER = "console.log", "console-second-boot.log", "console-other-instance.log"


@dataclass(frozen=True)
class Subject:
    """What is booted: the disk image, and the UKI that is said to be on its ESP."""

    distribution: str
    arch: Arch
    disk: Path
    uki: Path


def boot_test(
    subject: Subject, tools: Tools, out: Path, progress: Progress, *, accel: str = "auto"
) -> Result:
    """Boot subject, check it, and write the result to the folder out.

    accel is "kvm", "tcg", or "auto" for KVM where it truly works. What is wrong
    with the image is in the Result. Raises MachineError where the machine cannot
    run the test, UsageError for an image or accelerator that is not there.
    """
    _require(subject)
    with progress.task("boot-test") as task, _workspace(out) as work:
        test = _Test(subject, tools, work, task)
        result = test.run(*_accelerators(subject.arch, accel))
        result = replace(result, logs=out)
        _publish(result, work, out)
    return result


def _require(subject: Subject) -> None:
    for path in (subject.disk, subject.uki):
        if not path.is_file():
            raise UsageError(f"there is no {path}", hint="build the os-image first")


def _accelerators(arch: Arch, accel: str) -> tuple[list[str], str]:
    """The accelerators to try in turn, and why KVM is not among them."""
    if accel in machine.ACCELERATORS:
        return [accel], "asked for"
    if accel != "auto":
        raise UsageError(f"unknown accelerator {accel!r}", hint="accepted are auto, kvm, tcg")
    if not arch.is_native:
        return ["tcg"], f"{arch} is not this machine's architecture"
    if not KVM.exists():
        return ["tcg"], f"there is no {KVM}"
    if not os.access(KVM, os.R_OK | os.W_OK):
        return ["tcg"], f"{KVM} may not be opened by this user"
    return ["kvm", "tcg"], "KVM works"


@contextlib.contextmanager
def _workspace(out: Path) -> Iterator[Path]:
    """A folder for overlays, seeds and unfinished results, gone afterwards.

    It has one name, so that what a killed test left is removed by the next.
    """
    work = (out / ".work").absolute()
    shutil.rmtree(work, ignore_errors=True)
    (work / "results").mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(result: Result, work: Path, out: Path) -> None:
    """Write the reports, and move all results to out in place of an older test's."""
    results = work / "results"
    (results / "junit.xml").write_text(to_junit(result))
    (results / "result.json").write_text(to_json(result))
    names = {path.name for path in results.iterdir()}
    for old in out.iterdir():
        if old.is_file() and old.name not in names:
            old.unlink()
    for name in names:
        os.replace(results / name, out / name)


class _Test:
    """One run of the test, as it collects facts."""

    def __init__(self, subject: Subject, tools: Tools, work: Path, task: Task) -> None:
        self.subject, self.tools, self.work, self.task = subject, tools, work, task
        self.results = work / "results"
        self.started = time.monotonic()
        self.firmware = firmware.find(tools, subject.arch)
        self.key = ssh.make_key(tools, work)
        self.facts = Facts(subject.arch, _read_uki(subject.uki), disk_before="")
        self.accelerator, self.accelerator_reason = "none", "the guest was not started"
        self.qemu = self.note = self.tail = ""
        self.timings: dict[str, float] = {}
        self.stage = ""

    def run(self, accelerators: Sequence[str], reason: str) -> Result:
        """Inspect, boot, check."""
        self.task.step("disk")
        self.facts.disk_before = uki.digest(self.subject.disk, "sha512")
        self._inspect()
        failure = None if checks.fatal(self.facts) else self._boot(accelerators, reason)
        self.task.step("image unchanged")
        self.facts.disk_after = uki.digest(self.subject.disk, "sha512")
        return self._result(failure)

    def _inspect(self) -> None:
        """Collect what the disk image tells without being booted."""
        facts, image = self.facts, self.subject.disk
        with contextlib.suppress(disk.DiskError):
            facts.partitions = disk.partitions(image)
        if facts.root_partition:
            facts.root = disk.file_system(image, facts.root_partition)
        if facts.esp_partition:
            copy = self.work / "esp.efi"
            facts.esp_complaint = disk.copy_from_esp(
                self.tools, image, facts.esp_partition, self.subject.arch.boot_file, copy
            )
            facts.esp_uki = uki.digest(copy, "sha256") if copy.exists() else ""

    def _boot(self, accelerators: Sequence[str], reason: str) -> BootFailure | None:
        """Boot with the first accelerator that works, twice if emulation panicked once."""
        for accelerator in accelerators:
            self.accelerator, self.accelerator_reason = accelerator, reason
            try:
                failure = self._boot_all()
                if failure and failure.flaky and accelerator == "tcg":
                    failure = self._boot_again(failure)
                return failure
            except AcceleratorFailure as error:
                reason = f"KVM does not work here: {error}"
                self.facts.first = self.facts.second = None
        raise MachineError(
            f"no guest can be started: {reason}", hint="try `-- --accel tcg`, or see doctor"
        )

    def _boot_again(self, panic: BootFailure) -> BootFailure | None:
        """The one repeat that a kernel panic under TCG gets; the first try's consoles are kept."""
        for console in list(self.results.glob("console*.log")):
            console.rename(console.with_stem(f"panicked-{console.stem}"))
        self.facts.first = self.facts.second = None
        self.facts.host_keys, self.facts.power_offs = {}, {}
        failure = self._boot_all()
        self.note = f"{'failed' if failure else 'passed'} on the second boot: {panic.reason}"
        return failure

    def _boot_all(self) -> BootFailure | None:
        """All boots of both instances."""
        try:
            first = self._instance("first")
            self._boot_first(first)
            self._boot_second(first)
            self._boot_other(self._instance("other"))
        except BootFailure as failure:
            self.tail = failure.console
            return failure
        return None

    def _instance(self, name: str) -> Machine:
        """A machine with a fresh, bigger disk over the built image, and a seed of its own."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        base = self.subject.disk.resolve()
        instance = Machine(
            arch=self.subject.arch,
            firmware=self.firmware,
            base=base,
            overlay=folder / "disk.qcow2",
            variables=folder / "variables.fd",
            seed=folder / "seed.iso",
            port=machine.free_port(),
        )
        machine.create_overlay(self.tools, instance.overlay, base.stat().st_size + machine.ROOM)
        firmware.copy_variables(self.tools, self.firmware, instance.variables)
        cidata.write_seed(instance.seed, f"finch-{name}", self.key.public)
        return instance

    @contextlib.contextmanager
    def _powered(self, instance: Machine, stage: str, console: str) -> Iterator[Watch]:
        """instance, switched on and watched."""
        self.stage = stage
        log = self.results / console
        log.unlink(missing_ok=True)
        vm = Vm(instance, self.tools, self.accelerator, log, self.work / "qemu.log")
        with contextlib.closing(vm):
            if complaint := vm.connect():
                raise AcceleratorFailure(complaint)
            self.qemu = self.qemu or vm.version()
            deadline = self.started + TOTAL[self.accelerator]
            limits = Limits(SILENCE, FIRST_SIGN, deadline)
            watch = Watch(
                stage, vm, log, limits, self.task, accelerator=self.accelerator
            )
            try:
                yield watch
            finally:
                self._note_times(stage, watch)
                self.tail = watch.scanner.tail

    def _note_times(self, stage: str, watch: Watch) -> None:
        for name, seconds in watch.scanner.milestones.items():
            self.timings[f"{stage}: {name}"] = round(seconds, 1)

    def _boot_first(self, instance: Machine) -> None:
        with self._powered(instance, "first boot", FIRST) as watch:
            self._wait_for_sshd(instance, watch, "first")
            self.facts.first = self._ask(instance, watch, again=False)
            self._power_off(watch, "first")
        self._keep_answers()

    def _boot_second(self, instance: Machine) -> None:
        with self._powered(instance, "second boot", SECOND) as watch:
            self._wait_for_sshd(instance, watch, "second")
            self.facts.second = self._ask(instance, watch, again=True)
            self._power_off(watch, "second")

    def _boot_other(self, instance: Machine) -> None:
        with self._powered(instance, "other instance", OTHER) as watch:
            self._wait_for_sshd(instance, watch, "other")

    def _wait_for_sshd(self, instance: Machine, watch: Watch, boot: str) -> None:
        watch.until_sshd(instance.port)
        self.timings[f"{self.stage}: sshd"] = round(watch.seconds, 1)
        self.task.step(f"{self.stage}: host key")
        output = self.work / "keyscan"
        scan = ssh.start_keyscan(self.tools, instance.port, output)
        self._finish(scan, watch)
        self.facts.host_keys[boot] = ssh.parse_keyscan(output.read_text())

    def _ask(self, instance: Machine, watch: Watch, *, again: bool) -> probes.Answers:
        """Ask the guest all probes, trying anew while it lets nobody in yet."""
        mark = f"boot-test-{secrets.token_hex(8)}"
        script, output = self.work / "probes.sh", self.work / "answers"
        script.write_text(probes.script(mark, self.subject.arch.boot_file, again=again))
        while True:
            self.task.step(f"{self.stage}: checks")
            asked = ssh.start_script(self.tools, self.key, instance.port, script, output)
            self._finish(asked, watch, output)
            text = output.read_text(errors="replace")
            if probes.is_complete(mark, text):
                self.timings[f"{self.stage}: checked"] = round(watch.seconds, 1)
                return probes.parse(mark, text)
            if asked.returncode != SSH_FAILED or watch.scanner.reported_at is not None:
                watch.fail(f"the guest could not be asked over SSH: {text.strip()[-400:]}")
            retry = watch.seconds + SSH_RETRY_SECONDS
            watch.until(lambda retry=retry: watch.seconds > retry)  # type: ignore[misc]

    def _finish(
        self, process: subprocess.Popen[bytes], watch: Watch, output: Path | None = None
    ) -> None:
        """Watch until process ends; growing output is a sign of life."""
        size = 0

        def ended() -> bool:
            nonlocal size
            if output and output.stat().st_size > size:
                size = output.stat().st_size
                watch.sign_of_life()
            return process.poll() is not None

        with contextlib.ExitStack() as stack:
            stack.callback(_end, process)
            watch.until(ended)

    def _power_off(self, watch: Watch, boot: str) -> None:
        self.task.step(f"{self.stage}: power-off")
        with contextlib.suppress(MonitorError):
            watch.vm.press_power_button()
        self.facts.power_offs[boot] = watch.until_power_off(POWER_OFF_SECONDS)
        self.timings[f"{self.stage}: off"] = round(watch.seconds, 1)

    def _keep_answers(self) -> None:
        """Keep what a person may want to read whole."""
        first = self.facts.first or {}
        for name, file in (("journal", "journal.txt"), ("plot", "boot.svg")):
            if name in first:
                (self.results / file).write_text(first[name].text + "\n")

    def _result(self, failure: BootFailure | None) -> Result:
        subject, facts = self.subject, self.facts
        found = checks.check_all(facts)
        if failure:
            found = _with_failure(found, self.stage, failure)
        return Result(
            distribution=subject.distribution,
            arch=subject.arch.name,
            checks=found,
            accelerator=self.accelerator,
            accelerator_reason=self.accelerator_reason,
            qemu=self.qemu,
            seconds=round(time.monotonic() - self.started, 1),
            note=self.note,
            console_tail=self.tail,
            guest=_guest(facts),
            timings=self.timings,
        )


def _with_failure(found: Sequence[Check], stage: str, failure: BootFailure) -> list[Check]:
    """The checks, headed by the boot that did not come to its end: it is why others are skipped."""
    title = f"the {stage} comes to its end with nothing wrong on the console"
    reason = f"{stage}: {failure.reason}"
    name = stage.replace(" ", "-")
    return [Check(name, title, Status.FAILED, failure.console, reason), *found]


def _guest(facts: Facts) -> dict[str, str]:
    """What is worth knowing of the guest beside the checks."""
    first = facts.first or {}
    return {name: first[name].text for name in ("os", "kernel", "time", "blame") if name in first}


def _read_uki(path: Path) -> uki.Uki:
    try:
        return uki.read(path)
    except uki.UkiError as error:
        raise HarnessError(str(error), hint="build the os-image again with --force") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
