"""Shows how much of each room of scripts/ the tests run; the coverage session runs this module.

It reads the report of `coverage json`, and exits with status 1 if the tests run less than LEAST
percent of all lines. It shows branches (both ways of each condition), but does not judge them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The percentage of lines in scripts/ that all tests must run, and the unit tests alone.
LEAST = 92
UNIT_LEAST = 88

REPORT = Path(".work/coverage/report.json")


def by_room(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Sum up coverage's summaries for each room, and for all rooms under "all", which is last.

    files maps the path of each module to its report from coverage. Modules outside the rooms are
    counted under "".
    """
    rooms: dict[str, Counter[str]] = {}
    for path, told in sorted(files.items()):
        room = Path(path).parent.relative_to("scripts").as_posix().removeprefix(".")
        rooms.setdefault(room, Counter()).update(told["summary"])
    total: Counter[str] = Counter()
    for counted in rooms.values():
        total.update(counted)
    return {**rooms, "all": total}


def share(part: int, whole: int) -> float:
    """Return part as a percentage of whole, or 100 if whole is 0."""
    return 100 * part / whole if whole else 100.0


def lines_run(counted: Mapping[str, int]) -> float:
    """Return the percentage of statements that the tests run."""
    return share(counted["covered_lines"], counted["num_statements"])


def table(rooms: Mapping[str, Mapping[str, int]]) -> str:
    """Return a table with each room's number of lines and its percentages of lines and branches."""
    rows = [f"{'room':22} {'lines':>6} {'run':>8} {'branches':>8}"]
    for room, counted in rooms.items():
        branches = share(counted["covered_branches"], counted["num_branches"])
        rows.append(
            f"{f'scripts/{room}' if room != 'all' else room:22} {counted['num_statements']:6} "
            f"{lines_run(counted):6.1f} % {branches:6.1f} %"
        )
    return "\n".join(rows)


def main(tests: Sequence[str]) -> None:
    """Print the table, and fail if tests, the paths that pytest got, run too few lines."""
    least = UNIT_LEAST if list(tests) == ["tests/unit"] else LEAST
    rooms = by_room(json.loads(REPORT.read_text())["files"])
    print(table(rooms))
    if lines_run(rooms["all"]) < least:
        sys.exit(
            f"error: the tests run {lines_run(rooms['all']):.1f} % of the lines of scripts/, "
            f"fewer than {least} %\n hint: .work/coverage/html/index.html shows which they do not"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
