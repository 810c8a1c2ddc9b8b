"""mkosi: obtain the pinned one, apply our patches, install it into the session's venv, call it."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import sys
import sysconfig
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from scripts.distributions import debian
from scripts.distributions.debian import Archive
from scripts.mkosi.patches import apply_series
from scripts.mkosi.pin import Pin, version_of
from scripts.system.digests import file_digest, text_digest, tree_digest
from scripts.system.errors import HarnessError, MachineError, UsageError
from scripts.system.fetch import BRIEF, DigestError, fetch
from scripts.system.process import Arg, CommandError, last_line, run

RECORD = "mkosi.json"

# What `Mkosi.source` says of the pinned tarball.
UPSTREAM = "upstream's tarball"

# Prints the URL of the Debian archive that images get which are made without any --mirror.
ARCHIVE = """
from types import SimpleNamespace
from mkosi.distribution.debian import Installer
config = SimpleNamespace(release="", repositories=(), local_mirror=None)
print(next(iter(Installer.repositories(SimpleNamespace(config=config), for_image=True))).url)
"""


@dataclass(frozen=True)
class Mkosi:
    """A patched mkosi.

    folder holds the Python package mkosi/. source says in words where it came
    from, digest is that of the patched package (so equal mkosis are equal
    wherever they came from), patches maps each patch's name to its sha256.
    """

    folder: Path
    version: str
    source: str
    digest: str
    patches: dict[str, str] = field(default_factory=dict)

    @property
    def sandbox(self) -> Path:
        """The stand-alone program that mkosi isolates commands with."""
        return self.folder / "mkosi/sandbox.py"

    def command(self, *args: Arg) -> list[Arg]:
        """The command that runs this mkosi, once installed, with args."""
        return [sys.executable, "-m", "mkosi", *args]

    def archive(self) -> Archive:
        """The Debian archive that it takes packages from where it is told of none."""
        url = run([sys.executable, "-c", ARCHIVE], env={"PYTHONPATH": os.fspath(self.folder)})
        return Archive(url.stdout.strip())


def obtain(
    folder: Path,
    work: Path,
    *,
    given: Path | None = None,
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> Mkosi:
    """The mkosi that folder (pin.toml and *.patch) asks for, unpacked and patched below work.

    given is a folder or archive to use instead of the pinned sources
    (MKOSI_SOURCE). What an earlier call made is used again without any
    download, as long as it is what that call recorded. Raises HarnessError
    where no source answers, a digest differs or a patch does not apply.
    """
    pin = Pin.read(folder / "pin.toml")
    patches = sorted(folder.glob("*.patch"))
    identity = [pin.version, pin.url, pin.sha256, *(file_digest(patch) for patch in patches)]
    if given:
        identity.append(_identity_of(given))
    home = work / "mkosi" / text_digest("\n".join(identity))[:16]
    if kept := _kept(home):
        return kept
    home.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(home.parent) as scratch:
        tree, source = _unpack_first(pin, scratch, given=given, offline=offline, say=say)
        applied = apply_series(folder, pin, tree)
        mkosi = Mkosi(
            folder=tree,
            version=version_of(tree),
            source=source,
            digest=tree_digest(tree / "mkosi"),
            patches={patch.name: file_digest(patch) for patch in applied},
        )
        record = asdict(mkosi) | {"folder": tree.relative_to(scratch).as_posix()}
        (scratch / RECORD).write_text(json.dumps(record, indent=2))
        shutil.rmtree(home, ignore_errors=True)
        scratch.rename(home)
    say(f"mkosi {mkosi.version} from {source}")
    return _read_record(home)


def install(mkosi: Mkosi, site: Path | None = None) -> None:
    """Put mkosi into site (by default this venv's site-packages), unless this very one is there.

    Builds in several checkouts may share a venv, hence the lock.
    """
    site = site or Path(sysconfig.get_paths()["purelib"])
    with FileLock(site / ".mkosi.lock"):
        stamp = site / "mkosi" / ".digest"
        if not stamp.exists() or stamp.read_text() != mkosi.digest:
            _replace(mkosi, site)


def _replace(mkosi: Mkosi, site: Path) -> None:
    """Put mkosi in the place of whatever mkosi is in site; the folder appears there whole."""
    new = site / ".mkosi.new"
    for old in (new, site / "mkosi", *site.glob("mkosi-*.dist-info")):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(mkosi.folder / "mkosi", new, ignore=shutil.ignore_patterns("__pycache__"))
    (new / ".digest").write_text(mkosi.digest)
    info = site / f"mkosi-{mkosi.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: mkosi\nVersion: {mkosi.version}\n"
    )
    new.rename(site / "mkosi")


def _unpack_first(
    pin: Pin,
    scratch: Path,
    *,
    given: Path | None,
    offline: bool,
    say: Callable[[str], None],
) -> tuple[Path, str]:
    """Unpack mkosi from the first source that answers: its folder, and the source in words."""
    if given:
        return unpack(given, scratch), str(given)
    if offline:
        raise HarnessError(
            f"mkosi {pin.version} has not been fetched yet, and --offline forbids it now",
            hint="run once without --offline, or set MKOSI_SOURCE to a folder or archive",
        )
    causes = []
    try:
        archive = scratch / "upstream.tar.gz"
        fetch(pin.url, archive, sha256=pin.sha256, settings=BRIEF)
        return unpack(archive, scratch), UPSTREAM
    except DigestError:
        raise
    except HarnessError as error:
        causes.append(error.message)
        say("upstream's mkosi is out of reach; asking the Debian archive")
    try:
        package = debian.download(pin.package, list(pin.suites), scratch / "apt")
        return unpack(package, scratch), f"the Debian archive ({package.name})"
    except (MachineError, CommandError) as error:
        causes.append(last_line(getattr(error, "output", "")) or str(error))
    raise HarnessError(
        f"no source of mkosi {pin.version} answers: {'; '.join(causes)}",
        hint="check the network, or set MKOSI_SOURCE to a folder or archive of mkosi",
    )


def unpack(source: Path, scratch: Path) -> Path:
    """Copy or extract source below scratch and return the folder that holds the package mkosi/."""
    tree = scratch / "tree"
    if source.is_dir():
        shutil.copytree(_find_package(source), tree, symlinks=True, ignore=_ignored)
        return tree
    if not source.exists():
        raise UsageError(f"MKOSI_SOURCE={source} does not exist")
    tree.mkdir()
    try:
        if source.suffix == ".deb":
            run(["dpkg-deb", "--extract", source.absolute(), tree])
        else:
            with tarfile.open(source) as archive:
                archive.extractall(tree, filter="data")
    except (CommandError, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        cause = last_line(getattr(error, "output", "")) or str(error)
        raise HarnessError(f"{source} is no archive of mkosi: {cause}") from error
    return _find_package(tree)


def _ignored(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in (".git", "__pycache__", "mkosi.cache", "mkosi.tools")}


def _find_package(folder: Path) -> Path:
    """The folder that holds mkosi/sandbox.py: a source tree, or in a tarball or package."""
    for pattern in ("", "*", "usr/lib/python3/dist-packages"):
        for candidate in sorted(folder.glob(pattern)) if pattern else [folder]:
            if (candidate / "mkosi/sandbox.py").exists():
                return candidate
    raise HarnessError(
        f"{folder} holds no mkosi", hint="it should hold the folder mkosi/ with sandbox.py"
    )


def _identity_of(given: Path) -> str:
    if given.is_dir():
        return tree_digest(_find_package(given) / "mkosi")
    if given.exists():
        return file_digest(given)
    raise UsageError(f"MKOSI_SOURCE={given} does not exist")


def _kept(home: Path) -> Mkosi | None:
    """What an earlier call left in home, None where there is nothing, or not what it recorded.

    To read the package takes 20 ms.
    """
    try:
        kept = _read_record(home)
    except (OSError, ValueError, TypeError):
        return None
    return kept if tree_digest(kept.folder / "mkosi") == kept.digest else None


def _read_record(home: Path) -> Mkosi:
    mkosi = Mkosi(**json.loads((home / RECORD).read_text()))
    return replace(mkosi, folder=home / mkosi.folder)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
