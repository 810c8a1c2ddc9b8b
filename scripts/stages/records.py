"""What is remembered of a finished stage, beside its output."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.stages import plan
from scripts.stages.artifacts import Artifact

NAME = "stage.json"


@dataclass(frozen=True)
class Package:
    """A package in an image, as its package manager names it."""

    name: str
    version: str
    architecture: str


@dataclass(frozen=True)
class Record:
    """How a stage was last built.

    key and inputs are those of `stages.Stage`, seconds the wall time it took.
    artifacts went to out/, packages are those that its image holds.
    """

    key: str
    inputs: Mapping[str, str]
    seconds: float
    artifacts: tuple[Artifact, ...]
    packages: tuple[Package, ...]

    def write(self, folder: Path) -> None:
        """Write the record into folder."""
        (folder / NAME).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record in folder; None where there is none, or one that this version cannot read."""
        try:
            data = json.loads((folder / NAME).read_text())
            return cls(
                key=data["key"],
                inputs=data["inputs"],
                seconds=data["seconds"],
                artifacts=tuple(Artifact(**entry) for entry in data["artifacts"]),
                packages=tuple(Package(**entry) for entry in data["packages"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def outdated(root: Path, name: str, records: Mapping[str, Record]) -> Iterator[tuple[str, str]]:
    """Of the image name and what it stands on: each that stands on something no longer kept.

    It comes with the name of what was built anew since. root is the folder of mkosi.conf.
    """
    for need in plan.dependencies(root, name):
        if need in records and records[name].inputs.get(f"stage {need}") == records[need].key:
            yield from outdated(root, need, records)
        else:
            yield name, need


def packages_of(manifest: Path) -> tuple[Package, ...]:
    """The packages that mkosi's manifest lists (none for an image without a manifest)."""
    try:
        listed = json.loads(manifest.read_text()).get("packages", [])
    except FileNotFoundError:
        return ()
    return tuple(Package(p["name"], p["version"], p["architecture"]) for p in listed)
