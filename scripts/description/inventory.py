"""What is installed in the tree of an image, as its own package database tells it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from debian.deb822 import Deb822

from scripts.mkosi.sandbox import Tools
from scripts.system.errors import HarnessError
from scripts.system.process import Arg, CommandError, run

# Where rpm keeps its database: Amazon Linux 2023, and Fedora since 36.
RPM_DATABASES = ("var/lib/rpm", "usr/lib/sysimage/rpm")

# What is asked of each package; values hold neither tabs nor line ends, but for the summary.
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

# A package in name, where rpm keeps the keys it trusts.
RPM_KEY = "gpg-pubkey"

# Debian joins the licences of one file so.
JOINED = re.compile(r",?\s+(?:and|or)\s+|,\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Installed:
    """A package that is installed.

    kind is "deb" or "rpm"; version as its database writes it, epoch included. source is the name,
    or the file, of its source package. licences are SPDX expressions where they could be told, else
    the database's own words; homepage may be "". size is what it takes when installed, in bytes.
    """

    kind: str
    name: str
    version: str
    architecture: str
    source: str
    licences: tuple[str, ...] = ()
    homepage: str = ""
    size: int = 0


@dataclass(frozen=True)
class System:
    """Which distribution it is: ID, VERSION_ID and PRETTY_NAME of os-release(5)."""

    id: str
    version: str
    name: str

    @property
    def distro(self) -> str:
        """The qualifier of a package URL."""
        return f"{self.id}-{self.version}"


def of_tree(tree: Path, tools: Tools) -> list[Installed]:
    """The packages of the root file system at tree, by name; rpm comes out of tools.

    Raises HarnessError where there is no package database that can be read.
    """
    if (tree / "var/lib/dpkg/status").exists():
        found: Iterable[Installed] = _debs(tree)
    else:
        found = _rpms(tree, tools)
    return sorted(found, key=lambda package: (package.name, package.version, package.architecture))


def system(tree: Path) -> System:
    """Which distribution the root file system at tree is. Raises HarnessError."""
    try:
        lines = (tree / "usr/lib/os-release").read_text().splitlines()
    except OSError as error:
        raise HarnessError(f"{tree} has no os-release: {error}") from error
    fields = {
        name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)
    }
    return System(
        fields.get("ID", "linux"),
        fields.get("VERSION_ID", "unknown"),
        fields.get("PRETTY_NAME", ""),
    )


def _debs(tree: Path) -> Iterator[Installed]:
    with (tree / "var/lib/dpkg/status").open(encoding="utf-8") as file:
        for paragraph in Deb822.iter_paragraphs(file, use_apt_pkg=False):
            if paragraph.get("Status", "").split()[-1:] != ["installed"]:
                continue
            name = paragraph["Package"]
            yield Installed(
                kind="deb",
                name=name,
                version=paragraph["Version"],
                architecture=paragraph["Architecture"],
                # "Source: name (version)", the version where it is not the package's own
                source=paragraph.get("Source", name).partition(" ")[0],
                licences=_debian_licences(tree / "usr/share/doc" / name / "copyright"),
                homepage=paragraph.get("Homepage", ""),
                size=int(paragraph.get("Installed-Size", 0)) * 1024,  # deb-substvars(5): in KiB
            )


def _debian_licences(path: Path) -> tuple[str, ...]:
    """The licences that a machine-readable copyright file names; none of any other.

    python-debian has a class for these files, which takes ten times as long.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            [head, *paragraphs] = Deb822.iter_paragraphs(file, use_apt_pkg=False)
    except (OSError, ValueError):
        return ()
    if "Format" not in head:
        return ()
    # The name stands on the first line, the text, if any, below it.
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
        raise HarnessError(f"{database} cannot be read: {error.output.strip()}") from error
    for line in output.splitlines():
        name, epoch, version, release, architecture, licence, source, url, size = (
            "" if value == "(none)" else value for value in line.split("\t")
        )
        if name == RPM_KEY:
            continue
        full = f"{version}-{release}"
        yield Installed(
            kind="rpm",
            name=name,
            version=f"{epoch}:{full}" if epoch else full,
            architecture=architecture,
            source=source,
            licences=(licence,) if licence else (),
            homepage=url,
            size=int(size or 0),
        )
