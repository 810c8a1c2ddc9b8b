"""Say in one sentence what went wrong inside mkosi, from the last lines of its output.

This module applies failures.toml beside it, which lists the known failures.
"""

from __future__ import annotations

import errno
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scripts import catalog
from scripts.system.errors import HarnessError
from scripts.system.process import CommandError


@dataclass(frozen=True)
class Sign:
    """A line or two of output that reveal a failure. failures.toml explains the fields."""

    pattern: re.Pattern[str]
    message: str
    hint: str = ""
    requires: re.Pattern[str] | None = None
    causes: re.Pattern[str] | None = None

    def matches(self, text: str) -> list[re.Match[str]]:
        """Return every place in text, the whole output, that has the sign."""
        if self.requires and not self.requires.search(text):
            return []
        return list(self.pattern.finditer(text))


@dataclass(frozen=True)
class Kind:
    """A kind of failure, with its signs. failures.toml explains the fields."""

    kind: str
    signs: tuple[Sign, ...]
    fetching: bool = False
    last: bool = False
    script: bool = False

    def find(self, text: str) -> Diagnosis | None:
        """Return the sign that comes first in text (or last), None if there is none."""
        found = [
            Diagnosis(self, sign, match, text)
            for sign in self.signs
            for match in sign.matches(text)
        ]
        choose = max if self.last else min
        return choose(found, key=lambda one: one.match.start(), default=None)


@dataclass(frozen=True)
class Cause:
    """A reason that dnf gives, and what it means in our words."""

    pattern: re.Pattern[str]
    reason: str


@dataclass(frozen=True)
class Crash:
    """What a crash under emulation looks like, and how many lines above a failed script count."""

    pattern: re.Pattern[str]
    lines: int
    message: str
    hint: str


@dataclass(frozen=True)
class Knowledge:
    """The contents of failures.toml, with compiled patterns."""

    kinds: tuple[Kind, ...]
    causes: tuple[Cause, ...]
    crash: Crash
    transient: re.Pattern[str]
    hints: Mapping[str, str]
    of_repository: str
    unknown: str

    def diagnose(self, output: str) -> Diagnosis | None:
        """Return the failure that output reveals, None if it is unknown."""
        text = _lines(output)
        return next((found for kind in self.kinds if (found := kind.find(text))), None)

    def hint(self, name: str) -> str:
        """Return the hint called name, with the options of the harness as they are typed."""
        return self.hints[name].format_map(_Options()) if name else ""

    def reworded(self, cause: str) -> dict[str, str]:
        """Return cause in our words as "cause", and the other groups of its pattern."""
        for known in self.causes:
            if match := known.pattern.search(cause):
                groups = match.groupdict()
                return {**groups, "cause": known.reason.format_map(groups)}
        return {"cause": cause}


@dataclass(frozen=True)
class Diagnosis:
    """The sign that explains a failure, and its place in the output."""

    kind: Kind
    sign: Sign
    match: re.Match[str]
    text: str

    def explain(self, work: Path, repository: str) -> tuple[str, str]:
        """Return the message and the hint for a person; see the function `explain`."""
        fields = self._fields() | {"work": os.fspath(work)}
        # dnf knows the name of the repository, the harness its address too.
        name = fields.get("repository", repository)
        name = repository if repository.startswith(name) else name
        phrase = knowledge().of_repository.format(name=name) if name else ""
        message = self.sign.message.format_map({**fields, "of_repository": phrase}).strip()
        if self.kind.script:
            return self._with_crash(message)
        return message, knowledge().hint(self.sign.hint)

    def _fields(self) -> dict[str, str]:
        """Return the groups of the sign, and what the output says elsewhere about its cause."""
        fields = {name: value or "" for name, value in self.match.groupdict().items()}
        if self.sign.causes:
            fields |= knowledge().reworded(self._cause(self.sign.causes))
        return {name: " ".join(value.split()) for name, value in fields.items()}

    def _cause(self, causes: re.Pattern[str]) -> str:
        """Return the last of causes that is about the same file, or else the sign's own cause."""
        own = self.match.groupdict()
        shared = [name for name in causes.groupindex if name in own and name != "cause"]
        found = [
            other["cause"]
            for other in causes.finditer(self.text)
            if all(other[name] == own[name] for name in shared)
        ]
        return str([own["cause"], *found][-1])

    def _with_crash(self, message: str) -> tuple[str, str]:
        """Return message and no hint or, if a program crashed above, the crash and those lines."""
        crash = knowledge().crash
        above = self.text[: self.match.start()].splitlines()
        lines = [line for line in above if line.strip()][-crash.lines :]
        crashes = [line.strip() for line in lines if crash.pattern.match(line)]
        if not crashes:
            return message, ""
        sentence = crash.message.format(message=message, crash=crashes[-1])
        return sentence, "\n".join([crash.hint, *lines])


class _Options(dict[str, str]):
    """Maps the name of an option to the option as it is typed after a session."""

    def __missing__(self, name: str) -> str:
        return catalog.option(name)


@cache
def knowledge() -> Knowledge:
    """Return what failures.toml says."""
    data = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return Knowledge(
        kinds=tuple(_kind(table) for table in data["failures"]),
        causes=tuple(Cause(**_compiled(cause)) for cause in data["causes"]),
        crash=Crash(**_compiled(data["crash"])),
        transient=re.compile(data["transient"]),
        hints=data["hints"],
        of_repository=data["of-repository"],
        unknown=data["unknown"],
    )


def _kind(table: Mapping[str, Any]) -> Kind:
    signs = tuple(Sign(**_compiled(sign)) for sign in table["signs"])
    return Kind(**{**table, "signs": signs})


def _compiled(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return table with its regular expressions compiled."""
    patterns = {"pattern", "requires", "causes"}
    return {
        name: re.compile(value, re.MULTILINE) if name in patterns else value
        for name, value in table.items()
    }


def explain(
    stage: str, error: CommandError, *, work: Path, log: Path, repository: str = ""
) -> HarnessError:
    """Return the HarnessError for a mkosi that failed to build stage, with the cause if known.

    work is the folder in which builds are kept. repository says where RPMs come from, in words such
    as "amazonlinux at https://…", since dnf itself does not always say it.
    """
    found = knowledge().diagnose(error.output)
    message, hint = found.explain(work, repository) if found else ("", "")
    if not message:
        message = knowledge().unknown.format(status=error.returncode)
    return HarnessError(f"building {stage} failed: {message}", hint=hint, log=log)


def explain_os_error(stage: str, error: OSError, *, work: Path) -> HarnessError:
    """Return the HarnessError for an error of the system while the harness itself built stage."""
    message, hint = str(error), ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        found = knowledge().diagnose(os.strerror(error.errno))
        message, hint = found.explain(work, "") if found else (message, hint)
    return HarnessError(f"building {stage} failed: {message}", hint=hint)


def is_transient(error: CommandError) -> bool:
    """Return whether a mkosi that failed may succeed if it is simply run again."""
    known = knowledge()
    text = _lines(error.output)
    is_fetching = any(kind.fetching and kind.find(text) for kind in known.kinds)
    return is_fetching and bool(known.transient.search(text))


def _lines(output: str) -> str:
    """Return output with nothing but newlines between its lines, as patterns expect it."""
    return "\n".join(output.splitlines())
