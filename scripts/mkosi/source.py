"""Obtain the pinned mkosi, and apply our patches to it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from scripts import catalog
from scripts.distributions import debian
from scripts.distributions.debian import Archive
from scripts.mkosi.patches import apply_series
from scripts.mkosi.pin import Pin, version_of
from scripts.mkosi.unpacking import digest_of, unpack
from scripts.system import strict
from scripts.system.digests import file_digest, text_digest, tree_digest
from scripts.system.errors import HarnessError, MachineError
from scripts.system.fetch import BRIEF, DigestError, fetch
from scripts.system.process import Arg, CommandError, last_line, run
from scripts.system.progress import Progress

RECORD = "mkosi.json"

# The value of `Mkosi.source` for the pinned tarball.
UPSTREAM = "upstream's tarball"

# Prints the URL of the Debian archive that mkosi uses for images made without --mirror.
ARCHIVE = """
from types import SimpleNamespace
from mkosi.distribution.debian import Installer
config = SimpleNamespace(release="", repositories=(), local_mirror=None)
print(next(iter(Installer.repositories(SimpleNamespace(config=config), for_image=True))).url)
"""


@dataclass(frozen=True)
class Mkosi:
    """A patched mkosi.

    Attributes:
        folder: the folder that holds the Python package mkosi/.
        version: its version.
        source: where it came from, in words.
        digest: the digest of the patched package, which is the same wherever it came from.
        patches: the sha256 of each patch that was applied, by its name.

    """

    folder: Path
    version: str
    source: str
    digest: str
    patches: dict[str, str] = field(default_factory=dict)

    @property
    def sandbox(self) -> Path:
        """The stand-alone program with which mkosi isolates commands."""
        return self.folder / "mkosi/sandbox.py"

    def command(self, *args: Arg) -> list[Arg]:
        """Return the command that runs this mkosi with args, once it is installed."""
        return [sys.executable, "-m", "mkosi", *args]

    def archive(self) -> Archive:
        """Return the Debian archive that it takes packages from if none is named."""
        url = run([sys.executable, "-c", ARCHIVE], env={"PYTHONPATH": os.fspath(self.folder)})
        return Archive(url.stdout.strip())

    @classmethod
    def read(cls, home: Path) -> Mkosi:
        """Return the mkosi that `write` recorded in home.

        Raises OSError, ValueError or TypeError if there is no record, or a damaged one.
        """
        mkosi = cls(**strict.loads((home / RECORD).read_text()))
        return replace(mkosi, folder=home / mkosi.folder)

    def write(self, home: Path) -> None:
        """Record this mkosi, whose folder is below home, so that home can be moved."""
        record = asdict(self) | {"folder": self.folder.relative_to(home).as_posix()}
        (home / RECORD).write_text(json.dumps(record, indent=2))


def obtain(
    folder: Path,
    work: Path,
    progress: Progress,
    *,
    given: Path | None = None,
    offline: bool = False,
) -> Mkosi:
    """Return the mkosi that folder (pin.toml and *.patch) asks for, unpacked below work.

    given is a folder or archive to use instead of the pinned sources (MKOSI_SOURCE). An mkosi that
    an earlier call made is used again, without any download, unless it was changed since. Raises
    HarnessError if no source answers, a digest differs or a patch does not apply.
    """
    pin = Pin.read(folder / "pin.toml")
    home = work / "mkosi" / _identity(folder, pin, given)[:16]
    if kept := _kept(home):
        return kept
    home.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(home.parent) as scratch:
        tree, source = _unpack_first(pin, scratch, progress, given=given, offline=offline)
        made = _patched(folder, pin, tree, source)
        made.write(scratch)
        shutil.rmtree(home, ignore_errors=True)
        scratch.rename(home)
    progress.say(f"mkosi {made.version} from {source}")
    return Mkosi.read(home)


def _identity(folder: Path, pin: Pin, given: Path | None) -> str:
    """Return a digest of everything that decides which mkosi it is."""
    patches = [file_digest(patch) for patch in sorted(folder.glob("*.patch"))]
    own = [digest_of(given)] if given else []
    return text_digest("\n".join([pin.version, pin.url, pin.sha256, *patches, *own]))


def _patched(folder: Path, pin: Pin, tree: Path, source: str) -> Mkosi:
    """Apply the patches in folder to tree, which came from source."""
    applied = apply_series(folder, pin, tree)
    return Mkosi(
        folder=tree,
        version=version_of(tree),
        source=source,
        digest=tree_digest(tree / "mkosi"),
        patches={patch.name: file_digest(patch) for patch in applied},
    )


def _unpack_first(
    pin: Pin, scratch: Path, progress: Progress, *, given: Path | None, offline: bool
) -> tuple[Path, str]:
    """Unpack mkosi from the first source that answers, and return its folder and that source."""
    if given:
        return unpack(given, scratch), str(given)
    if offline:
        raise HarnessError(
            f"mkosi {pin.version} has not been downloaded yet, "
            f"and {catalog.flag('offline')} forbids it now",
            hint=f"run once without {catalog.flag('offline')}, or set MKOSI_SOURCE to a folder or "
            "archive of mkosi",
        )
    try:
        return _unpack_upstream(pin, scratch)
    except DigestError:
        raise
    except HarnessError as error:
        upstream = error.message
    progress.say("upstream's mkosi cannot be reached; trying the Debian archive")
    try:
        return _unpack_debian(pin, scratch)
    except (MachineError, CommandError) as error:
        cause = last_line(getattr(error, "output", "")) or str(error)
    raise HarnessError(
        f"no source of mkosi {pin.version} answers: {upstream}; {cause}",
        hint="check the network, or set MKOSI_SOURCE to a folder or archive of mkosi",
    )


def _unpack_upstream(pin: Pin, scratch: Path) -> tuple[Path, str]:
    archive = scratch / "upstream.tar.gz"
    fetch(pin.url, archive, sha256=pin.sha256, settings=BRIEF)
    return unpack(archive, scratch), UPSTREAM


def _unpack_debian(pin: Pin, scratch: Path) -> tuple[Path, str]:
    package = debian.download(pin.package, list(pin.suites), scratch / "apt")
    return unpack(package, scratch), f"the Debian archive ({package.name})"


def _kept(home: Path) -> Mkosi | None:
    """Return the mkosi that an earlier call left in home, None if it is gone or was changed.

    To read the whole package takes 20 ms.
    """
    try:
        kept = Mkosi.read(home)
    except (OSError, ValueError, TypeError):
        return None
    return kept if tree_digest(kept.folder / "mkosi") == kept.digest else None


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
