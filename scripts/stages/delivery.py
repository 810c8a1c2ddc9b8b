"""Delivering a stage's outputs to out/, whole."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scripts.stages.artifacts import DESCRIPTIONS, OUTPUTS, SBOM


@contextmanager
def delivery(outputs: Sequence[str], source: Path, out: Path) -> Iterator[None]:
    """Move outputs from source to out: what stands in out is always whole.

    All that takes room on the disk of out is done before the with block, and the outputs get their
    final names after it, by rename. What described their predecessors is removed before that, so
    that nobody takes it for theirs. Raises OSError, and then nothing has changed in out.
    """
    out.mkdir(parents=True, exist_ok=True)
    new = {output: out / f".{output}.new" for output in outputs}
    old = {output: out / f".{output}.old" for output in outputs}
    try:
        for output, path in new.items():
            _remove(path)
            # Copied where out is on another file system, but not the holes of a disk image.
            shutil.move(source / output, path, copy_function=copy_sparse)
        yield
        for name in _descriptions(outputs):
            _remove(out / name)
        for output, path in new.items():
            target = out / output
            if target.is_dir():  # whose place rename(2) gives to no other folder
                _remove(old[output])
                target.rename(old[output])
            path.replace(target)
    finally:
        for path in (*new.values(), *old.values()):
            _remove(path)


def _descriptions(outputs: Sequence[str]) -> list[str]:
    """The names of the files that describe outputs."""
    if not outputs:
        return []
    images = [image for image, own in OUTPUTS.items() if set(own) & set(outputs)]
    return [*DESCRIPTIONS, *(f"{image}.{SBOM}" for image in images)]


def copy_sparse(source: str, target: str) -> str:
    """Copy a file as `shutil.copy2` does, but leave holes where it has holes; returns target."""
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        size = os.fstat(old.fileno()).st_size
        for start, end in _data(old.fileno(), size):
            new.seek(start)
            while start < end and (
                sent := os.sendfile(new.fileno(), old.fileno(), start, end - start)
            ):
                start += sent  # noqa: PLW2901 - a write may be short
        new.truncate(size)
    shutil.copystat(source, target)
    return target


def _data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The ranges of a file that are no holes, in bytes (lseek(2), SEEK_DATA)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
