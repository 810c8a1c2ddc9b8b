"""The boot test: inspects a disk image, boots two instances of it, and checks both."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from scripts import catalog
from scripts.arch import Arch
from scripts.boot import checks, cidata, firmware, inspection, machine, probes, ssh
from scripts.boot.boot import Boot
from scripts.boot.console import plain
from scripts.boot.facts import Contents, Facts, Verdict
from scripts.boot.machine import Machine, MachineSpec
from scripts.boot.results import Result
from scripts.boot.watch import (
    FIRST_SIGN,
    SILENCE,
    AcceleratorFailure,
    BootFailure,
    Cancelled,
    Limits,
    Watch,
)
from scripts.boot.workspace import deliver, results, workspace
from scripts.formats import disk, svg, uki
from scripts.mkosi.sandbox import Tools
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Progress, Task
from scripts.system.text import cut, paragraph

# Seconds that the whole test may take, by accelerator.
TOTAL = {"kvm": 300.0, "tcg": 900.0}

# Characters of an answer that the results show; that of `blame` has 20 lines.
SHOWN = 5_000

# The boots, and the file that keeps the console of each.
CONSOLES = {
    "first": "console.log",
    "second": "console-second-boot.log",
    "other": "console-other-instance.log",
}


@dataclass(frozen=True)
class Subject:
    """An image to boot: its disk, and the UKI that was put on the disk's ESP.

    emulated names the architectures that the image has emulators for. contents lists what the image
    holds besides the distribution's packages. marks are strings that identify the machine that
    built it, such as the path of its checkout; no file of the image may contain one.
    """

    distribution: str
    arch: Arch
    disk: Path
    uki: Path
    emulated: Sequence[str]
    contents: Contents = field(default_factory=Contents)
    marks: Sequence[str] = ()

    def require(self) -> None:
        """Raise UsageError if the image has not been built."""
        for path in (self.disk, self.uki):
            if not path.is_file():
                raise UsageError(f"there is no {path}", hint="build the os-image first")


def boot_test(
    subject: Subject,
    tools: Tools,
    out: Path,
    progress: Progress,
    *,
    accel: str = "auto",
    silence: float | None = None,
) -> Result:
    """Boot subject, check it, and write the results to the folder out.

    accel is "kvm", "tcg", or "auto", which takes KVM if it really works. silence is the time in
    seconds after which a guest without a sign of life is given up, 240 if None. The Result says
    what is wrong with the image. Raises MachineError if this machine cannot run the test,
    UsageError if the image or the accelerator does not exist.
    """
    subject.require()
    with progress.task("boot-test") as task, workspace(out) as work:
        rehearsal = _Rehearsal(subject, tools, work, progress, task, silence or SILENCE)
        result = rehearsal.run(*machine.accelerators(subject.arch, accel))
        result = replace(result, logs=out)
        deliver(result, work, out)
    return result


class _Rehearsal:
    """One run of the boot test, which collects the facts."""

    def __init__(
        self,
        subject: Subject,
        tools: Tools,
        work: Path,
        progress: Progress,
        task: Task,
        silence: float,
    ) -> None:
        self.subject, self.tools, self.work = subject, tools, work
        self.progress, self.task, self.silence = progress, task, silence
        self.cancelled = threading.Event()
        self.results = results(work)
        self.started = time.monotonic()
        self.firmware = firmware.find(tools, subject.arch)
        self.key = ssh.make_key(tools, work)
        self.facts = Facts(
            subject.arch,
            catalog.DISTRIBUTIONS[subject.distribution],
            _read_uki(subject.uki),
            disk_before="",
            contents=subject.contents,
            emulated=subject.emulated,
        )
        self.accelerator, self.accelerator_reason = "none", "the guest was not started"
        self.qemu = self.note = ""
        self.tails: dict[str, str] = {}
        self.timings: dict[str, float] = {}

    def run(self, accelerators: Sequence[str], reason: str) -> Result:
        """Inspect the disk, boot it unless that is pointless, and return what the checks find."""
        self.task.step("disk")
        self.facts.disk_before = file_digest(self.subject.disk, "sha512")
        self._inspect()
        if not checks.fatal(self.facts):
            self._boot(accelerators, reason)
        self.task.step("image unchanged")
        self.facts.disk_after = file_digest(self.subject.disk, "sha512")
        return self._result()

    def _inspect(self) -> None:
        """Collect the facts that the disk image shows without being booted."""
        facts, image = self.facts, self.subject.disk
        with contextlib.suppress(disk.DiskError):
            facts.partitions = disk.partitions(image)
        if facts.root_partition:
            facts.root = disk.file_system(image, facts.root_partition)
            facts.machine_id = disk.read_file(
                self.tools, image, facts.root_partition, "/etc/machine-id"
            )
            facts.files = inspection.inspect(image, facts.root_partition, self.subject.marks)
        if facts.esp_partition:
            copy = self.work / "esp.efi"
            facts.esp_complaint = disk.copy_from_esp(
                self.tools, image, facts.esp_partition, self.subject.arch.boot_file, copy
            )
            facts.esp_uki = file_digest(copy) if copy.exists() else ""
            facts.esp_files = disk.list_esp(self.tools, image, facts.esp_partition)

    def _boot(self, accelerators: Sequence[str], reason: str) -> None:
        """Boot with the first accelerator that works; repeat once after a panic under TCG."""
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
        raise machine.no_accelerator(reason, accelerators)

    def _boot_again(self, panic: BootFailure) -> None:
        """Repeat all boots once, and keep the consoles of the attempt that ended in a panic."""
        for console in list(self.results.glob("console*.log")):
            console.rename(console.with_stem(f"panicked-{console.stem}"))
        self.facts.forget_boots()
        failure = self._boot_all()
        self.note = f"{'failed' if failure else 'passed'} on the second boot: {panic.reason}"

    def _boot_all(self) -> BootFailure | None:
        """Boot both instances, and return the failure of the first boot that fails.

        The other instance boots while the first one is checked and booted again: a boot under TCG
        keeps 1.3 of two cores busy.
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

    def _instance(self, name: str) -> MachineSpec:
        """A machine with an empty overlay over the built image, enlarged, and with its own seed."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        base = self.subject.disk.resolve()
        spec = MachineSpec(
            arch=self.subject.arch,
            firmware=self.firmware,
            base=base,
            overlay=folder / "disk.qcow2",
            variables=folder / "variables.fd",
            seed=folder / "seed.iso",
            share=folder / "share",
            port=machine.free_port(),
        )
        spec.share.mkdir()
        (spec.share / "said").write_text(cidata.SHARED)
        machine.create_overlay(self.tools, spec.overlay, base.stat().st_size + machine.ROOM)
        firmware.copy_variables(self.tools, self.firmware, spec.variables)
        cidata.write_seed(spec.seed, cidata.files(f"finch-{name}", self.key.public))
        return spec

    @contextlib.contextmanager
    def _powered(self, spec: MachineSpec, name: str, step: Callable[[str], None]) -> Iterator[Boot]:
        """Switch a machine on for the length of the with block, and record how the boot went.

        name is "first", "second" or "other"; step is told each milestone.
        """
        log = self.results / CONSOLES[name]
        running = Machine(spec, self.tools, self.accelerator, log, self.work / f"qemu-{name}.log")
        with contextlib.closing(running):
            if complaint := running.connect():
                raise AcceleratorFailure(complaint)
            self.qemu = running.version()
            watch = self._watch(running, log, step)
            guest = Boot(spec, watch, self.tools, self.key)
            try:
                yield guest
            except BootFailure as failure:
                explained = guest.explain(failure)
                reason = f"{name} boot: {explained.reason}"
                self.facts.boots[name] = Verdict(reason, explained.console)
                raise explained from None
            finally:
                self._note(name, watch)
            self.facts.boots[name] = Verdict("", f"sshd after {self.timings[f'{name}: sshd']} s")

    def _watch(self, running: Machine, log: Path, step: Callable[[str], None]) -> Watch:
        limits = Limits(self.silence, FIRST_SIGN, self.started + TOTAL[self.accelerator])
        return Watch(
            running,
            log,
            limits,
            step,
            accelerator=self.accelerator,
            cancelled=self.cancelled,
            cloud_init_off=self.facts.cloud_init_off,
        )

    def _note(self, boot: str, watch: Watch) -> None:
        self.tails[boot] = watch.scanner.tail
        for name, seconds in watch.scanner.milestones.items():
            self.timings[f"{boot}: {name}"] = round(seconds, 1)

    def _asked(self, boot: str) -> frozenset[str]:
        """The names of the probes that the checks read in a boot."""
        return checks.probes_read(self.facts.distribution, boot)

    def _boot_first(self, spec: MachineSpec, pool: ThreadPoolExecutor) -> Future[None]:
        """Boot for the first time. Once sshd is up, start the other instance, which is returned."""
        with self._powered(spec, "first", self.task.step) as boot:
            self.facts.host_keys["first"] = boot.host_key()
            other = pool.submit(self._boot_other)
            self.facts.first = boot.ask(self._asked("first") | probes.kept())
            self.facts.refusals = boot.log_in_without_key()
            self.facts.power_offs["first"] = boot.power_off()
        self._keep_answers()
        return other

    def _step_again(self, text: str) -> None:
        self.task.step(f"second boot: {text}")

    def _boot_second(self, spec: MachineSpec) -> None:
        with self._powered(spec, "second", self._step_again) as boot:
            self.facts.host_keys["second"] = boot.host_key()
            self.facts.second = boot.ask(self._asked("second"))
            self.facts.power_offs["second"] = boot.power_off()

    def _boot_other(self) -> None:
        spec = self._instance("other")
        with (
            self.progress.task("boot-test, other instance") as task,
            contextlib.suppress(Cancelled),
            self._powered(spec, "other", task.step) as boot,
        ):
            self.facts.host_keys["other"] = boot.host_key()

    def _keep_answers(self) -> None:
        """Write the answers that people read in full to files of their own, safe to open."""
        first = self.facts.first or {}
        for name, probe in probes.table().items():
            if not probe.file or name not in first:
                continue
            try:
                text = _safe(probe.file, first[name].text)
            except svg.SvgError as error:
                self.progress.say(f"{probe.file} of the guest is left out: {error}")
            else:
                (self.results / probe.file).write_text(text)

    def _tail(self) -> str:
        """The last console lines of the boot that failed, or of the first boot."""
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


def _guest(facts: Facts) -> dict[str, str]:
    """The answers that the results show beside the checks."""
    first = facts.first or {}
    return {
        name: plain(cut(first[name].text, SHOWN))
        for name, probe in probes.table().items()
        if probe.shown and name in first
    }


def _safe(name: str, text: str) -> str:
    """Return the guest's answer for the file called name, made safe to open.

    Raises SvgError if the name is that of an SVG and text is not one.
    """
    return svg.clean(text) if name.endswith(".svg") else f"{paragraph(text)}\n"


def _read_uki(path: Path) -> uki.Uki:
    try:
        return uki.read(path)
    except uki.UkiError as error:
        raise HarnessError(
            str(error), hint=f"build the os-image again with {catalog.option('force')}"
        ) from None
