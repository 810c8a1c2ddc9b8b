"""Say what this machine lacks, for the doctor session."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from rich.console import Console

from scripts.catalog import ROOT, WORK
from scripts.doctor.doctor import CHECKS, look, raise_for, report, session_name
from scripts.system import errors
from scripts.system.errors import UsageError


def main(argv: Sequence[str]) -> None:
    """Print what this machine has and lacks for the session that argv names, else quickstart.

    Raises MachineError where the session cannot run, UsageError where there is none of that name.
    """
    if {"-h", "--help"} & set(argv):
        print("usage: ./nox -s doctor -- [SESSION]\n\nWithout SESSION, quickstart is meant.")
        return
    if len(argv) > 1:
        raise UsageError(f"one session at a time, not {' '.join(argv)}")
    session = session_name(argv[0] if argv else "quickstart")
    machine = look(ROOT / WORK, os.environ, thoroughly=True)
    findings = [check(machine) for check in CHECKS]
    # Where nobody sees the width of the screen, a command on one line is worth more than a frame.
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(report(findings, session))
    raise_for(session, findings)


if __name__ == "__main__":
    errors.main(main)
