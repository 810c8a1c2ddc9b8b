"""Records: the description of a finished stage, kept beside its output."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts import catalog
from scripts.stages import inputs, plan
from scripts.stages.artifacts import Artifact
from scripts.stages.inputs import Input, Kind
from scripts.stages.plan import Stage
from scripts.system import strict
from scripts.system.errors import HarnessError

NAME = "stage.json"

# A word of a package: dpkg and rpm allow nothing but printable ASCII in it, and no blanks.
WORD = re.compile(r"[!-~]{1,500}")


@dataclass(frozen=True)
class Package:
    """A package in an image, in the words of its package manager.

    Raises ValueError for words that no package manager has: empty ones, and those with blanks or
    characters that cannot be printed, which would act in whatever lists the package.
    """

    name: str
    version: str
    architecture: str

    def __post_init__(self) -> None:
        # rpm lists the keys that it trusts as packages without an architecture.
        own = () if self.architecture == "" else (self.architecture,)
        for word in (self.name, self.version, *own):
            if not WORD.fullmatch(word):  # a TypeError if it is not even a string
                raise ValueError(f"{word!r} is not the name, version or architecture of a package")


@dataclass(frozen=True)
class Record:
    """How a stage was last built.

    key and inputs are those of `plan.Stage`. seconds is how long the build took. artifacts went to
    out/, and packages are the ones in the image.
    """

    key: str
    inputs: tuple[Input, ...]
    seconds: float
    artifacts: tuple[Artifact, ...]
    packages: tuple[Package, ...]

    def write(self, folder: Path) -> None:
        """Write the record to stage.json in folder."""
        data = asdict(self) | {"inputs": inputs.to_labels(self.inputs)}
        (folder / NAME).write_text(json.dumps(data, indent=1))

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


def outdated(root: Path, name: str, records: Mapping[str, Record]) -> Iterator[tuple[str, str]]:
    """Yield the stages that were made from something that is no longer kept.

    Looks at the image called name and at everything that it depends on. Each stage comes with the
    name of the dependency that has been rebuilt since. root is the folder of mkosi.conf.
    """
    for need in plan.dependencies(root, name):
        made_from = inputs.digests(records[name].inputs, Kind.STAGE)
        if need in records and made_from.get(need) == records[need].key:
            yield from outdated(root, need, records)
        else:
            yield name, need


def packages_of(manifest: Path) -> tuple[Package, ...]:
    """Return the packages in the manifest that mkosi wrote; none if it wrote no manifest.

    Raises HarnessError if it is damaged, or names a package as no package can be called.
    """
    try:
        listed = strict.loads(manifest.read_text()).get("packages", [])
        return tuple(Package(p["name"], p["version"], p["architecture"]) for p in listed)
    except FileNotFoundError:
        return ()
    except strict.ODDITIES as error:
        raise HarnessError(f"{manifest} is not a manifest of mkosi: {error!r}") from error
