"""Compare two builds, for the diff session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.description.comparison import FORMATS, difference
from scripts.sessions.arguments import Parser
from scripts.system import errors
from scripts.system.text import say


def main(argv: Sequence[str]) -> None:
    """Print what differs between the two builds that argv names."""
    parser = Parser(
        "diff",
        "Compares two builds. A and B are folders such as out/debian/x86_64, or manifest.json"
        " files, which show only packages and sizes.",
    )
    parser.add_argument("a", metavar="A", type=Path, help="the first build")
    parser.add_argument("b", metavar="B", type=Path, help="the second build")
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="format of the output (default: text)"
    )
    given = parser.parse_args(argv)
    say(FORMATS[given.format](difference(given.a, given.b)).removesuffix("\n"))


if __name__ == "__main__":
    errors.main(main)
