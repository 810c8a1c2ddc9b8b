"""The errors in a guest's journal, and those of them that are expected, each for a reason."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.catalog import ROOT

# The expected errors; beside the scenarios, since they belong to the contract.
EXPECTED = ROOT / "tests/contract/journal.toml"

# All boots that the guest has kept, at priority "err" or worse (journalctl(1), syslog(3)).
COMMAND = (
    "journalctl --quiet --no-pager --priority=3 --output=json"
    " --output-fields=SYSLOG_IDENTIFIER,_COMM,MESSAGE"
)


@dataclass(frozen=True)
class Entry:
    """An expected error: a pattern for "identifier: message", the reason, and where it occurs.

    distributions is empty if the error is expected in all.
    """

    pattern: re.Pattern[str]
    reason: str
    distributions: Sequence[str] = ()


def read(path: Path = EXPECTED) -> list[Entry]:
    """Return the expected errors in the file at path."""
    entries = tomllib.loads(path.read_text())["error"]
    return [Entry(**{**entry, "pattern": re.compile(entry["pattern"])}) for entry in entries]


def messages(text: str) -> list[str]:
    """Return the messages in the output of COMMAND, as "identifier: message"."""
    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [f"{_name(record)}: {_text(record.get('MESSAGE'))}" for record in records]


def unexpected(found: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    """Return the messages that none of entries expects, each once."""
    unknown = [text for text in found if not any(entry.pattern.search(text) for entry in entries)]
    return list(dict.fromkeys(unknown))


def met(found: Sequence[str], entries: Sequence[Entry]) -> list[Entry]:
    """Return those of entries that expect one of the messages found."""
    return [entry for entry in entries if any(entry.pattern.search(text) for text in found)]


def stale(entries: Sequence[Entry], patterns: set[str], distribution: str) -> list[Entry]:
    """Return those of entries, for distribution, whose patterns matched nothing.

    patterns are those that did.
    """
    return [
        entry
        for entry in entries
        if distribution in (entry.distributions or [distribution])
        and entry.pattern.pattern not in patterns
    ]


def _name(record: dict[str, object]) -> str:
    return _text(record.get("SYSLOG_IDENTIFIER") or record.get("_COMM"))


def _text(value: object) -> str:
    """Return a field as text; bytes that are no text come as a list of numbers."""
    if isinstance(value, list) and all(isinstance(byte, int) for byte in value):
        return bytes(value).decode(errors="replace")
    return str(value)
