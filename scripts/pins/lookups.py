"""Looks up the newest version of everything that is pinned, and the edits that would pin it.

Each kind of source is asked its own way: GitHub's API, the CDN of Amazon Linux, an OCI registry,
and repositories of source RPMs.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import tomllib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException, ElementTree

from scripts.arch import ARCHES, X86_64
from scripts.catalog import DISTRIBUTIONS
from scripts.distributions import amazonlinux as releases
from scripts.mkosi.pin import SOURCES
from scripts.mkosi.pin import Pin as MkosiPin
from scripts.mkosi.source import digest_of_release
from scripts.packages import thirdparty
from scripts.packages.recipes import base_urls
from scripts.packages.thirdparty import NOARCH, SHA256, PinnedFile
from scripts.pins import edits, registry
from scripts.pins.edits import Edit
from scripts.stages import places
from scripts.system import strict
from scripts.system.errors import HarnessError
from scripts.system.fetch import Settings, read
from scripts.system.redirects import is_local
from scripts.system.text import printable
from scripts.system.url import Url

AMAZON_LINUX = DISTRIBUTIONS["amazonlinux"]

# Where each source is, in the checkout.
ADDRESSES = "scripts/pins/updates.toml"

# A tag on GitHub that is a release: v1.2.3 or 1.2.3.
TAG = re.compile(r"v?(\d+(?:\.\d+)*)", re.ASCII)

# The most bytes of a file whose digest is computed here, and of a repository's unpacked metadata;
# those of Amazon Linux have some megabytes.
FILE = METADATA = 256 << 20

# Tells zlib that a file is of gzip's format (zlib's manual, inflateInit2).
GZIP = 16

# The XML namespaces of a repository's metadata, and of its list of packages.
REPO = "{http://linux.duke.edu/metadata/repo}"
COMMON = "{http://linux.duke.edu/metadata/common}"

# A name-version-release of rpm's: a pin holds nothing else.
NEVRA = re.compile(r"[\w.+~^]+(-[\w.+~^]+)+", re.ASCII)

COMPUTED = "digest computed from the download: no checksums are published"

# How GitHub's API writes the digest of a file of a release (REST API, "Get the latest release").
ASSET_DIGEST = "sha256:"

# A server that is up answers at once, and a person waits for all of them.
LOOK = Settings(attempts=3, pause=1, connect=10, stall=30)


@dataclass(frozen=True)
class Update:
    """The pinned and the newest version of something, in words, and the edits that pin the newest.

    There are no edits if the pin is up to date. note is shown to the person who runs this. source
    is where the digests of a third-party file are published, or "".
    """

    name: str
    pinned: str
    newest: str
    edits: tuple[Edit, ...] = ()
    note: str = ""
    source: str = ""


Lookup = Callable[[], Update]


@dataclass(frozen=True)
class Release:
    """The newest release that GitHub's API names, and the sha256 of its files as far as it says."""

    version: str
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Published:
    """The sha256 of a pin's files by architecture, and where they are published ("" if nowhere)."""

    digests: Mapping[str, str]
    source: str = ""


# The exceptions that damaged compressed XML raises.
DAMAGE = (ParseError, DefusedXmlException, EOFError, zlib.error, ValueError)


