from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from scripts.build import freshness
from scripts.system.errors import HarnessError

EARLY = datetime(2026, 9, 5, 9, 15, tzinfo=UTC)
LATE = datetime(2026, 11, 21, 9, 15, tzinfo=UTC)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """What an earlier build remembered."""
    path = tmp_path / "newest-index.json"
    freshness.remember(path, {"trixie": LATE, "trixie-security": EARLY})
    return path


@pytest.mark.parametrize("suite", ["trixie", "trixie-security"])
def test_an_index_as_new_as_any_before_is_accepted(memory: Path, suite: str) -> None:
    freshness.check(memory, {suite: LATE}, allow_older=False)


def test_an_older_index_is_refused_and_both_dates_are_told(memory: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        freshness.check(memory, {"trixie-security": LATE, "trixie": EARLY}, allow_older=False)

    assert caught.value.message == (
        "the package index of trixie was made on 2026-09-05 09:15 UTC, but an earlier build used "
        "one of 2026-11-21 09:15 UTC"
    )
    assert "--allow-older-index" in caught.value.hint


def test_an_older_index_is_accepted_if_the_user_says_so(memory: Path) -> None:
    freshness.check(memory, {"trixie": EARLY}, allow_older=True)


def test_a_suite_that_no_build_has_used_is_accepted(memory: Path) -> None:
    freshness.check(memory, {"forky": EARLY}, allow_older=False)
    freshness.check(memory.with_name("nothing"), {"trixie": EARLY}, allow_older=False)


def test_what_is_remembered_never_becomes_older(memory: Path) -> None:
    freshness.remember(memory, {"trixie": EARLY, "forky": EARLY})

    with pytest.raises(HarnessError):
        freshness.check(memory, {"trixie": EARLY}, allow_older=False)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"trixie": 1}', '{"trixie": "soon"}'])
def test_a_memory_that_is_damaged_does_not_count_as_none(memory: Path, text: str) -> None:
    memory.write_text(text)

    with pytest.raises(HarnessError, match="cannot be read") as caught:
        freshness.check(memory, {"trixie": EARLY}, allow_older=False)
    assert f"remove {memory}" in caught.value.hint
