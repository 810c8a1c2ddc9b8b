"""Many small files in a shared folder, written and read on either side of a mount.

The guest runs this module's source text, so it needs nothing but the standard library of Python
3.9, which Amazon Linux 2023 has.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path


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
        Path(folder, f"{written:06}").write_bytes(content(salt, written))
        written += 1
    return written, time.monotonic() - started


def digest(folder: str) -> tuple[int, str]:
    """Return how many files are in folder, and one SHA-256 of their names and contents."""
    paths = sorted(Path(folder).iterdir())
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return len(paths), total.hexdigest()
