"""Runs scenarios against a built image: a machine each, and its steps in order."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from scripts.boot import Check, Result, Subject, firmware, machine, ssh
from scripts.boot.checks.rule import EVIDENCE, REASON
from scripts.boot.console import plain
from scripts.boot.monitor import MonitorError
from scripts.boot.results import Status
from scripts.boot.watch import AcceleratorFailure, BootFailure
from scripts.boot.workspace import deliver, results, workspace
from scripts.contract import extras, journal
from scripts.contract.actions import ACTIONS
from scripts.contract.guest import KILLED, Guest, StepFailure
from scripts.contract.hardware import ContractMachine, mac_address
from scripts.contract.scenario import Scenario, Step
from scripts.contract.seeds import KINDS, Occasion, Seed
from scripts.contract.services import SERVICES, Host
from scripts.mkosi.sandbox import Tools
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, MachineError
from scripts.system.process import last_line
from scripts.system.progress import Progress, Task
from scripts.system.text import cut

# A module counts if it is loaded, built into the kernel or can be loaded.
HAS_MODULE = "modprobe -n -q {0} || grep -q '/{0}[.]ko' /lib/modules/$(uname -r)/modules.builtin"

# The accelerator of a machine on which none works, as results name it.
NONE = "none"

LOST = "the guest was lost before this step"

Value = TypeVar("Value")


@dataclass(frozen=True)
class Contract:
    """One run of the contract: the image, its scenarios, and what they are tried with.

    kept is the folder for downloads that the next run needs again. jobs scenarios run at a time.
    is_whole tells whether scenarios are all that there are.
    """

    subject: Subject
    scenarios: Sequence[Scenario]
    tools: Tools
    kept: Path
    progress: Progress
    jobs: int = 2
    is_whole: bool = True

    def run(self, out: Path, *, accel: str = "auto") -> Result:
        """Try all scenarios that are for the image, and write the results to the folder out.

        Raises MachineError if this machine lacks what a scenario needs, after the others have been
        tried, HarnessError if no scenario is for the image, and UsageError if the image or the
        accelerator does not exist.
        """
        subject, began = self.subject, time.monotonic()
        subject.require()
        chosen = [one for one in self.scenarios if one.is_for(subject.distribution)]
        if not chosen:
            raise HarnessError(f"no scenario is for {subject.distribution}")
        with workspace(out) as work:
            run = _Run(self, work, *machine.accelerators(subject.arch, accel))
            checks = run.scenarios(chosen, self.jobs)
            result = Result(
                distribution=subject.distribution,
                arch=subject.arch.name,
                checks=[check for found in checks for check in found],
                accelerator=run.accelerator,
                accelerator_reason=run.reason,
                qemu="",
                seconds=round(time.monotonic() - began, 1),
                disk=file_digest(subject.disk, "sha512"),
                logs=out,
            )  # fmt: skip
            # Only then every journal of the contract was read.
            stale = run.stale() if self.is_whole and result.passed else []
            names = ", ".join(one.name for one in chosen)
            part = [] if self.is_whole else [f"nothing was tried but {names}"]
            result = replace(result, note="; ".join([*part, *run.notes, *stale]))
            deliver(result, work, out)
        if run.lacks:
            raise run.lacks[0]
        return result


class _Run:
    """A run of the contract, whose scenarios share the key and what is known of the accelerator."""

    def __init__(
        self, contract: Contract, work: Path, accelerators: Sequence[str], reason: str
    ) -> None:
        self.contract, self.work = contract, work
        self.tried, self.accelerators, self.reason = accelerators, list(accelerators), reason
        self.firmware = firmware.find(contract.tools, contract.subject.arch)
        self.key = ssh.make_key(contract.tools, work)
        self.notes: list[str] = []
        self.cancelled = threading.Event()
        self.expected: set[str] = set()
        self.lacks: list[MachineError] = []

    @property
    def accelerator(self) -> str:
        """The accelerator that works as far as is known, or NONE."""
        return next(iter(self.accelerators), NONE)

    def scenarios(self, chosen: Sequence[Scenario], jobs: int) -> list[list[Check]]:
        """Try scenarios, jobs at a time. If one of them raises an error, the others end at once."""
        with ThreadPoolExecutor(jobs) as pool:
            tried = [pool.submit(self.scenario, one) for one in chosen]
            try:
                for one in as_completed(tried):
                    one.result()
            finally:
                self.cancelled.set()
                pool.shutdown(cancel_futures=True)
        return [one.result() for one in tried]

    def scenario(self, scenario: Scenario) -> list[Check]:
        """Try a scenario with the first accelerator that works; repeat it after a panic under TCG.

        The consoles of the boot that ended in a panic are kept. If this machine lacks what the
        scenario needs, all its steps are skipped, and lacks gets the error.
        """
        try:
            with self.contract.progress.task(scenario.name) as task:
                return self._attempts(scenario, task)
        except MachineError as error:
            self.lacks.append(error)
            return [replace(_check(scenario, step), reason=str(error)) for step in scenario.steps]

    def _attempts(self, scenario: Scenario, task: Task) -> list[Check]:
        repeated = False
        while True:
            accelerator = self.accelerator
            if accelerator == NONE:
                raise machine.no_accelerator(self.reason, self.tried)
            try:
                checks, panic = _Attempt(self, scenario, accelerator, task).run()
            except AcceleratorFailure as error:
                self._give_up(accelerator, str(error))
                for console in self._consoles(scenario):
                    console.unlink()
                continue
            if not panic or repeated or accelerator != "tcg":
                return checks
            repeated = True
            for console in self._consoles(scenario):
                console.rename(console.with_stem(f"panicked-{console.stem}"))
            self.notes.append(f"{scenario.name}: second attempt after {panic}")

    def stale(self) -> list[str]:
        """Return what journal.toml expects in vain."""
        distribution = self.contract.subject.distribution
        entries = journal.stale(journal.read(), self.expected, distribution)
        return [f"no journal has the expected error {entry.pattern.pattern!r}" for entry in entries]

    def _consoles(self, scenario: Scenario) -> list[Path]:
        """Return the consoles of the boots in a scenario so far."""
        return list(results(self.work).glob(f"console-{scenario.name}-[0-9]*.log"))

    def _give_up(self, accelerator: str, reason: str) -> None:
        """Have no other scenario try accelerator."""
        with contextlib.suppress(ValueError):
            self.accelerators.remove(accelerator)
            self.reason = f"{accelerator} does not work here: {reason.partition(chr(10))[0]}"


class _Attempt:
    """One attempt at a scenario."""

    def __init__(self, run: _Run, scenario: Scenario, accelerator: str, task: Task) -> None:
        self.run_, self.scenario, self.accelerator, self.task = run, scenario, accelerator, task
        self.contract = run.contract
        self.work = run.work / scenario.name
        self.lost = self.panic = ""

    def run(self) -> tuple[list[Check], str]:
        """Return the checks, and the panic that ended the attempt if emulation may be to blame."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        with contextlib.ExitStack() as stack:
            self.task.step("services")
            guest = self._guest(stack)
            stack.callback(guest.close)
            checks: list[Check] = []
            for number, step in enumerate(self.scenario.steps, 1):
                self.task.step(f"{number}/{len(self.scenario.steps)}: {step.name}")
                checks.append(self._step(guest, step))
                if checks[-1].status is Status.FAILED:
                    self.contract.progress.say(f"{checks[-1].name}: {checks[-1].reason}")
            return checks, self.panic

    def _guest(self, stack: contextlib.ExitStack) -> Guest:
        scenario, run, tools = self.scenario, self.run_, self.contract.tools
        host = Host(self.work, self.contract.kept, self.contract.progress, tools)
        offers = {name: stack.enter_context(SERVICES[name](host)) for name in scenario.services}
        base = self.contract.subject.disk.resolve()
        built = ContractMachine(
            arch=self.contract.subject.arch,
            firmware=run.firmware,
            base=base,
            overlay=self.work / "disk.qcow2",
            variables=self.work / "variables.fd",
            seed=self.work / "seed.iso",
            port=machine.free_port(),
            devices=scenario.devices,
            is_online=scenario.is_online,
            cards=scenario.cards,
            memory=scenario.memory,
            drives={disk.label: self._drive(disk.label, disk.size) for disk in scenario.disks},
            extras={
                name: extras.build(name, self.contract.subject.arch, tools, self.contract.kept)
                for name in scenario.extras
            },
            sockets=_merged([offer.sockets for offer in offers.values()]),
            folders=_merged([offer.folders for offer in offers.values()]),
        )
        machine.create_overlay(tools, built.overlay, base.stat().st_size + machine.ROOM)
        firmware.copy_variables(tools, run.firmware, built.variables)
        environment = _merged([offer.environment for offer in offers.values()])
        return Guest(
            name=scenario.name,
            machine=built,
            make_seed=lambda start, settings: self._seed(start, settings, environment),
            tools=tools,
            key=run.key,
            accelerator=self.accelerator,
            deadline=time.monotonic() + scenario.seconds,
            work=self.work,
            results=results(run.work),
            step=self.task.step,
            cancelled=run.cancelled,
            environment=environment,
            controls={name: offer.control for name, offer in offers.items()},
            expected=run.expected,
        )

    def _seed(
        self, start: int, settings: Mapping[str, object], environment: Mapping[str, str]
    ) -> Seed:
        """Return the seed for a start; settings replace those of the scenario."""
        scenario = self.scenario
        given = {**scenario.seed, **settings}
        addresses = [mac_address(card) for card in range(scenario.cards)]
        occasion = Occasion(
            scenario.name, start, self.run_.key.public, addresses, given, environment
        )
        return KINDS[str(given.get("kind", "plain"))](occasion)

    def _drive(self, name: str, size: int) -> Path:
        path = self.work / f"{name}.raw"
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def _step(self, guest: Guest, step: Step) -> Check:
        """Try a step. If the guest is lost, all later steps are skipped."""
        check = _check(self.scenario, step)
        if self.lost:
            return replace(check, reason=f"{LOST}: {self.lost}")
        try:
            if left_out := _not_applicable(guest, step):
                return replace(check, status=Status.NOT_APPLICABLE, reason=left_out)
            evidence = _try(guest, step)
        except StepFailure as failure:
            return _failed(check, failure.reason, failure.evidence)
        except MonitorError as error:
            return _failed(check, f"QEMU does not answer: {error}", guest.watch.scanner.tail)
        except BootFailure as failure:
            guest.close()
            self.lost = failure.reason
            self.panic = failure.reason if failure.flaky else ""
            return _failed(check, failure.reason, failure.console)
        return replace(check, status=Status.PASSED, evidence=plain(cut(evidence, EVIDENCE)))


