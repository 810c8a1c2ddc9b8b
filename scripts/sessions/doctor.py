"""List what this machine lacks for a session, for the doctor session."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from scripts import catalog
from scripts.doctor.doctor import CHECKS, raise_for, report, session_name
from scripts.doctor.machine import look_closely
from scripts.sessions.arguments import Parser
from scripts.system import errors
from scripts.system.errors import UsageError
from scripts.system.terminal import Terminal

DEFAULT = "quickstart"


def main(argv: Sequence[str]) -> None:
    """Print what this machine has, and what it lacks for the session that argv names.

    Raises MachineError if the session cannot run here, UsageError if there is no such session.
    """
    named = _parser().parse_args(argv).session
    if len(named) > 1:
        raise UsageError(f"one session at a time, not {' '.join(named)}")
    session = session_name(named[0] if named else DEFAULT)
    machine = look_closely(catalog.ROOT / catalog.WORK, os.environ)
    judgements = [check(machine) for check in CHECKS]
    # Where the output is no terminal, whole commands matter more than a narrow table.
    console = Terminal(width=None if sys.stdout.isatty() else 200, soft_wrap=False)
    console.print(report(judgements, session))
    raise_for(session, judgements)


def _parser() -> Parser:
    parser = Parser(
        "doctor",
        "Lists what this machine has, what it lacks for a session, and what to do.",
        usage="./nox -s doctor -- [SESSION]",
    )
    parser.add_argument(
        "session",
        metavar="SESSION",
        nargs="*",
        help=f"one of {', '.join(catalog.SESSIONS)} (default: {DEFAULT})",
    )
    return parser


if __name__ == "__main__":
    errors.main(main)
