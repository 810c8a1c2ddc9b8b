"""Many small files in a shared folder, written and read on either side of a mount.

The guest runs this module's source text, so it needs nothing but the standard library of Python
3.9, which Amazon Linux 2023 has.
"""

from __future__ import annotations

import hashlib
import os
import time


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
        with open(os.path.join(folder, f"{written:06}"), "wb") as file:
            file.write(content(salt, written))
        written += 1
    return written, time.monotonic() - started


def digest(folder: str) -> tuple[int, str]:
    """Return how many files are in folder, and one SHA-256 of their names and contents."""
    names = sorted(os.listdir(folder))
    total = hashlib.sha256()
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            total.update(f"{name} {hashlib.sha256(file.read()).hexdigest()}\n".encode())
    return len(names), total.hexdigest()
