"""The guest's serial console: how far a boot has got, what went wrong in it, and why."""

from __future__ import annotations

import codecs
import re
import tomllib
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from scripts.boot.cidata import REPORT_MARK
from scripts.system.text import paragraph

TAIL_LINES = 20

# Limits for a console that never ends a line, or never stops naming units. Lines of a sound console
# have a few hundred characters, and systemd starts at most some 30 units at a time.
LINE_CHARS = 4_096
UNITS = 100

# The jobs that a reason names, and the last lines that it quotes of a failed unit.
NAMED = 3
QUOTED = 2

# The kinds in console.toml that the scanner itself knows.
UNIT_FAILED = "failed unit"
EMERGENCY = "emergency shell"
DEVICE_MISSING = "device missing"

# The words that systemd writes before a unit when a job has ended: "Timed out waiting for device".
VERB_WORDS = 5

# Terminal escapes of ECMA-48: CSI sequences, OSC strings, and the short ones.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

# systemd returns to the start of the line to repeat what it waits for.
_ENDS = re.compile(r"[\r\n]+")


@dataclass(frozen=True)
class Failure:
    """A pattern that ends the test if a line matches it, unless harmless (see console.toml)."""

    kind: str
    pattern: re.Pattern[str]
    cause: str
    deterministic: bool = False
    symptom: bool = False
    harmless: bool = False


@dataclass(frozen=True)
class Finding:
    """A line that matches the pattern of a failure; unit is the unit that wrote it, if known."""

    failure: Failure
    line: str
    unit: str = ""

    @property
    def reason(self) -> str:
        """The cause of the failure, and the line that shows it."""
        return f"{self.failure.cause}: {self.line}"


@dataclass
class Unit:
    """What the guest reports of a failed unit: its result, and its last lines."""

    name: str
    result: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=QUOTED))

    def __str__(self) -> str:
        """The name, the result, and the last lines, as one phrase."""
        said = f": {' / '.join(self.lines)}" if self.lines else ""
        return f"{self.name} failed ({self.result}){said}"


@dataclass(frozen=True)
class Knowledge:
    """The contents of console.toml, with compiled patterns."""

    waiting: re.Pattern[str]
    stalled: re.Pattern[str]
    kernel: re.Pattern[str]
    welcome: re.Pattern[str]
    begins: re.Pattern[str]
    ends: re.Pattern[str]
    milestones: dict[str, re.Pattern[str]]
    failures: tuple[Failure, ...]

    def finding(self, line: str, unit: str = "") -> Finding | None:
        """The first failure whose pattern matches line, which unit wrote, or None."""
        for failure in self.failures:
            if failure.pattern.search(line):
                return Finding(failure, line.strip(), unit)
        return None


@cache
def knowledge() -> Knowledge:
    """Return the contents of the console.toml beside this module."""
    data = tomllib.loads(Path(__file__).with_name("console.toml").read_text())
    patterns = ("waiting", "stalled", "kernel", "welcome", "begins", "ends")
    return Knowledge(
        milestones={name: re.compile(text) for name, text in data["milestones"].items()},
        failures=tuple(
            Failure(**{**table, "pattern": re.compile(table["pattern"])})
            for table in data["failures"]
        ),
        **{name: re.compile(data[name]) for name in patterns},
    )


def plain(text: str) -> str:
    """Return text without terminal escapes and control characters; others become escapes."""
    return paragraph(_CONTROL.sub("", _ESCAPE.sub("", text)))


