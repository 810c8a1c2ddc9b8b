"""The programs that publishing takes from Debian: skopeo, cosign and qemu-img."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scripts.distributions import programs
from scripts.distributions.programs import Source
from scripts.system.process import Arg
from scripts.system.progress import Progress


def known() -> Mapping[str, Source]:
    """Return the programs that publishing needs, by name."""
    return programs.read(Path(__file__).with_name("programs.toml"))


def obtain(name: str, work: Path, progress: Progress) -> list[Arg]:
    """Return the command that starts one of the known programs, as `programs.obtain` does."""
    return programs.obtain(name, known()[name], work, progress)


def prepare(work: Path, progress: Progress) -> None:
    """Obtain all programs, so that publishing downloads none. Raises as `obtain` does."""
    for name in known():
        obtain(name, work, progress)
