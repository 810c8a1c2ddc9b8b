"""The guest's serial console: how far a boot has got, and what went wrong in it."""

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

# Limits for a console that never ends a line, or never stops reporting failures: characters of a
# line, and findings. Lines of a sound console have a few hundred characters.
LINE_CHARS = 4_096
FINDINGS = 100
UNITS = 4  # that cidata.REPORT asks about

# Terminal escapes of ECMA-48: CSI sequences, OSC strings, and the short ones.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

# systemd returns to the start of the line to repeat what it waits for.
_ENDS = re.compile(r"[\r\n]+")


@dataclass(frozen=True)
class Failure:
    """A pattern that ends the test if a line matches it (see console.toml)."""

    kind: str
    pattern: re.Pattern[str]
    cause: str
    deterministic: bool = False


@dataclass(frozen=True)
class Finding:
    """A line of the console that matches the pattern of a failure."""

    failure: Failure
    line: str

    @property
    def reason(self) -> str:
        """The cause of the failure, and the line that shows it."""
        return f"{self.failure.cause}: {self.line}"


@dataclass(frozen=True)
class Knowledge:
    """The contents of console.toml, with compiled patterns."""

    waiting: re.Pattern[str]
    stalled: re.Pattern[str]
    kernel: re.Pattern[str]
    milestones: dict[str, re.Pattern[str]]
    failures: tuple[Failure, ...]

    def finding(self, line: str) -> Finding | None:
        """The first failure whose pattern matches line, or None."""
        for failure in self.failures:
            if failure.pattern.search(line):
                return Finding(failure, line.strip())
        return None


@cache
def knowledge() -> Knowledge:
    """Return the contents of the console.toml beside this module."""
    data = tomllib.loads(Path(__file__).with_name("console.toml").read_text())
    return Knowledge(
        re.compile(data["waiting"]),
        re.compile(data["stalled"]),
        re.compile(data["kernel"]),
        {name: re.compile(pattern) for name, pattern in data["milestones"].items()},
        tuple(
            Failure(**{**table, "pattern": re.compile(table["pattern"])})
            for table in data["failures"]
        ),
    )


def plain(text: str) -> str:
    """Return text without terminal escapes and control characters; others become escapes."""
    return paragraph(_CONTROL.sub("", _ESCAPE.sub("", text)))


@dataclass
class Scanner:
    """Reads a console while it grows.

    milestones maps each milestone to the time when the boot reached it, in the seconds given to
    `feed`. units holds the guest's report on its SSH units (see cidata.REPORT) as
    unit → "<enabled> <active>", and reported_at the time when that report was complete.
    waiting_for is the line that shows what the guest waits for, or that it is stalled; it is ""
    once the guest continues. lines are the last lines of the console.
    """

    milestones: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    reported_at: float | None = None
    waiting_for: str = ""
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
            self._report(line.partition(REPORT_MARK)[2].split(), at)
        elif len(self.findings) < FINDINGS and (finding := knowledge().finding(line)):
            self.findings.append(finding)
        return self._goes_on(line)

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

    def _report(self, words: list[str], at: float) -> None:
        if words[:1] == ["end"]:
            self.reported_at = at
        elif words and len(self.units) < UNITS:
            self.units[words[0]] = " ".join(words[1:3])


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
    if scanner.sshd_runs:
        return f"sshd runs in the guest but cannot be reached: {states}"
    if states:
        return f"sshd does not run in the guest: {states}"
    if scanner.reported_at is not None:
        return "the guest has no sshd: it knows none of the units ssh and sshd"
    if "cloud-init" not in scanner.milestones:
        return "the guest does not run cloud-init, so no SSH key was installed"
    return "cloud-init did not finish"
