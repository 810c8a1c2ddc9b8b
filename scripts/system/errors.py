"""The one family of expected errors, and the one place that prints them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.system.process import Terminated, die_with_parent


class HarnessError(Exception):
    """A build or check failed for a reason that is understood.

    message says what failed in one sentence, hint what to do about it, and
    log where the full output is. The process ends with exit_code.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log


class UsageError(HarnessError):
    """What was asked for, on the command line or in a configuration file, makes no sense."""

    exit_code = 2


class MachineError(HarnessError):
    """The machine lacks something; `nox -s doctor` says what."""

    exit_code = 3


def describe(error: HarnessError) -> str:
    """The lines a person sees: what failed, what to do, where the full log is."""
    lines = [f"error: {error.message}"]
    if error.hint:
        lines.append(f" hint: {error.hint}")
    if error.log:
        lines.append(f"  log: {error.log}")
    return "\n".join(lines)


def main(entry: Callable[[Sequence[str]], None]) -> None:
    """Run entry on the command line's arguments and end the process with the right exit code.

    A HarnessError becomes its description on stderr and its exit code, Ctrl-C
    and SIGTERM become 128 + the signal's number; anything else is a defect and
    keeps its traceback. What is made on the way, images above all, has the usual
    modes, whatever the user's umask is.
    """
    os.umask(0o022)
    die_with_parent()
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    try:
        entry(sys.argv[1:])
    except HarnessError as error:
        sys.stdout.flush()
        print(describe(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Terminated as error:
        print(f"ended by {error.signal.name}", file=sys.stderr)
        sys.exit(128 + error.signal)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _terminate(number: int, _frame: object) -> None:
    raise Terminated(signal.Signals(number))
