"""Finds the files of a published container image that its bill of materials does not account for.

Reads the artifacts alone, as a consumer would, and none of the harness' own code: the image's files
from the layers of its OCI layout, the packages' files from the package database among them.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

DPKG_LISTS = re.compile(r"/var/lib/dpkg/info/([^/:]+)(?::[^/]+)?\.list")
DIVERSIONS = "/var/lib/dpkg/diversions"
RPM_DATABASE = re.compile(r"/(?:var/lib/rpm|usr/lib/sysimage/rpm)/([^/]+)")

# How many links a path may lead through, as for the kernel.
MAX_LINKS = 40


@dataclass
class Contents:
    """What an image holds: files and links by path, and the package databases among them."""

    sha256: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    rpm_database: dict[str, bytes] = field(default_factory=dict)
    diversions: str = ""

    def real(self, path: str) -> str:
        """Return path with the links among its folders followed, as /usr/lib/x for /lib/x."""
        parts = [*PurePosixPath(path).parts[1:]]
        done = PurePosixPath("/")
        for _ in range(MAX_LINKS):
            while len(parts) > 1 and str(done / parts[0]) not in self.links:
                done /= parts.pop(0)
            if len(parts) < 2:
                break
            target = PurePosixPath(self.links[str(done / parts.pop(0))])
            parts = [*(target.parts[1:] if target.is_absolute() else target.parts), *parts]
            if target.is_absolute():
                done = PurePosixPath("/")
            while parts[0] == "..":
                parts.pop(0)
                done = done.parent
        return str(done.joinpath(*parts))


def read(layout: Path) -> Contents:
    """Return what the image in an OCI layout holds."""
    index = json.loads((layout / "index.json").read_text())
    manifest = _blob(layout, index["manifests"][0]["digest"])
    found = Contents()
    for layer in json.loads(manifest.read_text())["layers"]:
        with tarfile.open(_blob(layout, layer["digest"])) as archive:
            for member in archive:
                _add(found, archive, member)
    return found


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _add(found: Contents, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    path = "/" + member.name.removeprefix("./").strip("/")
    if member.issym():
        found.links[path] = member.linkname
    elif member.islnk():
        found.sha256[path] = found.sha256["/" + member.linkname.removeprefix("./")]
    elif member.isfile():
        file = archive.extractfile(member)
        assert file
        data = file.read()
        found.sha256[path] = hashlib.sha256(data).hexdigest()
        if name := DPKG_LISTS.fullmatch(path):
            found.lists[name[1]] = found.lists.get(name[1], "") + data.decode()
        if name := RPM_DATABASE.fullmatch(path):
            found.rpm_database[name[1]] = data
        if path == DIVERSIONS:
            found.diversions = data.decode()


def of_packages(image: Contents) -> dict[str, str]:
    """Return the name of the package that owns each path, of a Debian or an RPM image."""
    owners = {
        image.real(line): name
        for name, text in image.lists.items()
        for line in text.splitlines()
        if line not in ("", "/.")
    }
    lines = image.diversions.splitlines()
    # Three lines each: the path, where the package's file went, and who asked for that.
    for path, aside in zip(lines[::3], lines[1::3], strict=True):
        if image.real(path) in owners:
            owners[image.real(aside)] = owners[image.real(path)]
    return owners | {image.real(path): name for name, path in _rpms(image.rpm_database)}


def _rpms(database: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield the names of packages in an RPM database, each with a path that it owns."""
    if not database:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, data in database.items():
            (Path(folder) / name).write_bytes(data)
        query = ["rpm", "--dbpath", folder, "-qa", "--queryformat", "[%{=NAME}\t%{FILENAMES}\n]"]
        done = subprocess.run(query, check=True, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        name, _, path = line.partition("\t")
        yield name, path


@dataclass(frozen=True)
class Bill:
    """A bill of materials: the names of its packages, and its files with their sha256."""

    packages: frozenset[str]
    files: Mapping[str, str]
    components: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Bill:
        """Return the CycloneDX document at path."""
        listed = json.loads(path.read_text())["components"]
        packages = {one["purl"] for one in listed if one["type"] == "library"}
        files = {one["name"]: one for one in listed if one["type"] == "file"}
        digests = {name: one["hashes"][0]["content"] for name, one in files.items()}
        return cls(frozenset(map(_name, packages)), digests, files)


def _name(purl: str) -> str:
    """The name in a package URL: pkg:deb/debian/NAME@VERSION?…."""
    return unquote(purl.partition("@")[0].rpartition("/")[2])


@dataclass(frozen=True)
class Excuse:
    """Files that no component needs to account for, by a pattern of their paths, and why."""

    pattern: re.Pattern[str]
    why: str


@cache
def exceptions(distribution: str) -> tuple[Excuse, ...]:
    """The entries of ownership.toml for a distribution's images."""
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    return tuple(
        Excuse(re.compile(pattern), why)
        for name in ("every", distribution)
        for why, patterns in tables[name].items()
        for pattern in patterns
    )


def complaints(layout: Path, bill: Path, distribution: str) -> list[str]:
    """Return what is wrong with the bill of materials of the image in an OCI layout.

    Each file must belong to a package that the bill lists, be a component with its digest, or be
    among the exceptions; each exception must be of use.
    """
    image, listed = read(layout), Bill.read(bill)
    owners, excused = of_packages(image), exceptions(distribution)
    wrong, used = [], set()
    for path in sorted({*image.sha256, *image.links}):
        owner = owners.get(image.real(path))
        found = [one for one in excused if one.pattern.fullmatch(path)]
        used |= {one.pattern.pattern for one in found}
        if path in listed.files:
            if image.sha256.get(path) != listed.files[path]:
                wrong.append(f"{path} is another file than the component of that name")
        elif owner and owner not in listed.packages:
            wrong.append(f"{path} belongs to {owner}, which is no component")
        elif not owner and not found:
            wrong.append(f"{path} belongs to no component")
    wrong += [f"{path} is a component, but not in the image" for path in listed.files
              if path not in image.sha256]  # fmt: skip
    unused = [one.pattern.pattern for one in excused if one.pattern.pattern not in used]
    return [*wrong, *(f"no file needs the exception {pattern}" for pattern in unused)]
