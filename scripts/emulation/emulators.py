"""The emulators for foreign programs: downloading them, and putting them into images.

They are QEMU's static user-mode programs. binfmt/targets.toml lists the architectures that can be
emulated and says where the emulators come from. The emulators in an image are programs of the
image's own architecture; `binfmt` registers emulators of this machine's, which are always Debian's.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packageurl import PackageURL

from scripts import catalog
from scripts.arch import Arch
from scripts.distributions import debian as debian_archive
from scripts.distributions.debian import Archive
from scripts.emulation import elf
from scripts.mkosi import source as mkosis
from scripts.options import BAKE, DEBIAN
from scripts.system import strict
from scripts.system.digests import file_digest, text_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.extraction import extract
from scripts.system.files import write_text
from scripts.system.process import CommandError, last_line
from scripts.system.progress import Progress
from scripts.system.url import Url

# In the checkout.
TABLE = Path("binfmt/targets.toml")

# What names the source and the digests, beside the emulators of one architecture.
RECORD = "emulators.json"

# An emulator with all debugging symbols has some 100 MiB.
LARGEST = 512 << 20  # bytes

# A branch or a tag in its place would pin nothing.
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Emulated:
    """An architecture whose programs can be emulated.

    program is the name of the emulator. A program of the architecture is recognized by its first
    bytes, which equal magic in the bits of mask. native are the architectures whose kernels run
    such programs without an emulator.
    """

    name: str
    program: str
    magic: bytes
    mask: bytes
    native: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path of the emulator in images."""
        return f"/usr/bin/qemu-{self.name}-static"

    @property
    def registration_path(self) -> str:
        """The path of the file in images that registers the emulator for systemd-binfmt(8)."""
        return f"/usr/lib/binfmt.d/qemu-{self.name}-static.conf"

    def registration(self, name: str, interpreter: str, flags: str) -> str:
        """Return the line that has the kernel hand such programs to interpreter.

        name is what the entry is called. Linux' Documentation/admin-guide/binfmt-misc.rst has the
        format, in which any character that occurs nowhere else separates the fields.
        """
        separator = next(character for character in ":|;,%" if character not in interpreter)
        magic, mask = (
            "".join(f"\\x{byte:02x}" for byte in data) for data in (self.magic, self.mask)
        )
        return separator + separator.join([name, "M", "", magic, mask, interpreter, flags])


@dataclass(frozen=True)
class DebianPackage:
    """The package of the Debian archive with the emulators, in the first of suites that has it.

    It is built from the package source, under licences, an SPDX expression.
    """

    package: str
    suites: tuple[str, ...]
    source: str
    licences: str


@dataclass(frozen=True)
class Bake:
    """What `docker buildx bake` makes the emulators of: a target at a commit of a Git repository.

    licences is an SPDX expression.
    """

    address: str
    commit: str
    target: str
    licences: str

    def __post_init__(self) -> None:
        """Raise ValueError unless the commit is named by its full digest."""
        if not COMMIT.fullmatch(self.commit):
            raise ValueError(f"{self.commit!r} is not the digest of a commit")

    @property
    def reference(self) -> str:
        """The repository at the commit, as BuildKit takes it."""
        return f"{self.address}#{self.commit}"

    @property
    def package_url(self) -> str:
        """The package URL of the repository at the commit."""
        path = self.address.removesuffix(".git").split("/")
        if path[:3] == ["https:", "", "github.com"]:
            return PackageURL("github", "/".join(path[3:-1]), path[-1], self.commit).to_string()
        url = {"vcs_url": f"git+{self.address}@{self.commit}"}
        return PackageURL("generic", None, path[-1], self.commit, url).to_string()


