"""The table of coverage by room."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import rooms


def told(lines: int, run: int, branches: int = 0, taken: int = 0) -> dict[str, dict[str, int]]:
    """What coverage reports of a file."""
    summary = {"num_statements": lines, "covered_lines": run}
    return {"summary": {**summary, "num_branches": branches, "covered_branches": taken}}


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(rooms, "REPORT", tmp_path / "report.json")
    return tmp_path / "report.json"


def test_modules_are_counted_by_room() -> None:
    files = {
        "scripts/boot/boot.py": told(10, 5, 4, 1),
        "scripts/boot/ssh.py": told(10, 10, 4, 4),
        "scripts/arch.py": told(5, 4),
    }
    counted = rooms.by_room(files)
    assert [
        (room, one["num_statements"], one["covered_lines"]) for room, one in counted.items()
    ] == [
        ("", 5, 4),
        ("boot", 20, 15),
        ("all", 25, 19),
    ]
    assert re.search(r"^scripts/boot +20 +75\.0 % +62\.5 %$", rooms.table(counted), re.MULTILINE)


def test_enough_lines_are_enough_whatever_the_branches(
    report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.write_text(json.dumps({"files": {"scripts/arch.py": told(100, 92, 10, 1)}}))
    rooms.main([])
    assert "92.0 %   10.0 %" in capsys.readouterr().out


def test_too_few_lines_fail(report: Path) -> None:
    report.write_text(json.dumps({"files": {"scripts/arch.py": told(1000, 919)}}))
    with pytest.raises(SystemExit, match=r"error: the tests run 91\.9 % .* fewer than 92 %"):
        rooms.main([])


def test_the_unit_tests_alone_may_run_a_little_less(report: Path) -> None:
    report.write_text(json.dumps({"files": {"scripts/arch.py": told(100, 88)}}))
    rooms.main(["tests/unit"])
    report.write_text(json.dumps({"files": {"scripts/arch.py": told(100, 87)}}))
    with pytest.raises(SystemExit, match=r"fewer than 88 %"):
        rooms.main(["tests/unit"])
