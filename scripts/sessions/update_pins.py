"""Renew what is pinned, for the update-pins session."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.catalog import ROOT
from scripts.pins.updates import update
from scripts.sessions.arguments import Parser
from scripts.system import errors
from scripts.system.terminal import Terminal


def main(argv: Sequence[str]) -> None:
    """Renew all pins, or with --check only compare them.

    Raises HarnessError if a source could not be asked, and with --check if a pin is out of date.
    """
    parser = Parser(
        "update-pins", "Looks up the newest version of everything that is pinned, and pins it."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only compare; the exit status is 1 if anything is newer",
    )
    given = parser.parse_args(argv)
    update(ROOT, check=given.check, console=Terminal())


if __name__ == "__main__":
    errors.main(main)
