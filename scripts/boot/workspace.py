"""The folder of a boot test's results: one test writes to it at a time, and all at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from scripts.boot.results import Result, to_json, to_junit
from scripts.system.errors import HarnessError


@contextlib.contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """Create a folder for overlays, seeds and unfinished results inside out, and remove it later.

    Its name is always the same, so that the next test removes what a killed test left. The lock is
    the kernel's, on out itself, and leaves no file behind either. Raises HarnessError if another
    test holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    work = (out / ".work").absolute()
    with _locked(out):
        shutil.rmtree(work, ignore_errors=True)
        results(work).mkdir(parents=True)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def results(work: Path) -> Path:
    """The folder of unfinished results in a workspace."""
    return work / "results"


def deliver(result: Result, work: Path, out: Path) -> None:
    """Write the reports and move all results from the workspace to out, replacing older results."""
    finished = results(work)
    (finished / "junit.xml").write_text(to_junit(result))
    (finished / "result.json").write_text(to_json(result))
    names = {path.name for path in finished.iterdir()}
    for old in out.iterdir():
        if old.is_file() and old.name not in names:
            old.unlink()
    for name in names:
        (finished / name).replace(out / name)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    lock = os.open(out, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HarnessError(
                f"another boot test writes to {out}", hint="wait until it has ended"
            ) from None
        yield
    finally:
        os.close(lock)
