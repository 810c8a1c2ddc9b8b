"""What stands in out/: finished files, their digests, and the manifest that describes them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.mkosi.sandbox import Tools
from scripts.system.digests import file_digest
from scripts.system.files import write_text
from scripts.system.process import Arg, run

# By image: what of mkosi's output is an artifact, under its final name.
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "os-image": ("os-image.raw", "os-image.efi", "os-image.qcow2"),
    "container-with-kernel": ("container-with-kernel", "container-with-kernel.tar"),
    "wsl-rootfs": ("wsl-rootfs.tar.gz", "wsl-rootfs.wsl"),
}

CHECKSUMS = "SHA512SUMS"
MANIFEST = "manifest.json"
SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.intoto.json"
REPORT = "report.html"
BOOT_TEST = "boot-test/result.json"

# What describes a build as a whole; of each image there is a bill of materials besides.
DESCRIPTIONS = (SBOM, PROVENANCE, REPORT)


@dataclass(frozen=True)
class Artifact:
    """A finished file, or a file of a finished folder.

    name is its path below out/<distribution>/<arch>/, size in bytes, mtime_ns
    its modification time in nanoseconds (so that a file somebody has written
    to is noticed without reading it), sha512 in hex.
    """

    name: str
    size: int
    mtime_ns: int
    sha512: str

    @classmethod
    def of(cls, folder: Path, name: str) -> Artifact:
        """The artifact called name in folder; its file is read once."""
        path = folder / name
        stat = path.stat()
        return cls(name, stat.st_size, stat.st_mtime_ns, file_digest(path, "sha512"))

    def stands_in(self, out: Path) -> bool:
        """Whether the file is in out, as it was made."""
        try:
            stat = (out / self.name).stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)

    @property
    def output(self) -> str:
        """The output (a file or a folder) that this is, or belongs to."""
        return self.name.partition("/")[0]


def to_qcow2(raw: Path, tools: Tools) -> Path:
    """Convert raw to a compressed qcow2 beside it and check it with `qemu-img check`.

    zstd clusters are made six times as fast as zlib ones, and smaller. QEMU reads them since 5.1,
    and so does Lima's own reader, which converts the image on macOS.
    """
    qcow2 = raw.with_suffix(".qcow2")
    convert: list[Arg] = [
        "qemu-img", "convert",
        "-c", "-O", "qcow2", "-o", "compression_type=zstd",
        "-m", "4", "-W",
        raw, qcow2,
    ]  # fmt: skip
    run(tools.command(convert, write=[raw.parent]))
    run(tools.command(["qemu-img", "check", "--quiet", qcow2], read=[qcow2]))
    return qcow2


def describe(folder: Path, outputs: Iterable[str]) -> list[Artifact]:
    """The artifacts that outputs in folder come to: each a file, or a file of a folder."""
    names: list[str] = []
    for output in outputs:
        path = folder / output
        if path.is_dir():
            names += [
                p.relative_to(folder).as_posix() for p in sorted(path.rglob("*")) if p.is_file()
            ]
        else:
            names.append(output)
    # hashlib lets go of the interpreter's lock, so that each thread has a core.
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(Artifact.of, folder), names))


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


def write_checksums(out: Path, artifacts: Iterable[Artifact]) -> None:
    """Write SHA512SUMS over all artifacts and a .sha512sum beside each output (`sha512sum -c`)."""
    lines: dict[str, list[str]] = {}
    for artifact in artifacts:
        lines.setdefault(artifact.output, []).append(f"{artifact.sha512}  {artifact.name}\n")
    for output, own in lines.items():
        write_text(out / f"{output}.sha512sum", "".join(own))
    write_text(out / CHECKSUMS, "".join("".join(own) for own in lines.values()))


def write_manifest(out: Path, manifest: Mapping[str, Any], artifacts: Iterable[Artifact]) -> None:
    """Write manifest.json: what manifest says, and the artifacts."""
    listed = [
        {key: value for key, value in asdict(artifact).items() if key != "mtime_ns"}
        for artifact in artifacts
    ]
    text = json.dumps({**manifest, "artifacts": listed}, indent=2, ensure_ascii=False)
    write_text(out / MANIFEST, text + "\n")


# Options that name pins of somebody's own, as manifest.json calls them.
PACKAGES = "packages"
THIRD_PARTY = "third_party_pins"


@dataclass(frozen=True)
class Contents:
    """What manifest.json says of the base beside the distribution's own packages.

    rpms are the file names of the RPMs in it that are not the distribution's, held the names of the
    packages and programs that were added. left_out is what it was built without: what
    --allow-missing named and is not held, and PACKAGES for packages of our own. other_pins are
    those of PACKAGES and THIRD_PARTY that were given.
    """

    rpms: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    other_pins: frozenset[str] = frozenset()


def contents(out: Path) -> Contents:
    """What the manifest in the folder out says of the base.

    Nothing where there is no manifest, or one that this version cannot read.
    """
    try:
        manifest = json.loads((out / MANIFEST).read_text())
        added, options = manifest["additions"], manifest["options"]
        files = {
            f"{package['name']}-{package['version']}.{package['architecture']}.rpm"
            for package in manifest["images"]["base"]["packages"]
        }
        wanted = {rpm for rpm in added["rpms"] if rpm.rsplit("-", 2)[0] in added["packages"]}
        held = {*added["packages"], *(Path(path).name for path in added["files"])}
        without = {PACKAGES} if options.get("without_packages") else set()
        return Contents(
            rpms=frozenset(wanted | files.intersection(added["rpms"])),
            held=frozenset(held),
            left_out=frozenset(without | (set(options.get("allow_missing", ())) - held)),
            other_pins=frozenset({PACKAGES, THIRD_PARTY} & options.keys()),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Contents()
