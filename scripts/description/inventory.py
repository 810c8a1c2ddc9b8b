"""The packages installed in the tree of an image, read from its package database."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from debian.deb822 import Deb822

from scripts.mkosi.sandbox import Tools
from scripts.stages.records import Package, PackageKey
from scripts.system import strict
from scripts.system.errors import HarnessError
from scripts.system.process import Arg, CommandError, run

# Where rpm keeps its database: in Amazon Linux 2023, and in Fedora since 36.
RPM_DATABASES = ("var/lib/rpm", "usr/lib/sysimage/rpm")

# The fields that are queried for each package. None of their values has tabs or line breaks.
RPM_FIELDS = (
    "NAME",
    "EPOCH",
    "VERSION",
    "RELEASE",
    "ARCH",
    "LICENSE",
    "SOURCERPM",
    "URL",
    "LONGSIZE",
)

# rpm keeps the keys that it trusts as packages of this name.
RPM_KEY = "gpg-pubkey"

# Characters of a field of os-release that are kept.
FIELD = 200

# How Debian joins the licences of one file.
JOINED = re.compile(r",?\s+(?:and|or)\s+|,\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Installed:
    """An installed package.

    kind is "deb" or "rpm". version is in the database's form, including the epoch. source is the
    name of the source package, or its file name. licences are SPDX expressions if they are known,
    otherwise the database's own words. homepage may be "". size is the installed size in bytes.
    sha256 is that of the package's file, which no database contains ("" if the build did not record
    it). repository is the one it came from, "" for the distribution's main one.
    """

    kind: str
    name: str
    version: str
    architecture: str
    source: str
    licences: tuple[str, ...] = ()
    homepage: str = ""
    size: int = 0
    sha256: str = ""
    repository: str = ""

    @property
    def key(self) -> PackageKey:
        """The package's key in the records of stages."""
        return Package(self.name, self.version, self.architecture).key

    def __post_init__(self) -> None:
        """Raise ValueError if a field is one that no package can have."""
        Package(self.name, self.version, self.architecture)


@dataclass(frozen=True)
class System:
    """The distribution of a tree: ID, VERSION_ID and PRETTY_NAME of os-release(5)."""

    id: str
    version: str
    name: str

    @property
    def distro(self) -> str:
        """The value of the distro qualifier in package URLs."""
        return f"{self.id}-{self.version}"


def of_tree(tree: Path, tools: Tools) -> list[Installed]:
    """Return the packages in the root file system at tree, sorted by name.

    rpm is taken from tools. Raises HarnessError if the package database cannot be read or is empty.
    """
    if (tree / "var/lib/dpkg/status").exists():
        found: Iterable[Installed] = _debs(tree)
    else:
        found = _rpms(tree, tools)
    try:
        packages = sorted(
            found, key=lambda package: (package.name, package.version, package.architecture)
        )
    except strict.ODDITIES as error:
        raise HarnessError(f"the package database in {tree} is damaged: {error!r}") from error
    if not packages:
        raise HarnessError(f"no packages are installed in {tree}")
    return packages


def system(tree: Path) -> System:
    """Return the distribution of the root file system at tree.

    Raises HarnessError if it has no os-release.
    """
    try:
        lines = (tree / "usr/lib/os-release").read_text(errors="replace").splitlines()
    except OSError as error:
        raise HarnessError(f"{tree} has no os-release: {error}") from error
    fields = {
        name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)
    }
    return System(
        (fields.get("ID") or "linux")[:FIELD],
        (fields.get("VERSION_ID") or "unknown")[:FIELD],
        fields.get("PRETTY_NAME", "")[:FIELD],
    )


def _debs(tree: Path) -> Iterator[Installed]:
    with (tree / "var/lib/dpkg/status").open(encoding="utf-8", errors="replace") as file:
        for paragraph in Deb822.iter_paragraphs(file, use_apt_pkg=False):
            if paragraph.get("Status", "").split()[-1:] != ["installed"]:
                continue
            name = paragraph["Package"]
            yield Installed(
                kind="deb",
                name=name,
                version=paragraph["Version"],
                architecture=paragraph["Architecture"],
                # "Source: name (version)"; the version is given if it is not the package's own
                source=paragraph.get("Source", name).partition(" ")[0],
                licences=_debian_licences(tree / "usr/share/doc" / name / "copyright"),
                homepage=paragraph.get("Homepage", ""),
                size=int(paragraph.get("Installed-Size", 0)) * 1024,  # deb-substvars(5): in KiB
            )


def _debian_licences(path: Path) -> tuple[str, ...]:
    """Return the licences in a copyright file; none if it is not machine-readable.

    python-debian has a class for these files, but it takes ten times as long.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            [head, *paragraphs] = Deb822.iter_paragraphs(file, use_apt_pkg=False)
    except (OSError, ValueError):
        return ()
    if "Format" not in head:
        return ()
    # The first line is the name of the licence. Its text may follow.
    names = {
        one["License"].partition("\n")[0] for one in paragraphs if {"Files", "License"} <= {*one}
    }
    single = {part.strip() for name in names for part in JOINED.split(name)}
    return tuple(sorted({_spdx().get(name, name) for name in single if name}))


@cache
def _spdx() -> dict[str, str]:
    return tomllib.loads(Path(__file__).with_name("licences.toml").read_text())


def _rpms(tree: Path, tools: Tools) -> Iterator[Installed]:
    database = next((tree / name for name in RPM_DATABASES if (tree / name).is_dir()), None)
    if not database:
        raise HarnessError(f"{tree} has no package database")
    question = "\\t".join(f"%{{{field}}}" for field in RPM_FIELDS) + "\\n"
    query: list[Arg] = ["rpm", "--dbpath", database, "--query", "--all", "--queryformat", question]
    try:
        output = run(tools.command(query, read=[database])).stdout
    except CommandError as error:
        reason = error.output.strip() or error
        raise HarnessError(f"{database} cannot be read: {reason}") from error
    for line in output.splitlines():
        values = ["" if value == "(none)" else value for value in line.split("\t")]
        if len(values) != len(RPM_FIELDS):
            raise HarnessError(f"{database} cannot be read: rpm answered {line!r}")
        if values[0] != RPM_KEY:
            yield _rpm(*values)


def _rpm(
    name: str,
    epoch: str,
    version: str,
    release: str,
    architecture: str,
    licence: str,
    source: str,
    url: str,
    size: str,
) -> Installed:
    """Return the package that has these values of RPM_FIELDS."""
    full = f"{version}-{release}"
    return Installed(
        kind="rpm",
        name=name,
        version=f"{epoch}:{full}" if epoch else full,
        architecture=architecture,
        source=source,
        licences=(licence,) if licence else (),
        homepage=url,
        size=int(size or 0),
    )
