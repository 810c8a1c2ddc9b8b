"""The boot test: which boots there are, and what is asked of each."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from scripts.arch import Arch
from scripts.boot import checks, cidata, firmware, machine, ssh
from scripts.boot.boot import Session
from scripts.boot.checks import Facts, Verdict
from scripts.boot.machine import Machine, Vm
from scripts.boot.results import Result, to_json, to_junit
from scripts.boot.watch import AcceleratorFailure, BootFailure, Cancelled, Limits, Watch
from scripts.catalog import ROOT
from scripts.emulation.emulators import TABLE, Emulated, EmulationTable
from scripts.formats import disk, uki
from scripts.mkosi.sandbox import Tools
from scripts.stages.artifacts import Contents
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, MachineError, UsageError
from scripts.system.progress import Progress, Task

KVM = Path("/dev/kvm")

# Seconds without a sign of life, to the first one, and in all, by accelerator.
# OVMF prints its first bytes after 2 s under KVM; one that has not after 30 never will.
SILENCE = 240.0
FIRST_SIGN = 30.0
TOTAL = {"kvm": 300.0, "tcg": 900.0}

# The boots, and the files their consoles are kept in.
CONSOLES = {
    "first": "console.log",
    "second": "console-second-boot.log",
    "other": "console-other-instance.log",
}


@dataclass(frozen=True)
class Subject:
    """What is booted: the disk image, the UKI that is said to be on its ESP, and what it holds."""

    distribution: str
    arch: Arch
    disk: Path
    uki: Path
    contents: Contents = field(default_factory=Contents)


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
        test = _Test(subject, tools, work, progress, task)
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

    It has one name, so that what a killed test left is removed by the next. The
    lock is the kernel's, on out itself: nothing of it is left behind either.
    """
    out.mkdir(parents=True, exist_ok=True)
    work = (out / ".work").absolute()
    with _locked(out):
        shutil.rmtree(work, ignore_errors=True)
        (work / "results").mkdir(parents=True)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    lock = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HarnessError(
                f"another boot test writes to {out}", hint="wait until it has ended"
            ) from None
        yield
    finally:
        os.close(lock)


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
        (results / name).replace(out / name)