@dataclass(frozen=True)
class EmulationTable:
    """The contents of binfmt/targets.toml.

    The emulators come from debian or bake and are registered with flags. emulated are the
    architectures by name.
    """

    flags: str
    debian: DebianPackage
    bake: Bake
    emulated: Mapping[str, Emulated]

    @classmethod
    def read(cls, path: Path) -> EmulationTable:
        """Return the table in the file at path. Raises UsageError if it is not one."""
        try:
            data = strict.toml(path.read_text())
            debian = data["debian"]
            return cls(
                data["flags"],
                DebianPackage(**{**debian, "suites": tuple(debian["suites"])}),
                Bake(**data["bake"]),
                {name: _emulated(name, entry) for name, entry in data["targets"].items()},
            )
        except (OSError, *strict.ODDITIES) as error:
            raise UsageError(f"{path} is not a table of emulators: {error!r}") from error

    def foreign_to(self, arch: Arch) -> list[Emulated]:
        """Return the architectures that an image of arch carries emulators for."""
        return [one for one in self.emulated.values() if arch.name not in one.native]

    @property
    def digest(self) -> str:
        """A sha256 of what images get from the table itself: how emulators are registered."""
        lines = [one.registration(one.name, one.path, self.flags) for one in self.emulated.values()]
        native = [one.native for one in self.emulated.values()]
        return text_digest(json.dumps([lines, native]))

    def key(self, source: str) -> str:
        """Return a sha256 of what decides which emulators source, one of EMULATORS, gives."""
        pin = asdict(self.bake if source == BAKE else self.debian)
        programs = [(one.program, one.native) for one in self.emulated.values()]
        return text_digest(json.dumps([pin, programs], sort_keys=True))


def _emulated(name: str, entry: Mapping[str, Any]) -> Emulated:
    magic, mask = (bytes.fromhex(entry[key]) for key in ("magic", "mask"))
    return Emulated(name, entry["program"], magic, mask, tuple(entry["native"]))


@dataclass(frozen=True)
class Emulators:
    """The downloaded, or built, emulators that run on one architecture.

    folder contains them. source is one of EMULATORS, and package is what they came from: the file
    name of Debian's package, or what was baked. digests maps the name of each to its sha256, as it
    was then.
    """

    folder: Path
    table: EmulationTable
    package: str
    digests: Mapping[str, str]
    source: str = DEBIAN

    @property
    def digest(self) -> str:
        """The sha256 of everything that an image gets from them."""
        return text_digest(json.dumps([self.table.digest, self.digests], sort_keys=True))

    def program(self, emulated: Emulated) -> Path:
        """Return the path of the emulator for emulated. Raises HarnessError if it has changed."""
        path = self.folder / emulated.program
        is_whole = path.is_file() and file_digest(path) == self.digests.get(emulated.program)
        if not is_whole:
            raise HarnessError(
                f"the emulator {path} is not the one that was downloaded: its digest differs",
                hint=f"rm -r '{self.folder}', then build again",
            )
        return path


def download(
    root: Path,
    work: Path,
    arch: Arch,
    progress: Progress,
    *,
    mirror: Url | None = None,
    given: Path | None = None,
    offline: bool = False,
) -> Emulators:
    """Return the emulators that run on arch, downloaded into work unless they are there already.

    root is the checkout. The Debian archive they come from is mirror, or this machine's own, or
    else the one that mkosi knows: the pinned mkosi, or given, a copy of it. Raises HarnessError if
    they cannot be downloaded.
    """
    if found := find(root, work, arch, DEBIAN):
        return found
    table = EmulationTable.read(root / TABLE)
    folder = folder_of(work, table, arch, DEBIAN)
    if offline:
        raise forbidden(f"the emulators for {arch} have not been downloaded yet")
    archive = (
        debian_archive.find(mirror)
        or mkosis.obtain(root / "mkosi", work, progress, given=given).archive()
    )
    progress.say(f"downloading the emulators for {arch}")
    _download(table, arch, archive, folder)
    return _read(table, folder, DEBIAN)


def forbidden(lack: str) -> HarnessError:
    """Return the error for emulators that are missing, as lack says, where --offline is given."""
    return HarnessError(
        f"{lack}, and {catalog.flag('offline')} forbids it now",
        hint=f"run once without {catalog.flag('offline')}",
    )


