"""Moves the outputs of a stage to out/, where every file is complete at any time."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scripts import catalog
from scripts.stages.artifacts import DESCRIPTIONS, SBOM


@contextmanager
def delivery(outputs: Sequence[str], source: Path, out: Path) -> Iterator[None]:
    """Move outputs from source to out, so that every file in out is complete at any time.

    Everything that needs disk space is done before the with block. After it, the descriptions of
    the previous outputs are removed, so that nobody takes them for those of the new ones, and the
    new outputs are renamed to their final names. Raises OSError; out is unchanged then.
    """
    out.mkdir(parents=True, exist_ok=True)
    new = {output: out / f".{output}.new" for output in outputs}
    old = {output: out / f".{output}.old" for output in outputs}
    try:
        for output, path in new.items():
            _remove(path)
            # A move to another file system is a copy, which must keep the holes of a disk image.
            shutil.move(source / output, path, copy_function=copy_sparse)
        yield
        for name in _descriptions(outputs):
            _remove(out / name)
        for output, path in new.items():
            target = out / output
            if target.is_dir():  # rename(2) does not replace a folder that has files in it
                _remove(old[output])
                target.rename(old[output])
            path.replace(target)
    finally:
        for path in (*new.values(), *old.values()):
            _remove(path)


def _descriptions(outputs: Sequence[str]) -> list[str]:
    """Return the names of the files that describe outputs."""
    if not outputs:
        return []
    images = [image for image in catalog.IMAGES if {*catalog.artifacts(image)} & {*outputs}]
    return [*DESCRIPTIONS, *(f"{image}.{SBOM}" for image in images)]


def copy_sparse(source: str, target: str) -> str:
    """Copy a file as `shutil.copy2` does, keeping its holes, and return target."""
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
    """Yield the ranges of a file that hold data, in bytes (lseek(2), SEEK_DATA)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # the rest of the file is a hole
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