class _Test:
    """One run of the test, as it collects facts."""

    def __init__(
        self, subject: Subject, tools: Tools, work: Path, progress: Progress, task: Task
    ) -> None:
        self.subject, self.tools, self.work = subject, tools, work
        self.progress, self.task = progress, task
        self.cancelled = threading.Event()
        self.results = work / "results"
        self.started = time.monotonic()
        self.firmware = firmware.find(tools, subject.arch)
        self.key = ssh.make_key(tools, work)
        self.facts = Facts(
            subject.arch,
            _read_uki(subject.uki),
            disk_before="",
            distribution=subject.distribution,
            contents=subject.contents,
            emulated=[target.name for target in _emulated(subject.arch)],
        )
        self.accelerator, self.accelerator_reason = "none", "the guest was not started"
        self.qemu = self.note = ""
        self.tails: dict[str, str] = {}
        self.timings: dict[str, float] = {}

    def run(self, accelerators: Sequence[str], reason: str) -> Result:
        """Inspect, boot, check."""
        self.task.step("disk")
        self.facts.disk_before = file_digest(self.subject.disk, "sha512")
        self._inspect()
        if not checks.fatal(self.facts):
            self._boot(accelerators, reason)
        self.task.step("image unchanged")
        self.facts.disk_after = file_digest(self.subject.disk, "sha512")
        return self._result()

    def _inspect(self) -> None:
        """Collect what the disk image tells without being booted."""
        facts, image = self.facts, self.subject.disk
        with contextlib.suppress(disk.DiskError):
            facts.partitions = disk.partitions(image)
        if facts.root_partition:
            facts.root = disk.file_system(image, facts.root_partition)
            facts.machine_id = disk.read_file(
                self.tools, image, facts.root_partition, "/etc/machine-id"
            )
        if facts.esp_partition:
            copy = self.work / "esp.efi"
            facts.esp_complaint = disk.copy_from_esp(
                self.tools, image, facts.esp_partition, self.subject.arch.boot_file, copy
            )
            facts.esp_uki = file_digest(copy) if copy.exists() else ""

    def _boot(self, accelerators: Sequence[str], reason: str) -> None:
        """Boot with the first accelerator that works, twice if emulation panicked once."""
        for accelerator in accelerators:
            self.accelerator, self.accelerator_reason = accelerator, reason
            try:
                failure = self._boot_all()
                if failure and failure.flaky and accelerator == "tcg":
                    self._boot_again(failure)
            except AcceleratorFailure as error:
                reason = f"{accelerator} does not work here: {error}"
                self.facts.forget_boots()
            else:
                return
        hint = "see doctor" if "tcg" in accelerators else "try `-- --accel tcg`, or see doctor"
        raise MachineError(f"no guest can be started: {reason}", hint=hint)

    def _boot_again(self, panic: BootFailure) -> None:
        """The one repeat that a kernel panic under TCG gets; the first try's consoles are kept."""
        for console in list(self.results.glob("console*.log")):
            console.rename(console.with_stem(f"panicked-{console.stem}"))
        self.facts.forget_boots()
        failure = self._boot_all()
        self.note = f"{'failed' if failure else 'passed'} on the second boot: {panic.reason}"

    def _boot_all(self) -> BootFailure | None:
        """All boots of both instances.

        The other instance boots beside the first one's checks and second boot:
        of two cores, a boot under TCG keeps 1.3 busy.
        """
        instance = self._instance("first")
        self.cancelled.clear()
        with ThreadPoolExecutor(1) as pool:
            try:
                other = self._boot_first(instance, pool)
                self._boot_second(instance)
                other.result()
            except BootFailure as failure:
                return failure
            finally:
                self.cancelled.set()
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
            share=folder / "share",
            port=machine.free_port(),
        )
        instance.share.mkdir()
        (instance.share / "said").write_text(checks.SHARED)
        machine.create_overlay(self.tools, instance.overlay, base.stat().st_size + machine.ROOM)
        firmware.copy_variables(self.tools, self.firmware, instance.variables)
        cidata.write_seed(instance.seed, f"finch-{name}", self.key.public)
        return instance

    @contextlib.contextmanager
    def _powered(
        self, instance: Machine, boot: str, step: Callable[[str], None]
    ) -> Iterator[Session]:
        """A session with instance, which is switched on for the with block."""
        log = self.results / CONSOLES[boot]
        vm = Vm(instance, self.tools, self.accelerator, log, self.work / f"qemu-{boot}.log")
        with contextlib.closing(vm):
            if complaint := vm.connect():
                raise AcceleratorFailure(complaint)
            self.qemu = vm.version()
            watch = self._watch(vm, log, step)
            try:
                yield Session(instance, watch, self.tools, self.key, self.subject.distribution)
            except BootFailure as failure:
                reason = f"{boot} boot: {failure.reason}"
                self.facts.boots[boot] = Verdict(reason, failure.console)
                raise
            finally:
                self._note(boot, watch)
            self.facts.boots[boot] = Verdict("", f"sshd after {self.timings[f'{boot}: sshd']} s")

    def _watch(self, vm: Vm, log: Path, step: Callable[[str], None]) -> Watch:
        limits = Limits(SILENCE, FIRST_SIGN, self.started + TOTAL[self.accelerator])
        return Watch(vm, log, limits, step, accelerator=self.accelerator, cancelled=self.cancelled)

    def _note(self, boot: str, watch: Watch) -> None:
        self.tails[boot] = watch.scanner.tail
        for name, seconds in watch.scanner.milestones.items():
            self.timings[f"{boot}: {name}"] = round(seconds, 1)

    def _boot_first(self, instance: Machine, pool: ThreadPoolExecutor) -> Future[None]:
        """Returns the boot of the other instance, begun once this one has shown that it can."""
        with self._powered(instance, "first", self.task.step) as session:
            self.facts.host_keys["first"] = session.host_key()
            other = pool.submit(self._boot_other)
            self.facts.first = session.ask()
            self.facts.power_offs["first"] = session.power_off()
        self._keep_answers()
        return other

    def _step_again(self, text: str) -> None:
        self.task.step(f"second boot: {text}")

    def _boot_second(self, instance: Machine) -> None:
        with self._powered(instance, "second", self._step_again) as session:
            self.facts.host_keys["second"] = session.host_key()
            self.facts.second = session.ask(again=True)
            self.facts.power_offs["second"] = session.power_off()

    def _boot_other(self) -> None:
        instance = self._instance("other")
        with (
            self.progress.task("boot-test, other instance") as task,
            contextlib.suppress(Cancelled),
            self._powered(instance, "other", task.step) as session,
        ):
            self.facts.host_keys["other"] = session.host_key()

    def _keep_answers(self) -> None:
        """Keep what a person may want to read whole."""
        first = self.facts.first or {}
        for name, file in (("journal", "journal.txt"), ("plot", "boot.svg")):
            if name in first:
                (self.results / file).write_text(first[name].text + "\n")

    def _tail(self) -> str:
        """The last console lines of the boot that went wrong, else of the first."""
        wrong = [boot for boot, verdict in self.facts.boots.items() if verdict.reason]
        return next((self.tails[boot] for boot in wrong), self.tails.get("first", ""))

    def _result(self) -> Result:
        subject, facts = self.subject, self.facts
        return Result(
            distribution=subject.distribution,
            arch=subject.arch.name,
            checks=checks.check_all(facts),
            accelerator=self.accelerator,
            accelerator_reason=self.accelerator_reason,
            qemu=self.qemu,
            seconds=round(time.monotonic() - self.started, 1),
            note=self.note,
            disk=facts.disk_before,
            console_tail=self._tail(),
            guest=_guest(facts),
            timings=self.timings,
        )


def _emulated(arch: Arch) -> list[Emulated]:
    return EmulationTable.read(ROOT / TABLE).foreign_to(arch)


def _guest(facts: Facts) -> dict[str, str]:
    """What is worth knowing of the guest beside the checks."""
    first = facts.first or {}
    return {name: first[name].text for name in ("os", "kernel", "time", "blame") if name in first}


def _read_uki(path: Path) -> uki.Uki:
    try:
        return uki.read(path)
    except uki.UkiError as error:
        raise HarnessError(str(error), hint="build the os-image again with --force") from None
