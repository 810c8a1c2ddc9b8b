"""Gives mkosi the metadata of this build, and the packages that earlier builds kept.

CI restores the kept packages from a cache, to which others may have written, and apt accepts any
kept .deb of the right size. So a build fetches the metadata anew, which apt or dnf verifies, and
offers a kept package only if its bytes have the digest that the index names.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scripts import catalog
from scripts.build import freshness
from scripts.distributions import index
from scripts.distributions.index import Index, Listed, Unpack
from scripts.mkosi.sandbox import Tools
from scripts.stages.places import OUTPUT, Place
from scripts.stages.plan import Stage
from scripts.system.errors import HarnessError
from scripts.system.files import remove
from scripts.system.process import Arg, run

# The name of the image that mkosi makes to fetch metadata: a tree with nothing but os-release.
IMAGE = "metadata"

# The suffixes of packages.
PACKAGES = (".deb", ".rpm")

# Files are copied in pieces of this size, in bytes.
PIECE = 1 << 20

# Runs mkosi, with its output in a folder.
Sync = Callable[[list[Arg], Path], None]


@dataclass(frozen=True)
class Granted:
    """The folders that one run of mkosi is given, both its own.

    metadata is mkosi's cache directory, packages its package cache. index says what may be in the
    package cache; a stage that installs nothing needs none.
    """

    metadata: Path
    packages: Path
    index: Index | None = None

    @classmethod
    def make(cls, folder: Path) -> Granted:
        """Make the folders below folder, which must not exist."""
        granted = cls(folder / "metadata", folder / "packages")
        granted.metadata.mkdir(parents=True)
        granted.packages.mkdir()
        return granted


@dataclass(frozen=True)
class Dropped:
    """A file that was removed from the kept packages, and the reason.

    differs is true if the index lists a file of this name, so that somebody may have changed it on
    purpose.
    """

    name: str
    reason: str
    differs: bool = True

    def __str__(self) -> str:
        # The name comes from the cache, and may contain anything but a slash and NUL.
        return f"the kept package {self.name!r} was removed: {self.reason}"


class PackageCache:
    """The metadata of one place during one build, and the packages that are kept there."""

    def __init__(self, place: Place, unpack: Unpack, *, offline: bool, allow_older: bool) -> None:
        """Make one for place; offline, it uses the metadata of the last build that had a network.

        unpack decompresses formats that Python cannot. allow_older permits an index older than one
        seen before.
        """
        self._place = place
        self._unpack = unpack
        self._offline = offline
        self._allow_older = allow_older
        self._lock = threading.Lock()
        self._index: Index | None = None

    @contextmanager
    def of_stage(
        self, stage: Stage, sync: Sync, report: Callable[[Dropped], None]
    ) -> Iterator[Granted]:
        """Make the folders for a stage; the packages that it fetched are kept in the end.

        Stages are built side by side, and neither apt nor dnf expects others to write to its cache.
        sync is called if this build has no metadata yet, report for each file that is removed.
        """
        folder = self._place.folder / "building" / f"{stage.name}.cache"
        remove(folder)
        try:
            if stage.installs:
                yield self._grant(folder, sync, report)
            else:
                yield Granted.make(folder)
        finally:
            keep(folder / "packages", self._kept)
            remove(folder)

    def finish(self) -> None:
        """Remember the dates of this build's metadata. Call it once the build has succeeded."""
        if self._index and not self._offline:
            freshness.remember(self._memory, self._index.dates)

    def _grant(self, folder: Path, sync: Sync, report: Callable[[Dropped], None]) -> Granted:
        """Give a stage the metadata and the kept packages. Only one stage at a time reads them."""
        with self._lock:
            if not self._index:
                self._index = self._read() if self._offline else self._fetch(sync)
            shutil.copytree(self._metadata, folder, symlinks=True)
            for dropped in offer(self._kept, folder / "packages", self._index):
                report(dropped)
        return Granted(folder / "metadata", folder / "packages", self._index)

    def _fetch(self, sync: Sync) -> Index:
        """Fetch the metadata into an empty folder, and keep them for builds without a network.

        apt would not fetch a list of packages again if only an unchanged InRelease vouches for it.
        """
        folder = self._place.folder / "building" / IMAGE
        remove(folder)
        granted = Granted.make(folder / "fetched")
        sync(_arguments(folder, granted), folder)
        found = self._load(granted.metadata)
        freshness.check(self._memory, found.dates, allow_older=self._allow_older)
        remove(self._metadata)
        (folder / "fetched").rename(self._metadata)
        return found

    def _read(self) -> Index:
        if not (self._metadata / "metadata").is_dir():
            raise HarnessError(
                f"the list of packages has not been downloaded yet, and {catalog.flag('offline')} "
                "forbids it now",
                hint=f"run once without {catalog.flag('offline')}",
            )
        return self._load(self._metadata / "metadata")

    def _load(self, folder: Path) -> Index:
        metadata = next(folder.glob("*.metadata.cache"), folder)
        return index.read(metadata, self._place.release, self._unpack)

    @property
    def _kept(self) -> Path:
        return self._place.folder / "packages"

    @property
    def _metadata(self) -> Path:
        return self._place.folder / "cache"

    @property
    def _memory(self) -> Path:
        return self._place.folder / "newest-index.json"