def _check(scenario: Scenario, step: Step) -> Check:
    """Return the check of a step that has not been tried."""
    return Check(f"{scenario.name}.{step.name}", f"{step.title} ({step.client})", Status.SKIPPED)


def _failed(check: Check, reason: str, evidence: str) -> Check:
    return replace(
        check,
        status=Status.FAILED,
        reason=plain(cut(reason, REASON)),
        evidence=plain(cut(evidence, EVIDENCE)),
    )


def _try(guest: Guest, step: Step) -> str:
    """Return the evidence that what step demands holds. Raises StepFailure if it does not."""
    if step.do:
        return ACTIONS[step.do](guest, **step.arguments)
    answer = guest.ssh(step.run, user=step.login, seconds=step.seconds)
    if answer.status:
        last = last_line(answer.text) or f"the script ended with status {answer.status}"
        raise StepFailure(f"{step.name}: {last}", answer.text)
    return answer.text


def _not_applicable(guest: Guest, step: Step) -> str:
    """Return the reason why step does not apply to the guest, or ""."""
    if step.kernel and not _holds(guest, HAS_MODULE.format(step.kernel)):
        return f"the kernel has no {step.kernel}"
    if step.only_if and not _holds(guest, step.only_if):
        return step.otherwise
    return ""


def _holds(guest: Guest, condition: str) -> bool:
    """Return whether the script condition succeeds. Raises StepFailure if it cannot be asked."""
    answer = guest.ssh(condition)
    if answer.status in (ssh.FAILED, KILLED):
        raise StepFailure(f"the guest cannot be asked: {last_line(answer.text)}", answer.text)
    return not answer.status


def _merged(mappings: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    return {name: value for one in mappings for name, value in one.items()}
