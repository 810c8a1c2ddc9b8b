"""Notes the command lines and environments of all processes while something runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path


class Samples:
    """The command lines that were seen, and the environment of each."""

    def __init__(self) -> None:
        self.seen: dict[bytes, bytes] = {}

    def take(self) -> None:
        """Note what runs now."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes()
                if command not in self.seen:
                    self.seen[command] = (folder / "environ").read_bytes()

    def commands(self, mark: str) -> list[bytes]:
        """The command lines that hold mark."""
        return [command for command in self.seen if mark.encode() in command]

    def environments(self, mark: str, of: str) -> list[bytes]:
        """The command lines that hold the word of and whose environment holds mark."""
        return [
            command
            for command, environ in self.seen.items()
            if of.encode() in command and mark.encode() in environ
        ]


@contextlib.contextmanager
def sampling() -> Iterator[Samples]:
    """Take samples all the time until the with block ends."""
    samples, done = Samples(), threading.Event()

    def run() -> None:
        while not done.wait(0.002):
            samples.take()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