@dataclass(frozen=True)
class Lookups:
    """The lookups for the checkout root. settings say how patient a request is.

    Each method that returns an Update raises HarnessError if its source does not answer, or its
    answer makes no sense. The parameters are those of its table in updates.toml.
    """

    root: Path
    settings: Settings = LOOK

    def each(self) -> Iterator[tuple[str, Lookup]]:
        """Yield the name of each pin and the function that looks it up."""
        sources = tomllib.loads((self.root / ADDRESSES).read_text())
        yield "mkosi", partial(self.mkosi, **sources["mkosi"])
        yield AMAZON_LINUX.name, partial(self.amazonlinux, **sources["amazonlinux"])
        for pin in thirdparty.read_pins(self.root / thirdparty.PINS):
            yield pin.name, partial(self.third_party, pin)
        for name in ("base-image", "ci-container"):
            yield name, partial(self.container_image, name, **sources[name])
        for name, source in sources["source-rpms"].items():
            yield name, partial(self.source_rpm, name, **source)
        for name, source in sources["amazon-source-rpms"].items():
            yield name, partial(self.amazon_source_rpm, name, **source, **sources["amazonlinux"])
        for name, source in sources["spal-rpms"].items():
            lookup = partial(self.spal_rpm, name, **source, **sources["amazonlinux"])
            yield f"{releases.SPAL}-{name}", lookup

    def mkosi(self, *, releases: str, url: str) -> Update:
        """Look up mkosi: releases is GitHub's API, url the tarball of a {version}."""
        file = self.root / "mkosi/pin.toml"
        pin = MkosiPin.read(file)
        pinned = pin.version
        newest = self._newest_release(releases).version
        if not _is_newer(newest, pinned):
            return Update("mkosi", pinned, newest)
        address = url.format(version=newest)
        archive = read(address, settings=self.settings)
        patched = self._patched(archive)
        changes = (
            Edit(file, "version", newest),
            Edit(file, "upstream.url", address),
            Edit(file, "upstream.sha256", hashlib.sha256(archive).hexdigest()),
            *(Edit(file, f"{source}.patched", patched) for source in SOURCES),
            # Debian may not have that version yet.
            *([Edit(file, "debian.sha256", "")] if pin.package_sha256 else []),
        )
        return Update("mkosi", pinned, newest, changes, COMPUTED)

    def _patched(self, archive: bytes) -> str:
        """Return the digest of the mkosi in a tarball with our patches, which must apply to it."""
        with tempfile.TemporaryDirectory() as folder:
            tarball = Path(folder, "mkosi.tar.gz")
            tarball.write_bytes(archive)
            return digest_of_release(self.root / "mkosi", tarball)

    def amazonlinux(self, *, cdn: str) -> Update:
        """Look up the release of Amazon Linux that cdn has."""
        pinned = places.release_of(self.root, AMAZON_LINUX)
        newest = releases.newest(Url(cdn))
        if not _is_newer(newest, pinned):
            return Update(AMAZON_LINUX.name, pinned, newest)
        changes = (
            Edit(self.root / AMAZON_LINUX.conf, AMAZON_LINUX.pinned_by, newest),
            Edit(self.root / "scripts/distributions/amazonlinux.toml", "amazonlinux", newest),
        )
        return Update(AMAZON_LINUX.name, pinned, newest, changes)

    def third_party(self, pin: PinnedFile, *, computes: bool = True) -> Update:
        """Look up the newest release of pin, and digests that are missing.

        computes says whether to compute digests that the publisher does not list. Raises
        HarnessError if the published digest of the pinned release has changed.
        """
        if not pin.releases:
            raise HarnessError(f"{pin.name} in {thirdparty.PINS} does not say where releases are")
        newest = self._newest_release(pin.releases)
        version = newest.version if _is_newer(newest.version, pin.version) else pin.version
        published = self._published(pin, version, newest, computes=computes)
        file = self.root / thirdparty.PINS
        changes = [Edit(file, f"{pin.name}.version", version)] if version != pin.version else []
        for arch, digest in published.digests.items():
            known = pin.sha256.get(arch)
            if version == pin.version and known and known != digest:
                raise HarnessError(
                    f"{pin.name} {version} has changed: its published sha256 for {arch} is "
                    f"{digest}, but {known} is pinned"
                )
            if known != digest:
                changes.append(Edit(file, f"{pin.name}.sha256.{arch}", digest))
        pinned = "no digest" if version == pin.version and changes else pin.version
        note = COMPUTED if changes and not published.source else ""
        return Update(pin.name, pinned, version, tuple(changes), note, published.source)

    def _published(
        self, pin: PinnedFile, version: str, newest: Release, *, computes: bool
    ) -> Published:
        """Return the digests of a version of pin: its publisher's, GitHub's, or computed ones.

        Of computed ones, those that are pinned already are left out. Raises HarnessError if the
        publisher and GitHub, which names those of the newest release, contradict each other, or if
        a digest would have to be computed and may not.
        """
        every = {arch.name: arch for arch in ARCHES}
        arches = {NOARCH: X86_64} if NOARCH in pin.sha256 else every
        files = {name: thirdparty.fill(pin.url, version, arch) for name, arch in arches.items()}
        known = newest.digests if version == newest.version else {}
        if pin.checksums:
            url = thirdparty.fill(pin.checksums, version, X86_64)
            try:
                listed = checksums(self._text(url))
            except HarnessError:
                if not _names_all(known, files.values()):
                    raise
            else:
                _require_agreement(listed, known, files.values(), url)
                digests = {arch: _listed(listed, file, url) for arch, file in files.items()}
                return Published(digests, url)
        if _names_all(known, files.values()):
            digests = {arch: known[_file_name(file)] for arch, file in files.items()}
            return Published(digests, pin.releases)
        if not computes:
            raise HarnessError(f"its publisher lists no sha256 of {pin.name} {version}")
        return Published(
            {
                arch: self._digest_of(address)
                for arch, address in files.items()
                if version != pin.version or not pin.sha256.get(arch)
            }
        )

    def container_image(self, name: str, *, manifest: str, file: str, table: str) -> Update:
        """Look up which image the pinned tag names now. manifest is its URL, with a {tag}."""
        path = self.root / file
        tag, pinned = (str(edits.value(path, f"{table}.{key}")) for key in ("tag", "digest"))
        newest = registry.digest(manifest.format(tag=tag), settings=self.settings)
        changes = () if newest == pinned else (Edit(path, f"{table}.digest", newest),)
        return Update(name, f"{tag} {_short(pinned)}", f"{tag} {_short(newest)}", changes)

    def source_rpm(
        self, name: str, *, repository: str, folder: str, only: str, file: str, key: str
    ) -> Update:
        """Look up the newest release of version only among the source RPMs of name.

        They are in folder of the first address of repository that answers.
        """
        path = self.root / file
        pinned = str(edits.value(path, key))
        url, listing = self._first_text(
            [base / folder for base in _repository_urls(path, repository)]
        )
        pattern = re.compile(rf"{re.escape(name)}-[\w.~^+]+-[\w.~^+]+?(?=\.src\.rpm)", re.ASCII)
        found = sorted({*pattern.findall(listing)}, key=_order)
        wanted = [nevra for nevra in found if nevra.startswith(f"{name}-{only}-")]
        if not wanted:
            raise HarnessError(f"{url} has no source RPM of {name} {only}")
        newest = wanted[-1]
        changes = (Edit(path, key, newest),) if _is_newer(newest, pinned) else ()
        note = f"{found[-1]} exists too, but we stay with {only}" if found[-1] != newest else ""
        return Update(name, pinned, newest, changes, note)

    def amazon_source_rpm(self, name: str, *, cdn: str, file: str, key: str) -> Update:
        """Look up the source RPM of name in the newest release of Amazon Linux that cdn has."""
        path = self.root / file
        pinned = str(edits.value(path, key))
        release = self._newest_amazonlinux(cdn)
        url = Url(f"{cdn}/core/mirrors/{release}/SRPMS/mirror.list")
        newest = max(self._listed_rpms(name, url, "source RPM"), key=_order)
        changes = () if newest == pinned else (Edit(path, key, newest),)
        return Update(name, pinned, newest, changes, f"of Amazon Linux {release}")

    def spal_rpm(self, name: str, *, only: str, cdn: str, file: str, key: str) -> Update:
        """Look up the newest RPM of version only in SPAL of the newest release that cdn has."""
        path = self.root / file
        pinned = str(edits.value(path, key))
        release = self._newest_amazonlinux(cdn)
        url = releases.spal_list(release, X86_64, Url(cdn))
        found = self._listed_rpms(name, url, "RPM")
        wanted = [nevra for nevra in found if nevra.startswith(f"{name}-{only}-")]
        if not wanted:
            raise HarnessError(f"SPAL of {release} has no RPM of {name} {only}")
        newest = max(wanted, key=_order)
        changes = () if newest == pinned else (Edit(path, key, newest),)
        title = f"{releases.SPAL}-{name}"
        return Update(title, pinned, newest, changes, f"of Amazon Linux {release}")

    def _newest_amazonlinux(self, cdn: str) -> str:
        pinned = places.release_of(self.root, AMAZON_LINUX)
        return max(releases.newest(Url(cdn)), pinned, key=_order)

    def _listed_rpms(self, name: str, mirrors: Url, kind: str) -> list[str]:
        """Return the RPMs of name in the repository that a list of mirrors names, at least one."""
        listed = self._text(mirrors).split()
        if not listed:
            raise HarnessError(f"the list of mirrors {mirrors} is empty")
        every = self._rpms(Url(listed[0]), sent=not is_local(mirrors.host))
        if found := [nevra for nevra in every if nevra.rsplit("-", 2)[0] == name]:
            return found
        raise HarnessError(f"{printable(str(Url(listed[0])))} has no {kind} of {name}")

    def _rpms(self, repository: Url, *, sent: bool) -> list[str]:
        """Return the RPMs of a repository, each as name-version-release.

        sent is that of `fetch.read`. https://createrepo.baseurl.org describes the format of the
        metadata. Raises HarnessError if it has another.
        """
        try:
            text = read(repository / "repodata/repomd.xml", settings=self.settings, sent=sent)
            repomd = ElementTree.fromstring(text)
            data = next(
                each for each in repomd.iter(f"{REPO}data") if each.get("type") == "primary"
            )
            location = data.find(f"{REPO}location")
            address = "" if location is None else location.get("href", "")
            packed = read(repository / address, settings=self.settings, sent=sent)
            primary = ElementTree.fromstring(_unpacked(packed))
        except (*DAMAGE, StopIteration, OSError) as error:
            raise HarnessError(
                f"the metadata of {printable(str(repository))} cannot be read: "
                f"{printable(repr(error))}"
            ) from error
        every = [
            f"{package.findtext(f'{COMMON}name')}-{version.get('ver')}-{version.get('rel')}"
            for package in primary.iter(f"{COMMON}package")
            if (version := package.find(f"{COMMON}version")) is not None
        ]
        return [nevra for nevra in every if NEVRA.fullmatch(nevra)]

    def _newest_release(self, url: str) -> Release:
        """Return the newest release that GitHub's API names at url, as a release or as a tag."""
        text = self._text(url)
        try:
            data = strict.loads(text)
            tags = [tag["name"] for tag in data] if isinstance(data, list) else [data["tag_name"]]
        except strict.ODDITIES as error:
            raise HarnessError(f"{url} does not name a release: {error!r}") from error
        versions = [match[1] for tag in tags if (match := TAG.fullmatch(str(tag)))]
        if not versions:
            raise HarnessError(
                f"{url} names no version, only {printable(', '.join(map(str, tags)))}"
            )
        digests = {} if isinstance(data, list) else _asset_digests(data.get("assets"))
        return Release(max(versions, key=_order), digests)

    def _first_text(self, urls: Sequence[Url]) -> tuple[Url, str]:
        """Return the first of urls that answers, and its answer. Raises HarnessError if none."""
        failures = []
        for url in urls:
            try:
                return url, self._text(url)
            except HarnessError as error:
                failures.append(error.message)
        raise HarnessError(f"no repository answers: {'; '.join(failures)}")

    def _text(self, url: str | Url) -> str:
        return read(url, settings=self.settings).decode(errors="replace")

    def _digest_of(self, url: str) -> str:
        return hashlib.sha256(read(url, settings=self.settings, limit=FILE)).hexdigest()


