"""Programs from Debian's packages, which run without being installed.

In the tools tree, a program would make every build larger for the sake of one session, and the one
that a machine has installed may not be what was tested here.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.distributions import debian
from scripts.system.digests import text_digest
from scripts.system.errors import MachineError
from scripts.system.extraction import extract_packages
from scripts.system.process import Arg, CommandError, last_line
from scripts.system.progress import Progress

SUITE = "trixie"


@dataclass(frozen=True)
class Source:
    """A program in Debian: its path, and the names of its package and the packages it needs."""

    path: str
    packages: Sequence[str]


def read(table: Path) -> Mapping[str, Source]:
    """Return the programs in a TOML file, by name: a table of each, with `path` and `packages`."""
    data = tomllib.loads(table.read_text())
    return {name: Source(entry["path"], entry["packages"]) for name, entry in data.items()}


def obtain(name: str, source: Source, work: Path, progress: Progress) -> list[Arg]:
    """Return the command that starts the program called name, without arguments.

    On Debian, the program is downloaded to a folder in work, authenticated by apt, and started
    through its own dynamic linker. Elsewhere it must be on PATH. Raises MachineError if there is
    none.
    """
    if not debian.find():
        found = shutil.which(name)
        if not found:
            raise MachineError(f"{name} is not installed", hint=f"install {name}, or use Debian")
        return [found]
    identity = text_digest(" ".join([SUITE, source.path, *source.packages]))[:16]
    root = work / "programs" / f"{name}-{identity}"
    if not root.exists():
        with progress.task(name) as task:
            task.step("downloading it from Debian")
            _unpack(name, source, root)
    [loader] = root.glob("usr/lib/*-linux-gnu/ld-linux-*.so.?")
    return [loader, "--library-path", loader.parent, root / source.path]


def _unpack(name: str, source: Source, root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as scratch:
        partial = Path(scratch, "root")
        try:
            debs = debian.download_all(source.packages, [SUITE], Path(scratch, "apt"))
            extract_packages(debs, partial)
        except CommandError as error:
            raise MachineError(
                f"{name} cannot be downloaded from Debian: {last_line(error.output) or error}",
                hint="check the network",
            ) from error
        _put(partial, root)


def _put(partial: Path, root: Path) -> None:
    """Rename partial to root, unless someone else has put the same there in the meantime."""
    try:
        partial.replace(root)
    except OSError:
        if not root.is_dir():
            raise