def find(root: Path, work: Path, arch: Arch, source: str) -> Emulators | None:
    """Return the emulators of source that run on arch if they have been left in work, or None."""
    table = EmulationTable.read(root / TABLE)
    folder = folder_of(work, table, arch, source)
    return _read(table, folder, source) if (folder / RECORD).exists() else None


def folder_of(work: Path, table: EmulationTable, arch: Arch, source: str) -> Path:
    """Return the folder, below work, of the emulators of source that run on arch."""
    return work / "emulators" / f"{source}-{arch.debian}-{table.key(source)[:16]}"


def _read(table: EmulationTable, folder: Path, source: str) -> Emulators:
    record = folder / RECORD
    try:
        data = strict.loads(record.read_text())
        return Emulators(folder, table, str(data["package"]), dict(data["digests"]), source)
    except strict.ODDITIES as error:
        raise HarnessError(
            f"{record} is damaged: {error!r}", hint=f"rm -r '{folder}', then build again"
        ) from error


def write_tree(emulators: Emulators, arch: Arch, tree: Path) -> None:
    """Write the emulators that the base image of arch gets to the folder tree.

    Each comes with a file that registers it. Raises HarnessError if an emulator is not the one that
    was downloaded.
    """
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "usr/bin").mkdir(parents=True)
    for one in emulators.table.foreign_to(arch):
        program = tree / one.path.lstrip("/")
        shutil.copyfile(emulators.program(one), program)
        program.chmod(0o755)
        line = one.registration(f"qemu-{one.name}", one.path, emulators.table.flags)
        write_text(tree / one.registration_path.lstrip("/"), f"{line}\n")


def _download(table: EmulationTable, arch: Arch, archive: Archive, folder: Path) -> None:
    """Make folder contain the emulators for arch, from archive, and their record."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as name:
        scratch = Path(name)
        package = _unpack(table, arch, archive, scratch)
        keep(table.emulated.values(), arch, scratch / "tree", package, folder)


def keep(wanted: Iterable[Emulated], arch: Arch, tree: Path, package: str, folder: Path) -> None:
    """Make folder contain the emulators for wanted that are in tree, and their record.

    tree is what package contains; both are below the same folder. Raises HarnessError, and leaves
    folder as it was, if one of them is missing or is not a static program for arch.
    """
    made = tree.with_name("made")
    made.mkdir()
    for one in wanted:
        path = tree / "usr/bin" / one.program
        # A link, also in the place of a folder, could lead to a file of this machine.
        if path.resolve() != tree.resolve() / "usr/bin" / one.program or not path.is_file():
            raise HarnessError(f"{package} does not contain /usr/bin/{path.name}")
        if fault := _fault(path, arch):
            raise HarnessError(
                f"/usr/bin/{path.name} of {package} cannot be an emulator for {arch}: {fault}"
            )
        shutil.copy(path, made)
    digests = {path.name: file_digest(path) for path in made.iterdir()}
    write_text(made / RECORD, json.dumps({"package": package, "digests": digests}))
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


def _fault(path: Path, arch: Arch) -> str:
    """Return why the file at path cannot be an emulator for arch, or "" if it can."""
    if path.stat().st_size > LARGEST:
        return f"it is larger than {LARGEST >> 20} MiB"
    return elf.fault(path, arch)


def _unpack(table: EmulationTable, arch: Arch, archive: Archive, scratch: Path) -> str:
    """Download the package of table for arch, extract it to scratch/tree and return its name."""
    try:
        package = debian_archive.download(
            table.debian.package,
            list(table.debian.suites),
            scratch / "apt",
            arch=arch.debian,
            archive=archive,
        )
        extract(package, scratch / "tree")
    except CommandError as error:
        cause = last_line(error.output) or str(error)
        raise HarnessError(
            f"{table.debian.package} for {arch} cannot be downloaded: {cause}",
            hint="check the network; the package comes from the Debian archive that this machine's "
            "apt is configured with, or else from mkosi's default",
        ) from error
    return package.name
