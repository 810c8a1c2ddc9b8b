"""Releases of others (third-party/pins.toml): download, verify, hand over for the base."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from scripts.arch import ARCHES, NAMES, Arch
from scripts.options import Options
from scripts.stages.additions import Additions
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.fetch import PATIENT, DigestError, Settings, fetch
from scripts.system.progress import Progress

# In the checkout.
PINS = "third-party/pins.toml"

# For what is the same on every architecture.
NOARCH = "noarch"

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pin:
    """An entry of pins.toml, whose comments describe the fields.

    Exactly one of package and path is not empty.
    """

    name: str
    version: str
    url: str
    sha256: Mapping[str, str]
    package: str = ""
    path: str = ""
    requires: tuple[str, ...] = ()
    releases: str = ""
    checksums: str = ""

    def digest(self, arch: Arch) -> str:
        """The sha256 of the file for arch, "" where it is not known."""
        return self.sha256.get(arch.name) or self.sha256.get(NOARCH, "")

    def address(self, arch: Arch, mirror: str | None = None) -> str:
        """The URL of the file for arch, below mirror if that is given."""
        url = fill(self.url, self.version, arch)
        return mirrored(url, mirror) if mirror else url

    def file_name(self, arch: Arch) -> str:
        """The name of the file for arch."""
        return PurePosixPath(urlsplit(self.address(arch)).path).name


@dataclass(frozen=True)
class _Wanted:
    """A pinned file for the architecture that is built, and where it is kept."""

    pin: Pin
    url: str
    sha256: str
    path: Path

    def is_here(self) -> bool:
        """Whether it is in the cache, and what is pinned."""
        return self.path.exists() and file_digest(self.path) == self.sha256


def fill(url: str, version: str, arch: Arch) -> str:
    """A URL of pins.toml with what its placeholders stand for."""
    return url.format(version=version, arch=arch.name, debian=arch.debian)


def mirrored(url: str, mirror: str) -> str:
    """Where mirror has the file at url: below its host and path, without a query."""
    parts = urlsplit(url)
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}"


def read_pins(path: Path) -> list[Pin]:
    """The pins in the file at path. Raises UsageError that says what is wrong with it."""
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read as pins: {error}") from error
    return [_pin(path, name, table) for name, table in data.items()]


def _pin(path: Path, name: str, table: Any) -> Pin:
    try:
        pin = Pin(**{**table, "name": name, "requires": tuple(table.get("requires", ()))})
        problem = next(_problems(pin), "")
    except (TypeError, AttributeError, KeyError, ValueError, IndexError) as error:
        raise UsageError(f"{path}: {name} is no pin: {error}") from error
    if problem:
        raise UsageError(f"{path}: {name} {problem}")
    return pin


def _problems(pin: Pin) -> Iterator[str]:
    """What is wrong with pin; where a value is of the wrong type, that is raised."""
    for arch in ARCHES:
        if urlsplit(pin.address(arch)).scheme not in {"http", "https"}:
            yield f"has the URL {pin.url}, which is no http or https URL"
    if bool(pin.package) == bool(pin.path):
        yield "needs either a package or a path"
    if pin.path and (not pin.path.startswith("/") or ".." in PurePosixPath(pin.path).parts):
        yield f"has the path {pin.path}, which is not absolute"
    for arch_name, digest in pin.sha256.items():
        if arch_name not in (*NAMES, NOARCH):
            yield f"has a sha256 of {arch_name}, which is none of {', '.join((*NAMES, NOARCH))}"
        if digest and not SHA256.fullmatch(digest):
            yield f"has {digest!r} for {arch_name}, which is no sha256"


def obtain(opts: Options, progress: Progress, *, settings: Settings = PATIENT) -> Additions:
    """What is pinned for the target of opts, downloaded as far as it is not in the cache.

    Distributions with an archive of their own have it all there, and get nothing. Raises
    UsageError for pins that make no sense and where a digest is not known, HarnessError where a
    file cannot be had or is not what is pinned.
    """
    if not opts.target.distribution.has_rpms:
        return Additions()
    wanted = _wanted(opts, progress.say)
    for file in wanted:
        _download(file, opts, progress, settings)
    return Additions(
        rpms=tuple(file.path for file in wanted if file.pin.package),
        packages=tuple(_packages(wanted)),
        files={file.pin.path: file.path for file in wanted if file.pin.path},
    )


def names(opts: Options) -> list[str]:
    """What is pinned, by name. Raises UsageError for pins that make no sense."""
    return [pin.name for pin in read_pins(_path(opts))]


def lacking(opts: Options) -> bool:
    """Whether `obtain` would have something to download for opts."""
    if not opts.target.distribution.has_rpms:
        return False
    return any(not file.is_here() for file in _wanted(opts, lambda _: None))


def _path(opts: Options) -> Path:
    return opts.sources.third_party_pins or opts.folders.root / PINS


def _wanted(opts: Options, say: Callable[[str], None]) -> list[_Wanted]:
    wanted = []
    for pin in read_pins(_path(opts)):
        digest = pin.digest(opts.target.arch)
        if digest:
            cached = opts.folders.work / "third-party" / digest / pin.file_name(opts.target.arch)
            url = pin.address(opts.target.arch, opts.sources.third_party_mirror)
            wanted.append(_Wanted(pin, url, digest, cached))
        elif pin.name in opts.packages.allow_missing:
            say(f"{pin.name} is left out: its digest for {opts.target.arch} is not known")
        else:
            raise UsageError(
                f"{pin.name} {pin.version} cannot be verified: {_path(opts)} has no sha256 of it "
                f"for {opts.target.arch}",
                hint="./nox -s update-pins obtains it; "
                f"-- --allow-missing {pin.name} builds without {pin.name}",
            )
    return wanted


def _download(file: _Wanted, opts: Options, progress: Progress, settings: Settings) -> None:
    if file.is_here():
        return
    if opts.sources.offline:
        raise HarnessError(
            f"{file.pin.name} {file.pin.version} has not been downloaded yet, "
            "and --offline forbids it now",
            hint="run once without --offline",
        )
    name = f"{file.pin.name} {file.pin.version}"
    try:
        with progress.task(name) as task:
            fetch(file.url, file.path, sha256=file.sha256, progress_task=task, settings=settings)
    except DigestError:
        raise
    except HarnessError as error:
        raise HarnessError(
            f"{name}: {error.message}",
            hint=f"{error.hint}; -- --third-party-mirror URL names another server",
        ) from error


def _packages(wanted: Sequence[_Wanted]) -> Iterator[str]:
    for file in wanted:
        if file.pin.package:
            yield file.pin.package
        yield from file.pin.requires
