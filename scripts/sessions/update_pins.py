"""Renew what is pinned, for the update-pins session."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.catalog import ROOT
from scripts.pins.updates import known, update
from scripts.sessions.arguments import Parser
from scripts.system import errors
from scripts.system.terminal import Terminal


def main(argv: Sequence[str]) -> None:
    """Renew the pins that are named, by default all, or with --check only compare them.

    Raises UsageError if a pin is unknown, HarnessError if a source could not be asked, and with
    --check if a pin is out of date.
    """
    parser = Parser(
        "update-pins", "Looks up the newest version of everything that is pinned, and pins it."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only compare; the exit status is 1 if anything is newer",
    )
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help=f"a pin to look up: {', '.join(known(ROOT))} (default: all of them)",
    )
    given = parser.parse_args(argv)
    update(ROOT, given.names, check=given.check, console=Terminal())


if __name__ == "__main__":
    errors.main(main)
