"""Renew what is pinned, for the update-pins session."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console

from scripts.options import ROOT
from scripts.pins.updates import update
from scripts.system import errors
from scripts.system.errors import UsageError


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="`./nox -s update-pins -- --help` lists the options")


def main(argv: Sequence[str]) -> None:
    """Renew all pins, or with --check only compare them.

    Raises HarnessError where a source could not be asked, and with --check where one is newer.
    """
    parser = _Parser(
        prog="./nox -s update-pins --",
        description="Looks up the newest of what is pinned, and pins it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--check", action="store_true", help="only compare; the exit status is 1 where they differ"
    )
    given = parser.parse_args(argv)
    update(ROOT, check=given.check, console=Console(highlight=False, soft_wrap=True))


if __name__ == "__main__":
    errors.main(main)