def _unpacked(packed: bytes) -> bytes:
    """Return what a gzip file holds. Raises ValueError if it is damaged, or holds too much."""
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | GZIP)
    try:
        data = unpacking.decompress(packed, METADATA)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacking.eof:
        raise ValueError(f"it is cut off, or larger than {METADATA >> 20} MiB")
    return data


def checksums(text: str) -> dict[str, str]:
    """Return the sha256 by file name in text, which has the form that sha256sum writes."""
    pairs = (line.split(maxsplit=1) for line in text.splitlines())
    return {
        pair[1].lstrip("*").strip(): pair[0].lower()
        for pair in pairs
        if len(pair) == 2 and SHA256.fullmatch(pair[0].lower())
    }


def _repository_urls(file: Path, key: str) -> tuple[Url, ...]:
    """Return the addresses of the repository whose baseurl is the dotted key in a TOML file."""
    try:
        return base_urls(edits.value(file, key))
    except ValueError as error:
        raise HarnessError(f"{file}: {key} {error}") from None


def _asset_digests(assets: object) -> dict[str, str]:
    """Return the sha256 by file name in what GitHub's API says of a release's files."""
    every = assets if isinstance(assets, list) else []
    pairs = [(one.get("name"), one.get("digest")) for one in every if isinstance(one, dict)]
    return {
        name: digest.removeprefix(ASSET_DIGEST)
        for name, digest in pairs
        if isinstance(name, str)
        and isinstance(digest, str)
        and digest.startswith(ASSET_DIGEST)
        and SHA256.fullmatch(digest.removeprefix(ASSET_DIGEST))
    }


