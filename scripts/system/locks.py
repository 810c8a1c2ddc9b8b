"""Letting only one build run at a time in a checkout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from scripts.catalog import option
from scripts.system.errors import HarnessError, UsageError
from scripts.system.files import make_private, open_plain

# The most that a process's number can have (/proc/sys/kernel/pid_max is at most 2^22).
DIGITS = 7


@contextmanager
def only_build(work: Path) -> Iterator[None]:
    """Hold the lock of the builds in work. The kernel releases it however the process ends.

    Raises HarnessError that names the process that holds it, or UsageError if this user cannot
    write to work.
    """
    holder = work / "lock.pid"
    lock = FileLock(work / "lock")
    try:
        make_private(work)
        open_plain(work / "lock").close()  # FileLock would empty the file that a link leads to
        lock.acquire(blocking=False)
        with open_plain(holder) as file:
            file.truncate()
            file.write(str(os.getpid()).encode())
    except Timeout:
        raise HarnessError(
            f"another build is running in this checkout (process {_read(holder)})",
            hint="wait for it to end, or use another checkout",
        ) from None
    except OSError as error:
        raise UsageError(
            f"builds cannot be kept in {work}: {error}",
            hint=f"{option('work')} names another folder; earlier builds by root may be in the way",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> str:
    """Return the number of the process that path names, "unknown" if it names none."""
    try:
        with open_plain(path) as file:
            text = file.read(DIGITS).decode()
    except (OSError, UnicodeDecodeError):
        return "unknown"
    return text if text.isdecimal() else "unknown"
