"""What is newer than what is pinned, and how to pin it."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import tomlkit
from defusedxml import DefusedXmlException, ElementTree
from rich.console import Console
from rich.table import Table

from scripts.arch import ARCHES, X86_64
from scripts.catalog import DISTRIBUTIONS
from scripts.distributions import amazonlinux as releases
from scripts.mkosi.pin import Pin as MkosiPin
from scripts.packages import thirdparty
from scripts.packages.thirdparty import NOARCH, SHA256, Pin
from scripts.pins import registry
from scripts.stages import places
from scripts.system.errors import HarnessError
from scripts.system.fetch import Settings, read
from scripts.system.files import write_text

# A tag of GitHub that is a release: v1.2.3, or 1.2.3.
TAG = re.compile(r"v?(\d+(?:\.\d+)*)", re.ASCII)

# The namespaces of a repository's metadata, and of what it says of packages.
REPO = "{http://linux.duke.edu/metadata/repo}"
COMMON = "{http://linux.duke.edu/metadata/common}"

COMPUTED = "digest computed from the download: its publisher has no checksums"

# A server that is up answers at once; who runs this waits for all of them.
LOOK = Settings(attempts=3, pause=1, connect=10, stall=30)


@dataclass(frozen=True)
class Edit:
    """A new value for the dotted key in a TOML file, or for the setting in a mkosi.conf.

    Where the old value is a list, the new one is added to it.
    """

    file: Path
    key: str
    value: str


@dataclass(frozen=True)
class Finding:
    """What is pinned under a name and what is newest, in words; edits make the one the other."""

    name: str
    pinned: str
    newest: str
    edits: tuple[Edit, ...] = ()
    note: str = ""


Lookup = Callable[[], Finding]


def update(root: Path, *, check: bool, console: Console, settings: Settings = LOOK) -> None:
    """As `main`, of the checkout root."""
    table = Table("pin", "pinned", "newest", "note")
    failed: dict[str, str] = {}
    newer = []
    for name, lookup in lookups(root, settings):
        try:
            finding = lookup()
        except HarnessError as error:
            failed[name] = error.message
            table.add_row(name, "", "not known", "could not be asked")
            continue
        if finding.edits:
            newer.append(name)
        table.add_row(name, finding.pinned, finding.newest, finding.note)
        if not check:
            _apply(finding.edits)
    console.print(table)
    for name, reason in failed.items():
        console.print(f"{name}: {reason}", markup=False)
    if failed:
        raise HarnessError(
            f"{len(failed)} of {table.row_count} sources could not be asked: {', '.join(failed)}",
            hint="check the network and the addresses in scripts/pins/updates.toml and "
            f"{thirdparty.PINS}; the others have been dealt with",
        )
    if check and newer:
        raise HarnessError(
            f"{len(newer)} of {table.row_count} pins are not the newest: {', '.join(newer)}",
            hint="./nox -s update-pins renews them",
        )


def lookups(root: Path, settings: Settings = LOOK) -> Iterator[tuple[str, Lookup]]:
    """What is looked up for the checkout root: a name, and the function that does it."""
    sources = tomllib.loads((root / "scripts/pins/updates.toml").read_text())
    ask = _Asking(root, settings)
    yield "mkosi", partial(ask.mkosi, **sources["mkosi"])
    yield "Amazon Linux", partial(ask.amazonlinux, **sources["amazonlinux"])
    for pin in thirdparty.read_pins(root / thirdparty.PINS):
        yield pin.name, partial(ask.third_party, pin)
    yield "base image", partial(ask.base_image, **sources["base-image"])
    for name, source in sources["source-rpms"].items():
        yield name, partial(ask.source_rpm, name, **source)
    for name, source in sources["amazon-source-rpms"].items():
        yield name, partial(ask.amazon_source_rpm, name, **source, **sources["amazonlinux"])


class _Asking:
    """The lookups for one checkout."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root = root
        self.settings = settings

    def mkosi(self, *, releases: str, url: str) -> Finding:
        file = self.root / "mkosi/pin.toml"
        pinned = MkosiPin.read(file).version
        newest = self._newest_release(releases)
        if not _is_newer(newest, pinned):
            return Finding("mkosi", pinned, newest)
        address = url.format(version=newest)
        edits = (
            Edit(file, "version", newest),
            Edit(file, "upstream.url", address),
            Edit(file, "upstream.sha256", self._digest_of(address)),
        )
        return Finding("mkosi", pinned, newest, edits, COMPUTED)

    def amazonlinux(self, *, cdn: str) -> Finding:
        pinned = places.release_of(self.root, DISTRIBUTIONS["amazonlinux"])
        newest = releases.newest(cdn)
        if not _is_newer(newest, pinned):
            return Finding("Amazon Linux", pinned, newest)
        edits = (
            Edit(self.root / "mkosi.conf.d/amazonlinux.conf", "Release", newest),
            Edit(self.root / "scripts/distributions/amazonlinux.toml", "amazonlinux", newest),
        )
        return Finding("Amazon Linux", pinned, newest, edits)

    def third_party(self, pin: Pin) -> Finding:
        newest = self._newest_release(pin.releases)
        version = newest if _is_newer(newest, pin.version) else pin.version
        published = self._published(pin, version)
        file = self.root / thirdparty.PINS
        edits = [Edit(file, f"{pin.name}.version", version)] if version != pin.version else []
        for arch, digest in published.items():
            known = pin.sha256.get(arch)
            if version == pin.version and known and known != digest:
                raise HarnessError(
                    f"{pin.name} {version} is not what it was: the sha256 that is published of it "
                    f"for {arch} is {digest}, pinned is {known}"
                )
            if known != digest:
                edits.append(Edit(file, f"{pin.name}.sha256.{arch}", digest))
        if version == pin.version and edits:
            return Finding(pin.name, "no digest", version, tuple(edits))
        note = COMPUTED if edits and not pin.checksums else ""
        return Finding(pin.name, pin.version, version, tuple(edits), note)

    def _published(self, pin: Pin, version: str) -> dict[str, str]:
        """The sha256 by architecture of a version of pin.

        Without its publisher's checksums nothing is said of the version that is pinned already.
        """
        every = {arch.name: arch for arch in ARCHES}
        arches = {NOARCH: X86_64} if NOARCH in pin.sha256 else every
        files = {name: thirdparty.fill(pin.url, version, arch) for name, arch in arches.items()}
        if pin.checksums:
            url = thirdparty.fill(pin.checksums, version, X86_64)
            listed = checksums(self._text(url))
            return {arch: _listed(listed, address, url) for arch, address in files.items()}
        return {
            arch: self._digest_of(address)
            for arch, address in files.items()
            if version != pin.version or not pin.sha256.get(arch)
        }

    def base_image(self, *, manifest: str, file: str, table: str) -> Finding:
        path = self.root / file
        tag, pinned = (str(_value(path, f"{table}.{key}")) for key in ("tag", "digest"))
        newest = registry.digest(manifest.format(tag=tag), settings=self.settings)
        edits = () if newest == pinned else (Edit(path, f"{table}.digest", newest),)
        return Finding("base image", f"{tag} {_short(pinned)}", f"{tag} {_short(newest)}", edits)

    def source_rpm(
        self, name: str, *, repository: str, folder: str, only: str, file: str, key: str
    ) -> Finding:
        path = self.root / file
        pinned = str(_value(path, key))
        url, listing = self._first_text(
            [f"{base.rstrip('/')}/{folder}" for base in _urls(_value(path, repository))]
        )
        pattern = re.compile(rf"{re.escape(name)}-[\w.~^+]+-[\w.~^+]+?(?=\.src\.rpm)", re.ASCII)
        found = sorted({*pattern.findall(listing)}, key=_order)
        wanted = [nevra for nevra in found if nevra.startswith(f"{name}-{only}-")]
        if not wanted:
            raise HarnessError(f"{url} has no source RPM of {name} {only}")
        newest = wanted[-1]
        edits = (Edit(path, key, newest),) if _is_newer(newest, pinned) else ()
        note = f"{found[-1]} is there too, but {only} is wanted" if found[-1] != newest else ""
        return Finding(name, pinned, newest, edits, note)

    def amazon_source_rpm(self, name: str, *, cdn: str, file: str, key: str) -> Finding:
        path = self.root / file
        pinned = str(_value(path, key))
        release = max(
            releases.newest(cdn),
            places.release_of(self.root, DISTRIBUTIONS["amazonlinux"]),
            key=_order,
        )
        listed = self._text(f"{cdn}/core/mirrors/{release}/SRPMS/mirror.list").split()
        if not listed:
            raise HarnessError(f"the list of mirrors of {release} is empty")
        found = [nevra for nevra in self._source_rpms(listed[0]) if nevra.rsplit("-", 2)[0] == name]
        if not found:
            raise HarnessError(f"{listed[0]} has no source RPM of {name}")
        newest = max(found, key=_order)
        edits = () if newest == pinned else (Edit(path, key, newest),)
        return Finding(name, pinned, newest, edits, f"of Amazon Linux {release}")

    def _source_rpms(self, repository: str) -> list[str]:
        """The source RPMs in the metadata of a repository, as name-version-release.

        The format: https://createrepo.baseurl.org. Raises HarnessError for what has another.
        """
        base = repository.rstrip("/")
        try:
            repomd = ElementTree.fromstring(self._text(f"{base}/repodata/repomd.xml"))
            data = next(
                each for each in repomd.iter(f"{REPO}data") if each.get("type") == "primary"
            )
            location = data.find(f"{REPO}location")
            address = "" if location is None else location.get("href", "")
            packed = read(f"{base}/{address}", settings=self.settings)
            primary = ElementTree.fromstring(gzip.decompress(packed))
        except (ParseError, DefusedXmlException, StopIteration, OSError, EOFError) as error:
            raise HarnessError(f"{base} has no metadata that can be read: {error!r}") from error
        return [
            f"{package.findtext(f'{COMMON}name')}-{version.get('ver')}-{version.get('rel')}"
            for package in primary.iter(f"{COMMON}package")
            if (version := package.find(f"{COMMON}version")) is not None
        ]

    def _newest_release(self, url: str) -> str:
        """The newest version that GitHub's API names at url, of a release or among all tags."""
        text = self._text(url)
        try:
            data = json.loads(text)
            tags = [tag["name"] for tag in data] if isinstance(data, list) else [data["tag_name"]]
        except (ValueError, KeyError, TypeError) as error:
            raise HarnessError(f"{url} does not say what is newest: {error!r}") from error
        versions = [match[1] for tag in tags if (match := TAG.fullmatch(str(tag)))]
        if not versions:
            raise HarnessError(f"{url} names no version, but {', '.join(map(str, tags))}")
        return max(versions, key=_order)

    def _first_text(self, urls: Sequence[str]) -> tuple[str, str]:
        """The first of urls that answers, and what it says. Raises HarnessError where none does."""
        failures = []
        for url in urls:
            try:
                return url, self._text(url)
            except HarnessError as error:
                failures.append(error.message)
        raise HarnessError(f"no repository answers: {'; '.join(failures)}")

    def _text(self, url: str) -> str:
        return read(url, settings=self.settings).decode(errors="replace")

    def _digest_of(self, url: str) -> str:
        return hashlib.sha256(read(url, settings=self.settings)).hexdigest()