def _arguments(folder: Path, granted: Granted) -> list[Arg]:
    """Return the arguments with which mkosi fetches metadata and builds an empty image."""
    for part in ("etc", "usr/lib"):  # without /etc, systemd-sysusers of systemd 252 fails
        (folder / "tree" / part).mkdir(parents=True)
    (folder / "tree/usr/lib/os-release").write_text("ID=none\n")
    return [
        "--image-id", IMAGE,
        "--dependency", "",
        "--format", "directory",
        "--bootable", "no",
        "--base-tree", f"${OUTPUT}/tree",
        "--cache-directory", granted.metadata,
        "--package-cache-dir", granted.packages,
    ]  # fmt: skip


def unpacker(tools: Tools, folder: Path) -> Unpack:
    """Return a function that decompresses zstd files into folder, which Python does since 3.14."""

    def unpack(path: Path) -> Path:
        target = folder / path.stem
        zstd: list[Arg] = ["zstd", "--decompress", "--force", "-o", target, path]
        run(tools.command(zstd, read=[path], write=[folder]))
        return target

    return unpack


def offer(kept: Path, own: Path, listed: Index) -> Iterator[Dropped]:
    """Copy the kept packages that match the index to own, mkosi's package cache.

    Everything else is removed from kept and yielded. The hash is of the bytes that were written, so
    it does not matter who else can write to kept.
    """
    _require_folder(kept)
    for path in list(_entries(kept, kept, listed.folders)):
        name = path.relative_to(kept).as_posix()
        package = listed.packages.get(name)
        reason = _copy(path, own / name, package) if package else "no index names it"
        if reason:
            _remove(path)
            yield Dropped(path.name, reason, differs=package is not None)


def keep(own: Path, kept: Path) -> None:
    """Move the packages in own, mkosi's package cache, to kept.

    Unfinished downloads stay behind: apt has them in a folder called partial.
    """
    for path in list(own.rglob("*")):
        name = path.relative_to(own)
        is_file = path.is_file() and not path.is_symlink()
        if is_file and path.suffix in PACKAGES and "partial" not in name.parts:
            target = kept / name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def _require_folder(path: Path) -> None:
    """Replace whatever is at path, such as a link that a restored cache holds, by a folder."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        path.mkdir()


def _entries(folder: Path, kept: Path, folders: Collection[str]) -> Iterator[Path]:
    """Yield everything in folder that is not one of folders, which are relative to kept."""
    for entry in os.scandir(folder):
        path = Path(entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder and path.relative_to(kept).as_posix() in folders:
            yield from _entries(path, kept, folders)
        else:
            yield path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # rm copes with any depth, Python's rmtree only with its own limit of recursion.
        run(["rm", "--recursive", "--force", "--", path])
    else:
        path.unlink(missing_ok=True)


def _copy(source: Path, target: Path, package: Listed) -> str:
    """Copy source to target if it matches package, and otherwise return the reason why not.

    A link is not followed, and a pipe is not waited for.
    """
    try:
        file = open(source, "rb", opener=_open)  # noqa: SIM115 - the with statement follows
    except OSError as error:
        return f"it cannot be opened as a file ({error.strerror})"
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return "it is not a regular file"
        if status.st_size != package.size:
            return f"it has {status.st_size} bytes, not the {package.size} that the index names"
        target.parent.mkdir(parents=True, exist_ok=True)
        if _write(file, target, package.size) == package.sha256:
            return ""
    target.unlink()
    return "its sha256 is not the one that the index names"


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _write(file: IO[bytes], target: Path, size: int) -> str:
    """Write file to target, and return the sha256 of what was written.

    A file that is longer than size, because it grows while it is read, is not read to its end.
    """
    digest = hashlib.sha256()
    with target.open("wb") as copy:
        while copy.tell() <= size and (piece := file.read(PIECE)):
            digest.update(piece)
            copy.write(piece)
    return digest.hexdigest()
