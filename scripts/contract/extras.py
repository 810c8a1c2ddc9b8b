"""Disks with programs that are laid into a guest for a scenario, and are in no image.

The programs are Debian's (extras.toml). A guest mounts the disk by its label, which is its name,
and runs them where they are.
"""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
import threading
import tomllib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.arch import ARCHES, Arch
from scripts.distributions import debian
from scripts.formats import oci_archive
from scripts.mkosi.sandbox import Tools
from scripts.system import process
from scripts.system.digests import text_digest, tree_digest
from scripts.system.errors import HarnessError, MachineError
from scripts.system.extraction import extract_packages
from scripts.system.process import CommandError, last_line

LIST = Path(__file__).with_name("extras.toml")

# A folder for each disk with files of our own, which are added.
OWN = Path(__file__).with_name("extras.d")

# The size of a block of the file system, and of what it needs beside blocks of files, in bytes.
BLOCK = 4096
ROOM = 16 << 20

# The time of every change to the file system, in seconds since 1970. mke2fs leaves the times of
# files that are older.
EPOCH = 1

# Two scenarios, which run at the same time, may need the same disk.
_MAKING = threading.Lock()


@dataclass(frozen=True)
class Program:
    """A container image for every architecture, which holds one static program.

    package of suite has it at the path program. names are what it answers to.
    """

    suite: str
    package: str
    program: str
    names: Sequence[str]


@dataclass(frozen=True)
class Extra:
    """A disk: the packages for the guest's architecture by suite, and container images by name."""

    name: str
    packages: Mapping[str, Sequence[str]]
    images: Mapping[str, Program]

    @property
    def own(self) -> Path:
        """The folder with files of our own, which need not exist."""
        return OWN / self.name

    def identity(self, arch: Arch) -> str:
        """Return 16 digits that differ when the disk for arch would."""
        described = json.dumps([asdict(self), arch.name])
        own = tree_digest(self.own) if self.own.exists() else ""
        return text_digest(described + own)[:16]


def known() -> Mapping[str, Extra]:
    """Return all disks by name."""
    return {
        name: Extra(
            name,
            entry["packages"],
            {image: Program(**data) for image, data in entry.get("images", {}).items()},
        )
        for name, entry in tomllib.loads(LIST.read_text()).items()
    }


def build(name: str, arch: Arch, tools: Tools, kept: Path) -> Path:
    """Return the image of the disk called name, for guests of arch: an ext4 file system.

    It is made unless the folder kept has it. Raises HarnessError if there is no such disk or if it
    cannot be written, and MachineError if Debian's packages cannot be had.
    """
    extras = known()
    if name not in extras:
        raise HarnessError(f"no disk with programs is called {name!r}: {LIST} has {[*extras]}")
    extra = extras[name]
    disk = kept / "extras" / f"{name}-{arch}-{extra.identity(arch)}.ext4"
    with _MAKING:
        if not disk.exists():
            disk.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=disk.parent, prefix=".") as partial:
                _make(extra, arch, Path(partial), tools).replace(disk)
    return disk


def _make(extra: Extra, arch: Arch, partial: Path, tools: Tools) -> Path:
    """Make the disk in the folder partial, and return its path."""
    tree, disk = partial / "tree", partial / "disk"
    try:
        debs = [
            deb
            for suite, packages in extra.packages.items()
            for deb in debian.download_all(packages, [suite], partial / suite, arch=arch.debian)
        ]
        extract_packages(debs, tree)
        for name, image in extra.images.items():
            _write_image(tree / "images" / f"{name}.tar", name, image, partial)
    except CommandError as error:
        raise MachineError(
            f"the programs for {extra.name} cannot be downloaded from Debian: "
            f"{last_line(error.output) or error}",
            hint="check the network",
        ) from error
    if extra.own.exists():
        shutil.copytree(extra.own, tree, dirs_exist_ok=True)
        _open_up([tree, *(tree / one.relative_to(extra.own) for one in extra.own.rglob("*"))])
    try:
        write_disk(tree, disk, extra.name, extra.identity(arch), tools)
    except CommandError as error:
        raise HarnessError(
            f"the disk {extra.name} cannot be written: {last_line(error.output) or error}"
        ) from error
    return disk


def _open_up(paths: Iterable[Path]) -> None:
    """Let everybody read paths: the umask of a clone must not reach the guest's users."""
    for path in paths:
        is_open = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(0o755 if is_open else 0o644)


def _write_image(archive: Path, name: str, image: Program, partial: Path) -> None:
    """Write the container image called name for every architecture to archive."""
    layers = {}
    for arch in ARCHES:
        folder = partial / f"{name}-{arch}"
        debs = debian.download_all(
            [image.package], [image.suite], partial / f"{image.suite}-{arch}", arch=arch.debian
        )
        extract_packages(debs, folder)
        links = {f"bin/{link}": name for link in image.names if link != name}
        layers[arch] = oci_archive.layer({f"bin/{name}": folder / image.program}, links)
    archive.parent.mkdir(exist_ok=True)
    oci_archive.write(archive, f"localhost/{name}:latest", layers)


def write_disk(tree: Path, disk: Path, label: str, identity: str, tools: Tools) -> None:
    """Write an ext4 file system with the contents of tree to the file disk.

    All files are root's. The same tree, label and identity always give the same bytes. Raises
    CommandError if mke2fs fails.
    """
    paths = [path.lstat() for path in tree.rglob("*")]
    size = ROOM + sum(BLOCK * (2 + status.st_size // BLOCK) for status in paths)
    identifier = uuid.uuid5(uuid.NAMESPACE_OID, identity)
    make: list[process.Arg] = [
        "env", f"SOURCE_DATE_EPOCH={EPOCH}",
        "mkfs.ext4", "-q", "-F", "-b", str(BLOCK), "-m", "0",
        "-O", "^has_journal",  # a guest mounts it for reading only
        "-L", label,
        "-U", str(identifier),
        "-E", f"hash_seed={identifier},root_owner=0:0",
        "-d", tree,
        disk, f"{size >> 10}k",
    ]  # fmt: skip
    process.run(tools.command(make, read=[tree], write=[disk.parent]))
