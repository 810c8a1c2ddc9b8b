"""Many small files in a shared folder, written and read on either side of a mount.

The guest runs this module's source text, so it needs nothing but the standard library of Python
3.9, which Amazon Linux 2023 has.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path


def name(number: int) -> str:
    """Return what a file is called; names sort as numbers do."""
    return f"{number:06}"


def content(salt: str, number: int) -> bytes:
    """Return what a file holds: up to 8 kB, different for each salt and number."""
    return hashlib.sha256(f"{salt} {number}".encode()).digest() * (number % 256)


def write(folder: str, salt: str, rate: float, seconds: float) -> tuple[int, float]:
    """Write rate files a second to folder, or as many as it takes, for at most seconds.

    Returns how many files there are, and the seconds that it took to write them.
    """
    started = time.monotonic()
    wanted = int(rate * seconds)
    written = 0
    while written < wanted and time.monotonic() - started < seconds:
        time.sleep(max(0.0, started + written / rate - time.monotonic()))
        Path(folder, name(written)).write_bytes(content(salt, written))
        written += 1
    return written, time.monotonic() - started


def digest(folder: str) -> tuple[int, str]:
    """Return how many files are in folder, and one SHA-256 of their names and contents."""
    return _digest((path.name, path.read_bytes()) for path in sorted(Path(folder).iterdir()))


def expected(salt: str, count: int) -> tuple[int, str]:
    """Return what `digest` finds where `write` has written count files."""
    return _digest((name(number), content(salt, number)) for number in range(count))


def _digest(found: Iterable[tuple[str, bytes]]) -> tuple[int, str]:
    count, total = 0, hashlib.sha256()
    for count, (file, data) in enumerate(found, 1):  # noqa: B007
        total.update(f"{file} {hashlib.sha256(data).hexdigest()}\n".encode())
    return count, total.hexdigest()
