"""Artifacts: the finished files in out/, their checksums, and the names of their descriptions."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scripts.system.digests import file_digest
from scripts.system.files import write_text

CHECKSUMS = "SHA512SUMS"
SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.intoto.json"
REPORT = "report.html"
BOOT_TEST = "boot-test/result.json"
CONTRACT = "contract/result.json"

# The files that describe a build as a whole. Each image also has a bill of materials of its own.
DESCRIPTIONS = (SBOM, PROVENANCE, REPORT)


@dataclass(frozen=True)
class Artifact:
    """A finished file, or one file in a finished folder.

    name is its path below out/<distribution>/<arch>/, size is in bytes, sha512 in hex. mtime_ns is
    its modification time in nanoseconds, which shows that somebody has written to the file without
    reading it. Raises TypeError if the name is not a text.
    """

    name: str
    size: int
    mtime_ns: int
    sha512: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"{self.name!r} is not the name of an artifact")

    @classmethod
    def of(cls, folder: Path, name: str) -> Artifact:
        """Return the artifact called name in folder. Reads the whole file."""
        path = folder / name
        stat = path.stat()
        return cls(name, stat.st_size, stat.st_mtime_ns, file_digest(path, "sha512"))

    def stands_in(self, out: Path) -> bool:
        """Whether the file is in out, exactly as it was made."""
        try:
            stat = (out / self.name).stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)

    @property
    def output(self) -> str:
        """The file or folder in out/ that this is, or belongs to."""
        return output_of(self.name)


def output_of(name: str) -> str:
    """Return the file or folder in out/ that the artifact called name is, or belongs to."""
    return name.partition("/")[0]


def describe(folder: Path, outputs: Iterable[str]) -> list[Artifact]:
    """Return the artifacts in outputs, which are files, or folders with a file for each artifact.

    outputs are names in folder.
    """
    names: list[str] = []
    for output in outputs:
        path = folder / output
        if path.is_dir():
            names += [
                p.relative_to(folder).as_posix() for p in sorted(path.rglob("*")) if p.is_file()
            ]
        else:
            names.append(output)
    # hashlib releases the interpreter's lock, so each thread can use a core of its own.
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(Artifact.of, folder), names))


def write_checksums(out: Path, artifacts: Iterable[Artifact]) -> None:
    """Write SHA512SUMS for all artifacts, and a .sha512sum for each output.

    Both can be checked with `sha512sum -c`.
    """
    lines: dict[str, list[str]] = {}
    for artifact in artifacts:
        lines.setdefault(artifact.output, []).append(f"{artifact.sha512}  {artifact.name}\n")
    for output, own in lines.items():
        write_text(out / f"{output}.sha512sum", "".join(own))
    write_text(out / CHECKSUMS, "".join("".join(own) for own in lines.values()))
