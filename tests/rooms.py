"""How much of each room of scripts/ the tests run: `python -m tests.rooms`, for nox -s coverage.

Reads what `coverage json` wrote. Ends with status 1 where fewer lines of all than LEAST run; the
branches (both ways of each condition) are shown, but not judged.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Of 100 lines of scripts/, how many the tests must run.
LEAST = 92

REPORT = Path(".work/coverage/report.json")


def by_room(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """The sums of coverage's summaries for each room, "all" last; modules of no folder are "".

    files maps the path of each module to what coverage reports of it.
    """
    rooms: dict[str, Counter[str]] = {}
    for path, told in sorted(files.items()):
        folder = Path(path).parent.name
        room = "" if folder == "scripts" else folder
        rooms.setdefault(room, Counter()).update(told["summary"])
    total: Counter[str] = Counter()
    for counted in rooms.values():
        total.update(counted)
    return {**rooms, "all": total}


def share(part: int, whole: int) -> float:
    """How many of 100 part is of whole; all of nothing is 100."""
    return 100 * part / whole if whole else 100.0


def lines_run(counted: Mapping[str, int]) -> float:
    """Of 100 lines that hold a statement, those that the tests run."""
    return share(counted["covered_lines"], counted["num_statements"])


def table(rooms: Mapping[str, Mapping[str, int]]) -> str:
    """The table that a person reads: room, number of lines, share of lines, share of branches."""
    rows = [f"{'room':22} {'lines':>6} {'run':>8} {'branches':>8}"]
    for room, counted in rooms.items():
        branches = share(counted["covered_branches"], counted["num_branches"])
        rows.append(
            f"{f'scripts/{room}' if room != 'all' else room:22} {counted['num_statements']:6} "
            f"{lines_run(counted):6.1f} % {branches:6.1f} %"
        )
    return "\n".join(rows)


def main() -> None:
    """Show the table and judge it."""
    rooms = by_room(json.loads(REPORT.read_text())["files"])
    print(table(rooms))
    if lines_run(rooms["all"]) < LEAST:
        sys.exit(
            f"error: the tests run {lines_run(rooms['all']):.1f} % of the lines of scripts/, "
            f"fewer than {LEAST} %\n hint: .work/coverage/html/index.html shows which they do not"
        )


if __name__ == "__main__":
    main()
