"""Updates pins, or lists those that are out of date."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from rich.table import Table

from scripts import catalog
from scripts.packages import thirdparty
from scripts.pins import edits
from scripts.pins.lookups import ADDRESSES, LOOK, Lookups
from scripts.system.errors import HarnessError, UsageError
from scripts.system.fetch import Settings
from scripts.system.terminal import Terminal


def known(root: Path) -> list[str]:
    """Return the names of all pins of the checkout root."""
    return [name for name, _ in Lookups(root).each()]


def update(
    root: Path,
    names: Collection[str] = (),
    *,
    check: bool,
    console: Terminal,
    settings: Settings = LOOK,
) -> None:
    """Renew the pins called names of the checkout root, by default all, and print a table.

    With check only compare them. A lookup that fails does not stop the others. Raises UsageError
    if a name is unknown, HarnessError if a lookup failed, or with check if a pin is out of date.
    """
    lookups = dict(Lookups(root, settings).each())
    if unknown := [name for name in names if name not in lookups]:
        raise UsageError(
            f"there is no pin called {unknown[0]!r}", hint=f"pins are {', '.join(lookups)}"
        )
    table = Table("pin", "pinned", "newest", "note")
    failed: dict[str, str] = {}
    outdated = []
    for name, lookup in lookups.items():
        if names and name not in names:
            continue
        try:
            found = lookup()
        except HarnessError as error:
            failed[name] = error.message
            table.add_row(name, "", "unknown", "lookup failed")
            continue
        if found.edits:
            outdated.append(name)
        table.add_row(name, found.pinned, found.newest, found.note)
        if not check:
            edits.apply(found.edits)
    console.print(table)
    _require_answers(failed, table.row_count, console)
    if check and outdated:
        raise HarnessError(
            f"{len(outdated)} of {table.row_count} pins are out of date: {', '.join(outdated)}",
            hint=f"{catalog.command('update-pins')} renews them",
        )


def _require_answers(failed: Mapping[str, str], count: int, console: Terminal) -> None:
    """Print why lookups failed. Raises HarnessError if any of count did."""
    for name, reason in failed.items():
        console.print(f"{name}: {reason}")
    if failed:
        raise HarnessError(
            f"{len(failed)} of {count} pins could not be looked up: {', '.join(failed)}",
            hint=f"check the network, and the addresses in {ADDRESSES} and {thirdparty.PINS}; "
            "the other lookups are done",
        )
