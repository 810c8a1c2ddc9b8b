"""The index of a distribution's repositories: which packages there are, with their digests.

apt and dnf fetch an index and verify it. This module reads what they have left in mkosi's metadata
cache: apt's lists, as in https://wiki.debian.org/DebianRepository/Format, or dnf's repodata, whose
format is described at https://createrepo.baseurl.org.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from scripts.system.errors import HarnessError

# Where apt keeps its lists in mkosi's metadata cache, and .debs in mkosi's package cache.
APT_LISTS = "lib/apt/lists"
APT_PACKAGES = "cache/apt/archives"

# The fields of a stanza in Packages.
FIELDS = {b"Package", b"Version", b"Architecture", b"Size", b"SHA256"}

# The field of a Release file that says when it was made.
DATE = re.compile(r"^Date: (.+)$", re.MULTILINE)

# A clear-signed text begins after the first empty line (RFC 9580, 7), and ends here.
SIGNATURE = "-----BEGIN PGP SIGNATURE-----"

# How the name of a Release file in apt's lists continues: the suite, with "_" for each slash.
DISTS = "_dists_"

REPO = "{http://linux.duke.edu/metadata/repo}"
COMMON = "{http://linux.duke.edu/metadata/common}"

# Functions that decompress a list of RPMs, by its suffix.
UNPACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    ".xml": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
    ".bz2": bz2.decompress,
}

# What a damaged index raises. gzip lets some errors of zlib through.
DAMAGED = (OSError, EOFError, ValueError, KeyError, OverflowError, lzma.LZMAError, zlib.error)

# Unpacks a file that Python cannot unpack, and returns the result.
Unpack = Callable[[Path], Path]


@dataclass(frozen=True, slots=True)
class Listed:
    """A package in an index; size is that of its file, in bytes.

    path is where the package manager puts the file, relative to mkosi's package cache. repository
    is what dnf calls the repository, "" for apt.
    """

    name: str
    version: str
    architecture: str
    size: int
    sha256: str
    path: str
    repository: str = ""


@dataclass(frozen=True)
class Index:
    """The packages by the path of their files, and when each index was made, by suite.

    If two repositories list different files under one path, a kept file could be either one. So
    packages has neither.
    """

    packages: Mapping[str, Listed]
    dates: Mapping[str, datetime]

    @cached_property
    def digests(self) -> Mapping[tuple[str, str, str], str]:
        """The sha256 of each package by name, version and architecture."""
        listed = self.packages.values()
        return {(one.name, one.version, one.architecture): one.sha256 for one in listed}

    def elsewhere(self, main: str) -> dict[tuple[str, str, str], str]:
        """Return the repository of each package that is not in the repository called main."""
        listed = {
            (one.name, one.version, one.architecture): one.repository
            for one in self.packages.values()
            if one.repository not in ("", main)
        }
        for one in self.packages.values():
            if one.repository == main:
                listed.pop((one.name, one.version, one.architecture), None)
        return listed

    @cached_property
    def folders(self) -> frozenset[str]:
        """The folders in mkosi's package cache that packages are in, and those above them."""
        deepest = {PurePosixPath(path.rpartition("/")[0]) for path in self.packages}
        return frozenset(str(one) for path in deepest for one in (path, *path.parents))


def read(metadata: Path, release: str, unpack: Unpack) -> Index:
    """Read the index in metadata, mkosi's metadata cache after apt or dnf have filled it.

    release names the release whose RPMs they are. Raises HarnessError if there is no index, or one
    that cannot be read.
    """
    try:
        lists = metadata / APT_LISTS
        if lists.is_dir():
            return _of_apt(lists)
        return _of_dnf(metadata / "cache", release, unpack)
    except DAMAGED as error:
        raise HarnessError(f"the package index cannot be read: {error!r}") from error
    except (ParseError, DefusedXmlException) as error:
        raise HarnessError(f"the package index is not valid XML: {error!r}") from error


def deb_name(name: str, version: str, architecture: str) -> str:
    """Return the name that apt gives to a .deb in its cache: it escapes the colon of an epoch."""
    return f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"


def _of_apt(lists: Path) -> Index:
    found = [one for path in sorted(lists.glob("*_Packages")) for one in _debs(path.read_bytes())]
    if not found:
        raise HarnessError("apt has fetched no list of packages")
    releases = sorted([*lists.glob("*_InRelease"), *lists.glob("*_Release")])
    return Index(_by_path(found), dict(_suite(path) for path in releases))


