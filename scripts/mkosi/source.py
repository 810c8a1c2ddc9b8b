"""Obtain the pinned mkosi, and apply our patches to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from scripts import catalog
from scripts.distributions import debian
from scripts.distributions.debian import Archive
from scripts.mkosi import package
from scripts.mkosi.patches import apply_series, revert_series
from scripts.mkosi.pin import Pin, version_of
from scripts.mkosi.unpacking import digest_of, unpack
from scripts.system import strict
from scripts.system.digests import file_digest, text_digest
from scripts.system.errors import HarnessError, MachineError
from scripts.system.fetch import BRIEF, DigestError, fetch
from scripts.system.files import remove, write_text
from scripts.system.process import Arg, CommandError, last_line, run
from scripts.system.progress import Progress
from scripts.system.url import Url

RECORD = "mkosi.json"

# The value of `Mkosi.source` for the pinned tarball.
UPSTREAM = "upstream's tarball"

# `Mkosi.source` begins with this for the Debian archive, from which apt takes the pinned version.
DEBIAN = "the Debian archive ("

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
        folder: the folder that holds the Python package mkosi/, and no other.
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
        return Archive(Url(url.stdout.strip()))


def is_pinned(source: str) -> bool:
    """Whether source, which a `Mkosi` names, is where the pinned mkosi comes from.

    The other sources are absolute paths that a user named in MKOSI_SOURCE.
    """
    return source == UPSTREAM or source.startswith(DEBIAN)


def obtain(
    folder: Path,
    work: Path,
    progress: Progress,
    *,
    given: Path | None = None,
    offline: bool = False,
) -> Mkosi:
    """Return the mkosi that folder (pin.toml and *.patch) asks for, below work.

    given is a folder or archive to use instead of the pinned sources (MKOSI_SOURCE). A pinned mkosi
    that an earlier call made is used again, without any download, as long as its digest is the
    pinned one; any other mkosi is made anew. Raises HarnessError if no source answers, a digest
    differs or a patch does not apply.
    """
    pin = Pin.read(folder / "pin.toml")
    home = work / "mkosi" / _identity(folder, pin, given)[:16]
    if not given and (kept := _kept(home, folder, pin)):
        return kept
    home.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(home.parent) as scratch:
        tree, source = _unpack_first(pin, scratch, progress, given=given, offline=offline)
        made = _patched(folder, pin, tree, source)
        if not given:
            _require_pinned(made, pin)
        _keep(made, home, scratch)
    progress.say(f"mkosi {made.version} from {made.source}")
    return replace(made, folder=home)


def make_from(name: str, folder: Path) -> Mkosi:
    """Make the pinned version of mkosi anew from one of `pin.SOURCES`, and return its description.

    Its folder no longer exists, and its digest is not compared with the pinned one. Raises
    HarnessError or CommandError if the source does not answer or has another version, or if a patch
    does not apply.
    """
    pin = Pin.read(folder / "pin.toml")
    unpack_from = {"upstream": _unpack_upstream, "debian": _unpack_debian}[name]
    with tempfile.TemporaryDirectory() as scratch:
        made = _patched(folder, pin, *unpack_from(pin, Path(scratch)))
    if made.version != pin.version:
        raise HarnessError(f"{made.source} has mkosi {made.version}, but {pin.version} is pinned")
    return made


def unpatched(
    using: Mkosi, folder: Path, scratch: Path, *, given: Path | None, offline: bool
) -> tuple[Path, str]:
    """Return the tree of using as it was before our patches, below scratch.

    It is upstream's whole source tree if given is one or upstream's tarball can be downloaded, else
    only the package, and then the second value says why. Raises HarnessError as `unpack` does.
    """
    if given:
        return unpack(given, scratch), f"{given} is a package"
    pin = Pin.read(folder / "pin.toml")
    reason = f"{catalog.flag('offline')} forbids the download of upstream's tarball"
    if not offline:
        try:
            return _unpack_upstream(pin, scratch)[0], ""
        except DigestError:
            raise
        except HarnessError as error:
            reason = error.message
    tree = scratch / "package"
    shutil.copytree(using.folder / "mkosi", tree / "mkosi", symlinks=True)
    revert_series(folder, [name for name in using.patches if name not in pin.full_tree], tree)
    return tree, reason


def digest_of_release(folder: Path, archive: Path) -> str:
    """Return the digest of the mkosi in archive, a new release, with the patches in folder.

    Raises HarnessError if a patch does not apply.
    """
    pin = Pin.read(folder / "pin.toml")
    with tempfile.TemporaryDirectory() as scratch:
        return _patched(folder, pin, unpack(archive, Path(scratch)), "a release").digest


def _identity(folder: Path, pin: Pin, given: Path | None) -> str:
    """Return a digest of everything that decides which mkosi it is."""
    patches = [file_digest(patch) for patch in sorted(folder.glob("*.patch"))]
    own = [digest_of(given)] if given else sorted(pin.digests)
    return text_digest("\n".join([pin.version, pin.url, pin.sha256, *patches, *own]))


def _patched(folder: Path, pin: Pin, tree: Path, source: str) -> Mkosi:
    """Apply the patches in folder to tree, which came from source."""
    applied = apply_series(folder, pin, tree)
    return Mkosi(
        folder=tree,
        version=version_of(tree),
        source=source,
        digest=package.digest(tree / "mkosi"),
        patches={patch.name: file_digest(patch) for patch in applied},
    )


def _require_pinned(made: Mkosi, pin: Pin) -> None:
    """Raise HarnessError unless made is the pinned mkosi, or a newer one that apt has verified."""
    is_pinned = made.source == UPSTREAM or made.version == pin.version
    if is_pinned and made.digest not in pin.digests:
        renew = catalog.command("patch-check", catalog.flag("pin"))
        raise HarnessError(
            f"mkosi {made.version} from {made.source}, with our patches, has the digest "
            f"{made.digest}, but {' or '.join(sorted(pin.digests))} is pinned",
            hint=f"if you changed a patch, renew the pin: {renew}",
        )
    if _order(made.version) < _order(pin.version):
        raise HarnessError(
            f"{made.source} is older than mkosi {pin.version}, which is pinned",
            hint="check the date of the Debian mirror, or set MKOSI_SOURCE",
        )


def _order(version: str) -> list[int]:
    """Return the sort key of a version: all numbers in it."""
    return [int(part) for part in re.findall(r"[0-9]+", version)]


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
    package = debian.download(
        pin.package, list(pin.suites), scratch / "apt", sha256=pin.package_sha256
    )
    return unpack(package, scratch), f"{DEBIAN}{package.name})"


def _kept(home: Path, folder: Path, pin: Pin) -> Mkosi | None:
    """Return the pinned mkosi that an earlier call left in home, None if it is not there whole.

    The pin decides, not the record in home. Reading the whole package takes 20 ms.
    """
    digest = _held(home)
    if digest not in pin.digests:
        return None
    patches = {patch.name: file_digest(patch) for patch in sorted(folder.glob("*.patch"))}
    in_package = {name: found for name, found in patches.items() if name not in pin.full_tree}
    try:
        record = strict.loads((home / RECORD).read_text())
        source, names = str(record["source"]), set(record["patches"])
    except (OSError, *strict.ODDITIES):
        return None
    applied = next((one for one in (patches, in_package) if one.keys() == names), None)
    if applied is None or not source.isprintable():
        return None
    return Mkosi(home, pin.version, source, digest, applied)


def _keep(made: Mkosi, home: Path, scratch: Path) -> None:
    """Make home hold the package of made, which is in scratch, and the record of it.

    A home that holds it already stays in place, as a running build may use it.
    """
    record = json.dumps({"source": made.source, "patches": made.patches}, indent=2)
    if _held(home) == made.digest:
        write_text(home / RECORD, record)
        return
    new = scratch / "new"
    new.mkdir()
    (made.folder / "mkosi").rename(new / "mkosi")
    (new / RECORD).write_text(record)
    remove(home)
    new.rename(home)


def _held(home: Path) -> str:
    """Return the digest of the package that home holds, "" if it holds anything else as well.

    home is put on Python's path, so Python could import a module beside the package, too.
    """
    try:
        is_plain = {path.name for path in home.iterdir()} <= {"mkosi", RECORD}
    except OSError:
        return ""
    if not is_plain or home.is_symlink() or (home / "mkosi").is_symlink():
        return ""
    record = home / RECORD
    if record.is_symlink() or (record.exists() and not record.is_file()):
        return ""  # to read a FIFO would wait forever
    package.drop_bytecode(home / "mkosi")
    return package.digest(home / "mkosi")


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