def _names_all(digests: Mapping[str, str], addresses: Iterable[str]) -> bool:
    return all(_file_name(address) in digests for address in addresses)


def _require_agreement(
    listed: Mapping[str, str], known: Mapping[str, str], addresses: Iterable[str], url: str
) -> None:
    """Raise HarnessError if GitHub's API knows another digest than the checksums at url list."""
    for name in map(_file_name, addresses):
        if listed.get(name, "") != known.get(name, listed.get(name, "")):
            raise HarnessError(
                f"{url} lists the sha256 {listed.get(name)} of {name}, but GitHub's API names "
                f"{known[name]}"
            )


def _file_name(address: str) -> str:
    return address.rpartition("/")[2]


def _listed(listed: Mapping[str, str], address: str, url: str) -> str:
    """Return the digest in listed, the checksums at url, of the file at address."""
    name = _file_name(address)
    if name not in listed:
        raise HarnessError(f"{url} has no sha256 of {name}")
    return listed[name]


def _is_newer(candidate: str, than: str) -> bool:
    return _order(candidate) > _order(than)


def _order(version: str) -> list[tuple[int, str]]:
    """Return what to sort versions by: all numbers in version, however many digits they have."""
    numbers = (part.lstrip("0") for part in re.findall(r"\d+", version, re.ASCII))
    return [(len(number), number) for number in numbers]


def _short(digest: str) -> str:
    """Return a digest as people compare it: its algorithm and first twelve digits."""
    return digest[: digest.find(":") + 13] or "none"