def _debs(text: bytes) -> Iterator[Listed]:
    for fields in _stanzas(text):
        if b"SHA256" in fields:
            key = fields[b"Package"], fields[b"Version"], fields[b"Architecture"]
            path = f"{APT_PACKAGES}/{deb_name(*key)}"
            yield Listed(*key, int(fields[b"Size"]), fields[b"SHA256"].lower(), path)


def _stanzas(text: bytes) -> Iterator[dict[bytes, str]]:
    """Yield the FIELDS of each stanza. python-debian takes much longer."""
    fields: dict[bytes, str] = {}
    for line in (*text.split(b"\n"), b""):
        name, _, value = line.partition(b": ")
        if name in FIELDS:
            fields[name] = value.decode().strip()
        elif not line and fields:
            yield fields
            fields = {}


def _suite(path: Path) -> tuple[str, datetime]:
    """Return the suite that a Release file of apt's lists was asked for, and the file's date."""
    signed = path.read_text(errors="replace").partition(SIGNATURE)[0]
    if path.name.endswith("_InRelease"):
        signed = signed.partition("\n\n")[2]
    date = DATE.search(signed)
    if not date:
        raise ValueError(f"{path.name} has no date")
    suite = path.name.rpartition("_")[0].rpartition(DISTS)[2]
    return suite, parsedate_to_datetime(date[1]).astimezone(UTC)


def _of_dnf(cache: Path, release: str, unpack: Unpack) -> Index:
    """Read the repositories that dnf keeps in cache, as in cache/dnf/amazonlinux-0123abc/."""
    found: list[Listed] = []
    dates: dict[str, datetime] = {}
    for path in sorted(cache.glob("*/*/repodata/repomd.xml")):
        repository = path.parent.parent
        repomd = ElementTree.parse(path).getroot()
        assert repomd is not None
        dates[f"{repository.name} {release}"] = _made(repomd)
        primary = path.with_name(_primary(repomd))
        name = repository.name.rpartition("-")[0]
        home = f"cache/{repository.parent.name}/packages"
        found += _rpms(primary if primary.suffix in UNPACKERS else unpack(primary), home, name)
    if not dates:
        raise HarnessError("dnf has fetched no list of packages")
    return Index(_by_path(found), dates)


def _primary(repomd: Element) -> str:
    """Return the name of the file that lists the packages."""
    for data in repomd.iter(f"{REPO}data"):
        location = data.find(f"{REPO}location")
        if data.get("type") == "primary" and location is not None:
            return PurePosixPath(location.get("href", "")).name
    raise HarnessError("dnf's repomd.xml names no list of packages")


def _made(repomd: Element) -> datetime:
    """Return when the index was made: its revision is a time unless the publisher chose a word."""
    revision = repomd.findtext(f"{REPO}revision", "")
    stamps = [each.text or "0" for each in repomd.iter(f"{REPO}timestamp")]
    times = [revision] if revision.isdecimal() else stamps
    return datetime.fromtimestamp(max((int(float(text)) for text in times), default=0), UTC)


def _rpms(path: Path, home: str, repository: str) -> Iterator[Listed]:
    text = UNPACKERS[path.suffix](path.read_bytes())
    for _, element in ElementTree.iterparse(BytesIO(text)):
        if element.tag == f"{COMMON}package":
            if listed := _rpm(element, home, repository):
                yield listed
            element.clear()  # a repository lists tens of thousands


def _rpm(package: Element, home: str, repository: str) -> Listed | None:
    """Return a package of an RPM repository; None if its digest is not a sha256."""
    version, checksum = package.find(f"{COMMON}version"), package.find(f"{COMMON}checksum")
    size, location = package.find(f"{COMMON}size"), package.find(f"{COMMON}location")
    if version is None or checksum is None or size is None or location is None:
        raise ValueError("a package in the index lacks its version, checksum, size or location")
    if checksum.get("type") != "sha256":
        return None
    epoch = version.get("epoch", "0")
    full = f"{version.get('ver')}-{version.get('rel')}"
    return Listed(
        package.findtext(f"{COMMON}name", ""),
        full if epoch == "0" else f"{epoch}:{full}",
        package.findtext(f"{COMMON}arch", ""),
        int(size.get("package", "")),
        (checksum.text or "").strip().lower(),
        f"{home}/{repository}/{PurePosixPath(location.get('href', '')).name}",
        repository,
    )


def _by_path(listed: Iterable[Listed]) -> dict[str, Listed]:
    """Return listed by path, without the paths that have two digests."""
    found: dict[str, Listed] = {}
    unclear = set()
    for one in listed:
        if found.setdefault(one.path, one).sha256 != one.sha256:
            unclear.add(one.path)
    return {path: one for path, one in found.items() if path not in unclear}
