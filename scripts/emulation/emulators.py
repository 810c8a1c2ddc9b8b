"""The emulators of foreign programs, QEMU's static user-mode programs, and how images carry them.

binfmt/targets.toml says for which architectures there are some, and where they come from. Those
that go into an image are programs of the image's architecture; `binfmt` registers one of this
machine's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import Arch
from scripts.distributions import debian as debian_archive
from scripts.distributions.debian import Archive
from scripts.mkosi import source as mkosis
from scripts.system.digests import file_digest, text_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.files import write_text
from scripts.system.process import CommandError, last_line, run
from scripts.system.progress import Progress

TABLE = Path("binfmt/targets.toml")
RECORD = "emulators.json"


@dataclass(frozen=True)
class Target:
    """An architecture whose programs are emulated.

    program is the name of its emulator, magic and mask tell its programs by their first bytes,
    native are the architectures whose kernels run them without one.
    """

    name: str
    program: str
    magic: bytes
    mask: bytes
    native: tuple[str, ...]

    def entry(self, name: str, interpreter: str, flags: str) -> str:
        """The line that has the kernel hand such programs to interpreter, under an entry's name.

        Linux' Documentation/admin-guide/binfmt-misc.rst has the format; the separator is any
        character that the line does not hold.
        """
        mark = next(character for character in ":|;,%" if character not in interpreter)
        magic, mask = (
            "".join(f"\\x{byte:02x}" for byte in text) for text in (self.magic, self.mask)
        )
        return mark + mark.join([name, "M", "", magic, mask, interpreter, flags])


@dataclass(frozen=True)
class Table:
    """The contents of binfmt/targets.toml; digest is that of the file."""

    flags: str
    package: str
    suites: tuple[str, ...]
    targets: Mapping[str, Target]
    digest: str

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table at path. Raises UsageError that says what is wrong with it."""
        try:
            text = path.read_text()
            data = tomllib.loads(text)
            targets = {
                name: Target(
                    name,
                    entry["program"],
                    bytes.fromhex(entry["magic"]),
                    bytes.fromhex(entry["mask"]),
                    tuple(entry["native"]),
                )
                for name, entry in data["targets"].items()
            }
            debian = data["debian"]
            return cls(
                data["flags"],
                debian["package"],
                tuple(debian["suites"]),
                targets,
                text_digest(text),
            )
        except (OSError, tomllib.TOMLDecodeError, KeyError, ValueError) as error:
            raise UsageError(f"{path} is no table of emulators: {error!r}") from error

    def foreign_to(self, arch: Arch) -> list[Target]:
        """The targets that an image of arch carries emulators for."""
        return [target for target in self.targets.values() if arch.name not in target.native]


@dataclass(frozen=True)
class Emulators:
    """The emulators that run on one architecture.

    folder holds them, package is the file they came from, digests are their sha256 as they were
    fetched, by name.
    """

    folder: Path
    table: Table
    package: str
    digests: Mapping[str, str]

    @property
    def digest(self) -> str:
        """The sha256 over all that an image has of them."""
        return text_digest(json.dumps([self.table.digest, self.digests], sort_keys=True))

    def program(self, target: Target) -> Path:
        """The emulator of target. Raises HarnessError where it is not the one that was fetched."""
        path = self.folder / target.program
        is_whole = path.is_file() and file_digest(path) == self.digests.get(target.program)
        if not is_whole:
            raise HarnessError(
                f"the emulator {path} is not what was fetched: its digest differs",
                hint=f"rm -r '{self.folder}', then build again",
            )
        return path


def obtain(
    root: Path,
    work: Path,
    arch: Arch,
    *,
    mirror: str | None = None,
    given: Path | None = None,
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> Emulators:
    """The emulators that run on arch, fetched into work where they are not there.

    root is the checkout. They come from mirror, else from this machine's archive, else from the one
    that mkosi knows: the pinned one, or what MKOSI_SOURCE has given instead. Raises HarnessError
    where they cannot be had.
    """
    table = Table.read(root / TABLE)
    folder = work / "emulators" / f"{arch.debian}-{table.digest[:16]}"
    record = folder / RECORD
    if not record.exists():
        if offline:
            raise HarnessError(
                f"the emulators for {arch} have not been fetched yet, and --offline forbids it now",
                hint="run once without --offline",
            )
        archive = (
            debian_archive.find(mirror)
            or mkosis.obtain(root / "mkosi", work, Progress(), given=given).archive()
        )
        say(f"fetching the emulators for {arch}")
        _fetch(table, arch, archive, folder)
    data = json.loads(record.read_text())
    return Emulators(folder, table, data["package"], data["digests"])


def write_tree(emulators: Emulators, arch: Arch, tree: Path) -> None:
    """Write to tree what the base image of arch has of its emulators.

    That is each as /usr/bin/qemu-<target>-static, and beside it the line for systemd-binfmt(8).
    Raises HarnessError where one of them is not what was fetched.
    """
    shutil.rmtree(tree, ignore_errors=True)
    programs = tree / "usr/bin"
    programs.mkdir(parents=True)
    for target in emulators.table.foreign_to(arch):
        name = f"qemu-{target.name}-static"
        shutil.copyfile(emulators.program(target), programs / name)
        (programs / name).chmod(0o755)
        line = target.entry(f"qemu-{target.name}", f"/usr/bin/{name}", emulators.table.flags)
        write_text(tree / f"usr/lib/binfmt.d/{name}.conf", f"{line}\n")


def _fetch(table: Table, arch: Arch, archive: Archive, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as name:
        scratch = Path(name)
        try:
            package = debian_archive.download(
                table.package,
                list(table.suites),
                scratch / "apt",
                arch=arch.debian,
                archive=archive,
            )
            run(["dpkg-deb", "--extract", package, scratch / "tree"])
        except CommandError as error:
            cause = error.output.strip() or str(error)
            raise HarnessError(
                f"{table.package} for {arch} cannot be fetched: {last_line(cause)}",
                hint="it comes from the Debian archive that this machine's apt is configured with, "
                "where it has none from mkosi's default; check the network",
            ) from error
        made = scratch / "made"
        made.mkdir()
        for target in table.targets.values():
            source = scratch / "tree/usr/bin" / target.program
            if not source.exists():
                raise HarnessError(f"{package.name} holds no /usr/bin/{target.program}")
            shutil.copy(source, made)
        digests = {path.name: file_digest(path) for path in made.iterdir()}
        write_text(made / RECORD, json.dumps({"package": package.name, "digests": digests}))
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
