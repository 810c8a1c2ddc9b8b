"""Probes (probes.toml): commands that ask the guest questions in one script, and their answers."""

from __future__ import annotations

import re
import shlex
import tomllib
from base64 import b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from scripts.arch import ARCHES, Arch
from scripts.boot import needs
from scripts.emulation import elf

# An exit status, wait(2).
STATUS = re.compile(r"[0-9]{1,3}")

# What the program of another architecture prints.
GREETING = "a foreign program runs"


@dataclass(frozen=True)
class Probe:
    """A shell command for the guest.

    People read the answers to some probes: file is the name of the results file for the answer, and
    shown tells whether the answer is one line or a few that the results show.
    """

    command: str
    file: str = ""
    shown: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether the answer is kept for people, whatever the checks read."""
        return self.shown or bool(self.file)


@dataclass(frozen=True)
class Answer:
    """What a probe printed (stdout and stderr), and its exit status."""

    text: str
    status: int = 0


Answers = Mapping[str, Answer]


@cache
def table() -> Mapping[str, Probe]:
    """The probes in probes.toml by name, in the order in which they are asked."""
    data = tomllib.loads(Path(__file__).with_name("probes.toml").read_text())
    return {name: Probe(**entry) for name, entry in data.items()}


def kept() -> frozenset[str]:
    """The names of the probes whose answers are kept for people."""
    return frozenset(name for name, probe in table().items() if probe.is_kept)


def script(mark: str, arch: Arch, names: Collection[str]) -> str:
    """Return the shell script that asks a guest of arch the probes called names.

    mark is a word that no answer contains; the script marks the answers with it.
    """
    program = elf.says(next(other for other in ARCHES if other is not arch), GREETING)
    lines = [
        f"BOOT_FILE={shlex.quote(arch.boot_file)}",
        f"PROGRAM={b64encode(program).decode()}",
        "export LC_ALL=C.UTF-8 PAGER=",
    ]
    for name, probe in table().items():
        if name in names:
            asked = needs.questions(name)
            given = f"NEEDS={shlex.quote(asked)}\n" if asked else ""
            lines += [
                f"echo '{mark} begin {name}'",
                f"( {given}{probe.command.strip()}\n) </dev/null 2>&1",
                f'printf "\\n%s\\n" "{mark} end $?"',
            ]
    lines.append(f"echo '{mark} complete'")
    return "\n".join(lines) + "\n"


def parse(mark: str, output: str) -> dict[str, Answer]:
    """The answers in the script's output, even if the script was interrupted.

    Names that are not in probes.toml count for nothing, and statuses that no process has. The time
    it takes grows with the length of output only, whatever is in it.
    """
    answers: dict[str, Answer] = {}
    for part in output.split(f"{mark} begin ")[1:]:
        name, _, rest = part.partition("\n")
        text, end, tail = rest.partition(f"\n{mark} end ")
        status = tail.partition("\n")[0]
        if end and name in table() and STATUS.fullmatch(status):
            answers[name] = Answer(text.strip("\n"), int(status))
    return answers


def is_complete(mark: str, output: str) -> bool:
    """Return whether the script ran to its end."""
    return f"{mark} complete" in output
