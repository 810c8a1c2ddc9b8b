"""Third-party files that go into Amazon Linux images (third-party/pins.toml)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from scripts import catalog
from scripts.arch import ARCHES, NAMES, Arch
from scripts.options import Options
from scripts.stages.additions import Additions
from scripts.system import strict
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.fetch import PATIENT, DigestError, Settings, fetch
from scripts.system.progress import Progress
from scripts.system.url import WEB, Url, shown

# In the checkout.
PINS = "third-party/pins.toml"

# Instead of an architecture, for a file that is the same on every one.
NOARCH = "noarch"

SHA256 = re.compile(r"[0-9a-f]{64}")

# https://github.com/package-url/purl-spec: scheme, type, and a name with an optional version.
PURL = re.compile(r"pkg:[a-z][a-z0-9.+-]*/[^\s]+")


@dataclass(frozen=True)
class PinnedFile:
    """An entry of pins.toml, whose comments describe the fields.

    Exactly one of package and path is not empty.
    """

    name: str
    version: str
    url: str
    sha256: Mapping[str, str]
    package: str = ""
    path: str = ""
    licence: str = ""
    purl: str = ""
    requires: tuple[str, ...] = ()
    releases: str = ""
    checksums: str = ""

    @property
    def package_url(self) -> str:
        """The package URL of the pinned version, or "" if the pin has none."""
        return self.purl.format(version=self.version)

    def digest(self, arch: Arch) -> str:
        """Return the sha256 of the file for arch, or "" if it is unknown."""
        return self.sha256.get(arch.name) or self.sha256.get(NOARCH, "")

    def address(self, arch: Arch, mirror: Url | None = None) -> Url:
        """Return the URL of the file for arch, on mirror if that is given."""
        url = fill(self.url, self.version, arch)
        return mirrored(url, mirror) if mirror else Url(url)

    def file_name(self, arch: Arch) -> str:
        """Return the name of the file for arch."""
        return PurePosixPath(urlsplit(self.address(arch).bare).path).name


@dataclass(frozen=True)
class _Wanted:
    """A pinned file for the architecture that is built: its URL, its digest, its path here."""

    pin: PinnedFile
    url: Url
    sha256: str
    path: Path

    def is_here(self) -> bool:
        """Whether the pinned file is here already."""
        return self.path.exists() and file_digest(self.path) == self.sha256


def fill(url: str, version: str, arch: Arch) -> str:
    """Return a URL of pins.toml with its placeholders filled in."""
    return url.format(version=version, arch=arch.name, debian=arch.debian)


def mirrored(url: str, mirror: Url) -> Url:
    """Return where mirror has the file at url: below its host and path, without a query."""
    parts = urlsplit(url)
    return mirror / f"{parts.netloc}{parts.path}"


def read_pins(path: Path) -> list[PinnedFile]:
    """Return the pins in the file at path. Raises UsageError that says what is wrong with it."""
    try:
        data = strict.toml(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as pins: {error}") from error
    return [_pin(path, name, table) for name, table in data.items()]


def _pin(path: Path, name: str, table: Any) -> PinnedFile:
    try:
        pin = PinnedFile(**{**table, "name": name, "requires": tuple(table.get("requires", ()))})
        problem = next(_problems(pin), "")
    except strict.ODDITIES as error:
        raise UsageError(f"{path}: {name} is not a pin: {error}") from error
    if problem:
        raise UsageError(f"{path}: {name} {problem}")
    return pin


def _problems(pin: PinnedFile) -> Iterator[str]:
    """Yield what is wrong with pin. May raise any exception for a value of the wrong type."""
    for arch in ARCHES:
        url = pin.address(arch)
        if urlsplit(url.bare).scheme not in WEB:
            yield f"has the URL {shown(pin.url)}, which is not an http or https URL"
        if url.credentials:
            yield f"has a password in its URL {url}, but the digests of pins are published"
    if bool(pin.package) == bool(pin.path):
        yield "needs either a package or a path"
    if pin.path and (not pin.path.startswith("/") or ".." in PurePosixPath(pin.path).parts):
        yield f"has the path {pin.path}, which is not absolute"
    if pin.purl and not PURL.fullmatch(pin.package_url):
        yield f"has the purl {pin.purl}, which is not a package URL"
    for arch_name, digest in pin.sha256.items():
        if arch_name not in (*NAMES, NOARCH):
            yield f"has a sha256 for {arch_name}, which is not one of {', '.join((*NAMES, NOARCH))}"
        if digest and not SHA256.fullmatch(digest):
            yield f"has {digest!r} for {arch_name}, which is not a sha256"


def download(opts: Options, progress: Progress, *, settings: Settings = PATIENT) -> Additions:
    """Return what is pinned for the target of opts, downloaded unless it is here already.

    A distribution whose own archive has all of it gets nothing. Raises UsageError if a pin makes no
    sense or lacks a digest, and HarnessError if a file cannot be downloaded or is not the pinned
    one.
    """
    if not opts.target.distribution.has_rpms:
        return Additions()
    wanted = _wanted(opts)
    for pin in read_pins(_path(opts)):
        if not pin.digest(opts.target.arch):
            progress.say(f"{pin.name} is left out: its digest for {opts.target.arch} is unknown")
    for file in wanted:
        _download(file, opts, progress, settings)
    return Additions(
        rpms=tuple(file.path for file in wanted if file.pin.package),
        packages=tuple(_packages(wanted)),
        files={file.pin.path: file.path for file in wanted if file.pin.path},
    )


def single_files(opts: Options) -> dict[str, PinnedFile]:
    """Return the pins of single files by their path in the image.

    Raises UsageError if a pin makes no sense.
    """
    return {pin.path: pin for pin in read_pins(_path(opts)) if pin.path}


def names(opts: Options) -> list[str]:
    """Return the names of all pins. Raises UsageError if one makes no sense."""
    return [pin.name for pin in read_pins(_path(opts))]


def lacking(opts: Options) -> bool:
    """Whether `download` would have to download something for opts."""
    if not opts.target.distribution.has_rpms:
        return False
    return any(not file.is_here() for file in _wanted(opts))


def _path(opts: Options) -> Path:
    return opts.sources.third_party_pins or opts.folders.root / PINS


def _wanted(opts: Options) -> list[_Wanted]:
    """Return the files to download for opts. Raises UsageError if a required digest is missing."""
    wanted = []
    for pin in read_pins(_path(opts)):
        digest = pin.digest(opts.target.arch)
        if digest:
            cached = opts.folders.work / "third-party" / digest / pin.file_name(opts.target.arch)
            url = pin.address(opts.target.arch, opts.sources.third_party_mirror)
            wanted.append(_Wanted(pin, url, digest, cached))
        elif pin.name not in opts.packages.allow_missing:
            raise unverified(pin, opts)
    return wanted


def unpinned(opts: Options) -> list[PinnedFile]:
    """Return the pins that a build with opts needs, but that have no digest for its architecture.

    Raises UsageError if a pin makes no sense.
    """
    if not opts.target.distribution.has_rpms:
        return []
    allowed = opts.packages.allow_missing
    pins = [pin for pin in read_pins(_path(opts)) if pin.name not in allowed]
    return [pin for pin in pins if not pin.digest(opts.target.arch)]


def unverified(pin: PinnedFile, opts: Options, known: str = "") -> UsageError:
    """Return the error for a build that needs pin, which has no digest.

    known says in a few words what is known about the digest elsewhere.
    """
    is_ours = opts.sources.third_party_pins is None
    renew = f"`{catalog.command('update-pins', pin.name)}` adds it, with access to the internet"
    return UsageError(
        f"{pin.name} {pin.version} cannot be verified: {_path(opts)} has no sha256 for "
        f"{opts.target.arch}",
        hint=f"{f'{known}; ' if known else ''}{renew if is_ours else 'add it there'}; "
        f"{catalog.option('allow-missing', pin.name)} builds without {pin.name}",
    )


def _download(file: _Wanted, opts: Options, progress: Progress, settings: Settings) -> None:
    """Download file unless it is here. Raises HarnessError if that is forbidden, or fails."""
    if file.is_here():
        return
    name = f"{file.pin.name} {file.pin.version}"
    if opts.sources.offline:
        raise HarnessError(
            f"{name} has not been downloaded yet, and {catalog.flag('offline')} forbids it now",
            hint=f"run once without {catalog.flag('offline')}",
        )
    try:
        with progress.task(name) as task:
            fetch(file.url, file.path, sha256=file.sha256, progress_task=task, settings=settings)
    except DigestError:
        raise
    except HarnessError as error:
        raise HarnessError(
            f"{name}: {error.message}",
            hint=f"{error.hint}; {catalog.option('third-party-mirror')} names another server",
        ) from error


def _packages(wanted: Sequence[_Wanted]) -> Iterator[str]:
    """Yield the names of the packages to install, those that wanted files require among them."""
    for file in wanted:
        if file.pin.package:
            yield file.pin.package
        yield from file.pin.requires