@dataclass
class Scanner:
    """Reads a console while it grows.

    milestones maps each milestone to the time when the boot reached it, in the seconds given to
    `feed`. findings maps each kind of failure to the first line that shows it. lines are the last
    lines of the console. waiting_for is the line that shows what the guest waits for, or that it is
    stalled; it is "" once the guest continues. jobs are the units that systemd has begun to start
    and not finished with. cloud_init_off says what in the image switches cloud-init off; it is ""
    if nothing does. degraded says that a failed unit does not end the test.

    The rest is the guest's report (cidata.REPORT), complete at the time reported_at: units maps its
    SSH units to "<enabled> <active>", masked maps one of these to a masked unit that it needs, and
    failed has the failed units.
    """

    milestones: dict[str, float] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    failed: dict[str, Unit] = field(default_factory=dict)
    masked: dict[str, str] = field(default_factory=dict)
    reported_at: float | None = None
    cloud_init_off: str = ""
    degraded: bool = False
    waiting_for: str = ""
    jobs: list[str] = field(default_factory=list)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    _partial: str = ""
    _stalled: bool = False
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def feed(self, data: bytes, at: float) -> bool:
        """Read the next bytes of the console, which arrived at seconds after the start.

        Returns whether one of the lines is a sign of life.
        """
        text = self._partial + self._decoder.decode(data)
        *lines, self._partial = _lines(text)
        lives = [self._line(line, at) for line in map(plain, lines)]
        # A login prompt does not end its line.
        self._pass(plain(self._partial), at)
        return any(lives)

    def hear(self, text: str, at: float) -> None:
        """Read a report that did not come by the console, at seconds after the start."""
        for line in map(plain, _lines(text)):
            if REPORT_MARK in line:
                self._report(line, at)

    @property
    def step(self) -> str:
        """The last milestone that the boot reached."""
        return next(reversed(self.milestones), "start")

    @property
    def tail(self) -> str:
        """The last lines, including the unfinished one."""
        return "\n".join([*self.lines, *filter(None, [plain(self._partial).strip()])])

    @property
    def sshd_runs(self) -> bool:
        """Whether the guest has reported that one of sshd's units is active."""
        return any(state.endswith(" active") for state in self.units.values())

    @property
    def cause(self) -> Finding | None:
        """The finding that explains the others: the one whose failure console.toml has first.

        A device that the guest reports as awaited explains a symptom. systemd itself says so only
        when it gives up, by default after 90 s.
        """
        order = knowledge().failures
        found = next((self.findings[one.kind] for one in order if one.kind in self.findings), None)
        devices = [job for job in self.jobs if job.endswith(".device")]
        if found and found.failure.symptom and devices:
            missing = next(one for one in order if one.kind == DEVICE_MISSING)
            return Finding(missing, ", ".join(devices[:NAMED]))
        return found

    @property
    def has_failed(self) -> bool:
        """Whether a finding ends the test."""
        return any(
            not (finding.failure.harmless or (self.degraded and kind == UNIT_FAILED))
            for kind, finding in self.findings.items()
        )

    @property
    def is_explained(self) -> bool:
        """Whether a finding is more than a symptom, or the guest has reported on a failed unit."""
        reported = bool(self.failed) and self.reported_at is not None
        return reported or any(not found.failure.symptom for found in self.findings.values())

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing more will explain the findings."""
        return self.is_explained or EMERGENCY in self.findings or self._never_ran_cloud_init

    @property
    def reason(self) -> str:
        """The cause of the failure, and then the unit that failed with its last lines, or ""."""
        cause, symptom = self.cause, self.findings.get(UNIT_FAILED)
        if cause is None:
            return ""
        unit = self.failed.get(cause.unit) or next(iter(self.failed.values()), None)
        if cause.failure.symptom and self._never_ran_cloud_init:
            return f"{why_no_ssh(self)}; then {cause.line}"
        if unit and cause is symptom:
            return str(unit)
        if unit and (cause.unit or cause.failure.symptom):
            return f"{cause.failure.cause}: {unit}"
        if symptom and symptom is not cause:
            return f"{cause.reason}; then {unit or symptom.line}"
        return cause.reason

    @property
    def _never_ran_cloud_init(self) -> bool:
        return bool(self.cloud_init_off) and "cloud-init" not in self.milestones

    @property
    def waiting(self) -> str:
        """What the guest waits for: systemd's own words, or the jobs that have not ended, or ""."""
        if self.waiting_for:
            return self.waiting_for
        more = f" and {len(self.jobs) - NAMED} more" if len(self.jobs) > NAMED else ""
        return (
            f"the guest still waits for {', '.join(self.jobs[:NAMED])}{more}" if self.jobs else ""
        )

    def _line(self, line: str, at: float) -> bool:
        """Read a line, and return whether it is a sign of life."""
        if not line.strip():
            return False
        if knowledge().waiting.search(line):
            self.waiting_for = line.partition("]")[2].strip()
            return False
        self.lines.append(line.rstrip())
        self._pass(line, at)
        if REPORT_MARK in line:
            self._report(line, at)
        else:
            self._find(line)
            self._follow(line)
        return self._goes_on(line)

    def _find(self, line: str, unit: str = "") -> None:
        if finding := knowledge().finding(line, unit):
            self.findings.setdefault(finding.failure.kind, finding)

    def _follow(self, line: str) -> None:
        """Keep account of the units that systemd starts."""
        if knowledge().welcome.search(line):
            self.jobs.clear()  # those of the initrd
        elif begun := knowledge().begins.search(line):
            self._begin(begun[1])
        elif ended := knowledge().ends.search(line):
            self.jobs = [job for job in self.jobs if not _has_ended(job, ended[1])]

    def _begin(self, unit: str) -> None:
        if len(self.jobs) < UNITS:
            self.jobs.append(unit)

    def _goes_on(self, line: str) -> bool:
        """Return whether line shows that the guest makes progress, and is not stalled."""
        if knowledge().stalled.search(line):
            self.waiting_for = line.partition("]")[2].strip()
            self._stalled = True
        elif not (self._stalled and knowledge().kernel.search(line)):
            self.waiting_for = ""
            self._stalled = False
        return not self._stalled

    def _pass(self, line: str, at: float) -> None:
        for name, pattern in knowledge().milestones.items():
            if name not in self.milestones and pattern.search(line):
                self.milestones[name] = at

    def _report(self, line: str, at: float) -> None:
        verb, _, rest = line.partition(REPORT_MARK)[2].strip().partition(" ")
        unit, _, rest = rest.partition(" ")
        match verb:
            case "end":
                self.reported_at = at
            case "ssh" if len(self.units) < UNITS:
                self.units[unit] = rest
            case "masked" if len(self.masked) < UNITS:
                self.masked[unit] = rest
            case "starting" if not any(job.startswith(unit) for job in self.jobs):
                self._begin(unit)
            case "failed" if len(self.failed) < UNITS:
                self.failed[unit] = Unit(unit, rest)
            case "said" if unit in self.failed:
                self.failed[unit].lines.append(rest)
                self._find(rest, unit)


