"""The errors of a guest's journal, and which of them are expected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.contract import journal
from scripts.contract.journal import Entry

EXPECTED = """\
[[error]]
pattern = '^kernel: a device is missing$'
reason = "the machine has none"

[[error]]
pattern = '^generator: '
reason = "it takes its absence for an error"
distributions = ["debian"]
"""


@pytest.fixture
def entries(tmp_path: Path) -> list[Entry]:
    (tmp_path / "journal.toml").write_text(EXPECTED)
    return journal.read(tmp_path / "journal.toml")


def test_messages_have_the_name_of_who_wrote_them() -> None:
    records: list[dict[str, object]] = [
        {"SYSLOG_IDENTIFIER": "sshd", "_COMM": "sshd-session", "MESSAGE": "error: reset"},
        {"_COMM": "chronyd", "MESSAGE": "no socket"},
        {"SYSLOG_IDENTIFIER": "old", "MESSAGE": list("gr\xfc".encode("latin-1"))},
        {"SYSLOG_IDENTIFIER": "empty", "MESSAGE": None},
    ]
    text = "\n".join(["sudo: a warning", *map(json.dumps, records)])
    assert journal.messages(text) == [
        "sshd: error: reset",
        "chronyd: no socket",
        "old: gr\N{REPLACEMENT CHARACTER}",
        "empty: None",
    ]


def test_an_error_that_no_entry_expects_is_told_once(entries: list[Entry]) -> None:
    found = ["kernel: a device is missing", "kernel: oops", "kernel: oops", "generator: x"]
    assert journal.unexpected(found, entries) == ["kernel: oops"]


def test_an_entry_that_matches_nothing_is_stale(entries: list[Entry]) -> None:
    met = journal.met(["kernel: a device is missing"], entries)
    patterns = {entry.pattern.pattern for entry in met}
    assert [entry.reason for entry in met] == ["the machine has none"]
    assert journal.stale(entries, patterns, "debian") == [entries[1]]
    assert journal.stale(entries, set(), "debian") == entries


def test_an_entry_for_another_distribution_is_not_stale(entries: list[Entry]) -> None:
    assert journal.stale(entries, set(), "amazonlinux") == [entries[0]]


def test_every_error_that_the_contract_expects_has_a_reason() -> None:
    entries = journal.read()
    assert entries
    assert all(len(entry.reason) > 20 for entry in entries)
    assert not any(entry.pattern.search("kernel: anything else") for entry in entries)
