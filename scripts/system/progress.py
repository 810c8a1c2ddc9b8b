"""Showing progress: one live line in a terminal, plain lines everywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from rich.live import Live
from rich.text import Text

from scripts.system.terminal import Terminal
from scripts.system.text import printable


class Task:
    """One thing that is being worked on, with a current step."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self.name = name
        self.current = ""
        self.started = time.monotonic()

    def step(self, text: str) -> None:
        """Show text as the current step, unless it is shown already."""
        if text != self.current:
            self.current = text
            self._progress.stepped(self)


class Progress:
    """Shows the running tasks; safe to use from several threads."""

    def __init__(self, *, live: bool | None = None) -> None:
        """Show one line that changes in place if live: by default in a terminal, but not in CI."""
        if live is None:
            live = sys.stderr.isatty() and not os.environ.get("CI")
        self.console = Terminal(stderr=True, soft_wrap=not live)
        self._started = time.monotonic()
        self._lock = threading.RLock()
        self._tasks: list[Task] = []
        self._live = (
            Live(
                get_renderable=self._line,
                console=self.console,
                transient=True,
                refresh_per_second=4,
            )
            if live
            else None
        )

    @contextlib.contextmanager
    def task(self, name: str) -> Iterator[Task]:
        """Show a task called name until the with block ends, and how long it took."""
        task = Task(self, name)
        with self._lock:
            self._tasks.append(task)
            if self._live and len(self._tasks) == 1:
                self._live.start()
        try:
            yield task
        except BaseException:
            self.say(f"{name}: failed after {_seconds(task)} s")
            raise
        else:
            self.say(f"{name}: done in {_seconds(task)} s")
        finally:
            with self._lock:
                self._tasks.remove(task)
                if self._live and not self._tasks:
                    self._live.stop()

    def say(self, text: str) -> None:
        """Print text as one line that stays."""
        elapsed = time.monotonic() - self._started
        self.console.print(f"[{elapsed:5.0f} s] {printable(text)}")

    def stepped(self, task: Task) -> None:
        """Print the new step of task, unless a live line shows it anyway."""
        if not self._live:
            self.say(f"{task.name}: {task.current}")

    def _line(self) -> Text:
        with self._lock:
            parts = [f"{task.name}: {task.current} {_seconds(task)} s" for task in self._tasks]
        line = Text(printable(" · ".join(parts)), no_wrap=True, overflow="ellipsis")
        line.truncate(max(self.console.width - 1, 20), overflow="ellipsis")
        return line


def _seconds(task: Task) -> int:
    return round(time.monotonic() - task.started)
