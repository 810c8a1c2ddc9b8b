"""Detects an index of packages that is older than one that an earlier build used.

An attacker who controls a mirror can hold back security fixes by serving an old index, whose
signature is still good. The newest index of each suite that a finished build has used is
remembered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from scripts import catalog
from scripts.system.errors import HarnessError
from scripts.system.files import write_text


def check(memory: Path, dates: Mapping[str, datetime], *, allow_older: bool) -> None:
    """Raise HarnessError if an index is older than the newest of its suite in the file memory.

    dates maps each suite to the time when its index was made. Every date is accepted if allow_older
    is true, or if no build has used the suite before.
    """
    seen = _read(memory)
    for suite, date in dates.items():
        if suite in seen and date < seen[suite] and not allow_older:
            raise HarnessError(
                f"the package index of {suite} was made on {_day(date)}, but an earlier build used "
                f"one of {_day(seen[suite])}",
                hint="the mirror lags behind, or someone replays an old index: try later or with "
                f"{catalog.option('mirror')}; {catalog.flag('allow-older-index')} uses it anyway",
            )


def remember(memory: Path, dates: Mapping[str, datetime]) -> None:
    """Write dates to the file memory, unless it has newer ones."""
    seen = _read(memory)
    newest = seen | {
        suite: date for suite, date in dates.items() if suite not in seen or seen[suite] < date
    }
    text = json.dumps({suite: date.isoformat() for suite, date in sorted(newest.items())}, indent=1)
    write_text(memory, text + "\n")


def _read(memory: Path) -> dict[str, datetime]:
    """Return the dates in memory, with their time zones; none if there is no such file."""
    try:
        data = json.loads(memory.read_text())
        # A date without a time zone is taken for local time.
        return {suite: datetime.fromisoformat(text).astimezone(UTC) for suite, text in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise HarnessError(
            f"{memory}, the dates of the newest package indexes, cannot be read: {error!r}",
            hint=f"remove {memory} to begin anew",
        ) from error


def _day(date: datetime) -> str:
    return f"{date:%Y-%m-%d %H:%M} UTC"