def checksums(text: str) -> dict[str, str]:
    """The sha256 by file name in text, which has the form that sha256sum writes."""
    pairs = (line.split(maxsplit=1) for line in text.splitlines())
    return {
        pair[1].lstrip("*").strip(): pair[0].lower()
        for pair in pairs
        if len(pair) == 2 and SHA256.fullmatch(pair[0].lower())
    }


def _listed(listed: Mapping[str, str], address: str, url: str) -> str:
    name = address.rpartition("/")[2]
    if name not in listed:
        raise HarnessError(f"{url} has no sha256 of {name}")
    return listed[name]


def _is_newer(candidate: str, than: str) -> bool:
    return _order(candidate) > _order(than)


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _short(digest: str) -> str:
    """A digest as people compare it: its algorithm and first twelve digits."""
    return digest[: digest.find(":") + 13] or "none"


def _value(file: Path, key: str) -> Any:
    try:
        value: Any = tomllib.loads(file.read_text())
        for part in key.split("."):
            value = value[part]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise HarnessError(f"{file} has no {key}: {error!r}") from error
    return value


def _urls(baseurl: Any) -> list[str]:
    """The URLs of a repository, of which dnf takes one or a list (baseurl in dnf.conf(5))."""
    return [baseurl] if isinstance(baseurl, str) else list(baseurl)


def _apply(edits: Sequence[Edit]) -> None:
    for edit in edits:
        text = edit.file.read_text()
        is_toml = edit.file.suffix == ".toml"
        write_text(edit.file, _edited_toml(text, edit) if is_toml else _edited_conf(text, edit))


def _edited_toml(text: str, edit: Edit) -> str:
    document = tomlkit.parse(text)
    *tables, last = edit.key.split(".")
    table: Any = document
    for name in tables:
        table = table[name]
    if isinstance(table.get(last), list):
        table[last].append(edit.value)
    else:
        table[last] = edit.value
    return tomlkit.dumps(document)


def _edited_conf(text: str, edit: Edit) -> str:
    pattern = re.compile(rf"^{re.escape(edit.key)}=.*$", re.MULTILINE)
    return pattern.sub(lambda _: f"{edit.key}={edit.value}", text, count=1)