def _has_ended(unit: str, text: str) -> bool:
    """Return whether text, such as "Finished a.service - A", says that unit's job has ended."""
    words = text.split(" ")
    return any(
        _is_same(unit, " ".join(words[n:])) for n in range(1, min(len(words), VERB_WORDS + 1))
    )


def _is_same(one: str, other: str) -> bool:
    """Return whether two texts may be the same; … stands for what the console has no room for."""
    (head, _, tail), (start, _, end) = one.partition("…"), other.partition("…")
    tail, end = tail or head, end or start
    return (
        (head.startswith(start) or start.startswith(head))
        and (tail.endswith(end) or end.endswith(tail))
    )  # fmt: skip


def _lines(text: str) -> list[str]:
    """Return the lines of text, split after at most LINE_CHARS characters."""
    return [
        line[start : start + LINE_CHARS]
        for line in _ENDS.split(text)
        for start in range(0, max(len(line), 1), LINE_CHARS)
    ]


def why_no_ssh(scanner: Scanner) -> str:
    """Return why sshd does not answer in a guest that is up, judging by its console."""
    states = ", ".join(
        f"{unit} is {state.replace(' ', ' and ')}" for unit, state in scanner.units.items()
    )
    if scanner.cloud_init_off and "cloud-init" not in scanner.milestones:
        return (
            f"cloud-init is switched off by {scanner.cloud_init_off}, so no SSH key was installed"
        )
    if scanner.sshd_runs:
        return f"sshd runs in the guest but cannot be reached: {states}"
    if scanner.masked:
        unit, other = next(iter(scanner.masked.items()))
        return f"sshd cannot run in the guest: {unit} needs {other}, which is masked"
    if states:
        return f"sshd does not run in the guest: {states}"
    if scanner.reported_at is not None:
        return "the guest has no sshd: it knows none of the units ssh and sshd"
    if "cloud-init" not in scanner.milestones:
        return "the guest does not run cloud-init, so no SSH key was installed"
    return "; ".join(filter(None, ["cloud-init did not finish", scanner.waiting]))
