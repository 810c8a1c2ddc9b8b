"""Expected errors, and the one place that prints them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.system.process import Terminated, die_with_parent
from scripts.system.text import paragraph, say
from scripts.system.url import hidden


class HarnessError(Exception):
    """A build or check failed for a known reason.

    message says in one sentence what failed, hint what to do about it, and log is the file with the
    full output. The process ends with exit_code.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log


class UsageError(HarnessError):
    """The command line or a configuration file asks for something that makes no sense."""

    exit_code = 2


class MachineError(HarnessError):
    """The machine lacks something that the session needs; the doctor session lists it."""

    exit_code = 3


def describe(error: HarnessError) -> str:
    """Return the lines that a person sees: what failed, what to do, where the full log is.

    Further lines of the message are indented, so that no quoted line passes for a hint. URLs in it
    lose their passwords.
    """
    parts = {"error": error.message, " hint": error.hint, "  log": str(error.log or "")}
    return "\n".join(f"{name}: {_indented(text)}" for name, text in parts.items() if text)


def _indented(text: str) -> str:
    return paragraph(hidden(text.rstrip())).replace("\n", "\n       ")


def main(entry: Callable[[Sequence[str]], None]) -> None:
    """Run entry with the arguments of this process, and exit with the right status.

    A HarnessError is described on stderr and gives the exit status. A signal gives 128 + its
    number. Any other exception is a defect and keeps its traceback. The umask is set to 022,
    because the modes of files in an image must not depend on the user's.
    """
    os.umask(0o022)
    die_with_parent()
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    try:
        entry(sys.argv[1:])
    except HarnessError as error:
        sys.stdout.flush()
        say(describe(error), to=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted", to=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Terminated as error:
        say(f"ended by {error.signal.name}", to=sys.stderr)
        sys.exit(128 + error.signal)
    except BrokenPipeError:
        # The reader of our output has gone away (`| head`), so no one would read an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _terminate(number: int, _frame: object) -> None:
    raise Terminated(signal.Signals(number))
