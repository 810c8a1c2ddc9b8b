"""Records: the description of a finished stage, kept beside its output."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from scripts import catalog
from scripts.stages import inputs, plan
from scripts.stages.artifacts import Artifact
from scripts.stages.inputs import Input, Kind
from scripts.stages.plan import Stage
from scripts.system import strict
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError

NAME = "stage.json"

# Name, version and architecture of a package.
PackageKey = tuple[str, str, str]

# A word of a package: dpkg and rpm allow nothing but printable ASCII in it, and no blanks.
WORD = re.compile(r"[!-~]{1,500}")


@dataclass(frozen=True)
class Package:
    """A package in an image, in the words of its package manager.

    sha256 is that of the file it was installed from. It is "" for an entry that was no file, such
    as a key that rpm lists as gpg-pubkey, and in records of older versions. repository is the one
    that it came from, "" for the distribution's main one. Raises ValueError for
    words that no package manager uses: empty ones, and those with blanks or unprintable characters,
    which could affect a terminal or file that lists the package.
    """

    name: str
    version: str
    architecture: str
    sha256: str = ""
    repository: str = ""

    @property
    def key(self) -> PackageKey:
        """The package's identity: name, version without epoch 0, architecture."""
        return self.name, self.version.removeprefix("0:"), self.architecture

    def to_json(self) -> dict[str, str]:
        """Return what stage.json and manifest.json hold about the package."""
        optional = {"sha256", "repository"}
        return {
            name: value for name, value in asdict(self).items() if name not in optional or value
        }

    def __post_init__(self) -> None:
        # rpm lists the keys that it trusts as packages without an architecture.
        own = tuple(word for word in (self.architecture, self.repository) if word != "")
        for word in (self.name, self.version, *own):
            if not WORD.fullmatch(word):  # a TypeError if it is not even a string
                raise ValueError(f"{word!r} is not the name, version or architecture of a package")


@dataclass(frozen=True)
class Record:
    """How a stage was last built.

    key and inputs are those of `plan.Stage`. seconds is how long the build took. artifacts went to
    out/, and packages are the ones in the image. digest names this very build, because the same key
    can be built again and come out differently. built_from has the digests of the stages that were
    built upon, by name.
    """

    key: str
    inputs: tuple[Input, ...]
    seconds: float
    artifacts: tuple[Artifact, ...]
    packages: tuple[Package, ...]
    digest: str = ""
    built_from: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        stage: Stage,
        seconds: float,
        artifacts: Iterable[Artifact],
        packages: Iterable[Package],
        built_from: Mapping[str, str],
    ) -> Record:
        """Return the record of a stage that has just been built, with a digest of its own."""
        made = cls(
            stage.key, stage.inputs, seconds, tuple(artifacts), tuple(packages), "", built_from
        )
        return replace(made, digest=text_digest(f"{made.to_json()} {time.time_ns()}"))

    def to_json(self) -> str:
        """Return what stage.json holds."""
        data = asdict(self) | {
            "inputs": inputs.to_labels(self.inputs),
            "packages": [package.to_json() for package in self.packages],
        }
        return json.dumps(data, indent=1)

    def write(self, folder: Path) -> None:
        """Write the record to stage.json in folder."""
        (folder / NAME).write_text(self.to_json())

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """Return the record in folder, or None if there is none that this version can read."""
        try:
            data = strict.loads((folder / NAME).read_text())
            return cls(
                key=data["key"],
                inputs=inputs.from_labels(data["inputs"]),
                seconds=data["seconds"],
                artifacts=tuple(Artifact(**entry) for entry in data["artifacts"]),
                packages=tuple(Package(**entry) for entry in data["packages"]),
                digest=data["digest"],
                built_from=dict(data["built_from"]),
            )
        except (OSError, *strict.ODDITIES):
            return None


def why_due(stage: Stage, kept: Path, out: Path, *, forced: bool) -> str:
    """Why stage must be built ("" if it is up to date).

    kept is the folder with its record, out the one with its artifacts. forced tells whether the
    user wants it built even if it is up to date.
    """
    record = Record.read(kept)
    if not record:
        return "not built yet"
    if forced:
        return catalog.flag("force")
    if record.key != stage.key:
        return inputs.difference(record.inputs, stage.inputs)
    changed = [made.name for made in record.artifacts if not made.stands_in(out)]
    return f"{changed[0]} is gone or was written to" if changed else ""


def why_dependent(
    record: Record, needs: Iterable[str], records: Mapping[str, Record], due: Container[str]
) -> str:
    """Why the stage with record must be built because of a stage that it needs ("" if it need not).

    records are those of finished stages by name, and due the names of stages that will be built.
    """
    for need in needs:
        if need in due:
            return f"{need} is built again"
        if not _is_built_from(record, need, records):
            return f"{need} was built again"
    return ""


def _is_built_from(record: Record, need: str, records: Mapping[str, Record]) -> bool:
    """Whether the stage with record was built from the stage called need that records have."""
    return need in records and record.built_from.get(need) == records[need].digest


def outdated(root: Path, name: str, records: Mapping[str, Record]) -> Iterator[tuple[str, str]]:
    """Yield the stages that were made from something that is no longer kept.

    Looks at the image called name and at everything that it depends on. Each stage comes with the
    name of the dependency that has been rebuilt since. root is the folder of mkosi.conf.
    """
    for need in plan.dependencies(root, name):
        if _is_built_from(records[name], need, records):
            yield from outdated(root, need, records)
        else:
            yield name, need


def packages_of(
    manifest: Path,
    installed: Mapping[PackageKey, str],
    own: Iterable[Input] = (),
    below: Iterable[Record] = (),
    elsewhere: Mapping[PackageKey, str] = MappingProxyType({}),
) -> tuple[Package, ...]:
    """Return the packages in the manifest that mkosi wrote; none if it wrote no manifest.

    installed has the sha256 of what the distribution offered. own are the inputs of the stage: the
    RPMs among them come before the distribution's. below are the records of the stages that it was
    made from: what it has from them was not installed again. elsewhere has the repository of each
    package that the distribution's main one did not offer.

    Raises HarnessError if the manifest is damaged, or has a package with an impossible name.
    """
    try:
        listed = strict.loads(manifest.read_text()).get("packages", [])
        packages = [Package(p["name"], p["version"], p["architecture"]) for p in listed]
    except FileNotFoundError:
        return ()
    except strict.ODDITIES as error:
        raise HarnessError(f"{manifest} is not a manifest of mkosi: {error!r}") from error
    rpms = inputs.digests(own, Kind.RPM)
    inherited = {one.key: one for record in below for one in record.packages}

    def completed(package: Package) -> Package:
        if known := inherited.get(package.key):
            return replace(package, sha256=known.sha256, repository=known.repository)
        if own_digest := rpms.get(rpm_name(*package.key)):
            return replace(package, sha256=own_digest)
        key = package.key
        return replace(package, sha256=installed.get(key, ""), repository=elsewhere.get(key, ""))

    return tuple(map(completed, packages))


def rpm_name(name: str, version: str, architecture: str) -> str:
    """Return the name of the RPM that a package came from, which lacks the version's epoch."""
    return f"{name}-{version.rpartition(':')[2]}.{architecture}.rpm"
