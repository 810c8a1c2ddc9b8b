"""Plans a build: which stages it has, in which order, and the key of each.

Each image in mkosi.images/ is a stage. mkosi itself builds every image of an invocation, whether or
not anything has changed. So each stage has a key, a hash over everything that decides its output,
and a stage that was finished with the same key is not built again.
"""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts import catalog
from scripts.arch import Arch
from scripts.stages import configuration
from scripts.stages.configuration import IMAGES, File
from scripts.stages.inputs import Input, Kind, to_labels
from scripts.system.digests import text_digest
from scripts.system.errors import UsageError

# A value in [Match] that names one thing; "!" negates a value and "|" makes it an alternative.
NAME = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True)
class StageTarget:
    """What the stages of a build are for.

    distribution is mkosi's name of it. values are further settings that decide the output of every
    stage, such as the release and mkosi's digest, by name. of_stage has the inputs that decide the
    output of one stage only, by the name of the stage.
    """

    distribution: str
    arch: Arch
    values: Mapping[str, str]
    of_stage: Mapping[str, Sequence[Input]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """An image in mkosi.images/, and the stages that it depends on.

    inputs are what decides its output, each with a label of its own. installs tells whether
    packages are installed into it, which takes up-to-date metadata of the repositories.
    """

    name: str
    needs: tuple[str, ...]
    inputs: tuple[Input, ...]
    installs: bool = True

    @property
    def key(self) -> str:
        """The sha256 over the inputs, in whatever order they are."""
        return text_digest(json.dumps(to_labels(self.inputs), sort_keys=True))


def plan(root: Path, wanted: Iterable[str], target: StageTarget) -> list[Stage]:
    """Return the wanted stages and all their dependencies, each after its dependencies.

    root is the folder of mkosi.conf. Raises UsageError if an image is not in mkosi.images/ or
    depends on itself, or as `configuration.read` does.
    """
    stages: dict[str, Stage] = {}
    files = configuration.read(root)

    def add(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise UsageError(f"mkosi.images/{name} depends on itself: {' → '.join((*path, name))}")
        if name in stages:
            return
        needs = dependencies(root, name)
        for need in needs:
            add(need, (*path, name))
        below = [Input(Kind.STAGE, need, stages[need].key) for need in needs]
        inputs = (*_inputs(files, name, target), *below)
        stages[name] = Stage(name, needs, inputs, _installs(root, name))

    for name in wanted:
        add(name, ())
    return list(stages.values())


def dependencies(root: Path, name: str) -> tuple[str, ...]:
    """Return the Dependencies= of an image. Raises UsageError if there is no such image."""
    folder = root / "mkosi.images" / name
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in folder.parent.iterdir()))
        raise UsageError(f"there is no image {name!r}", hint=f"mkosi.images/ has {known}")
    found: list[str] = []
    for conf in _confs(folder):
        found += conf.get("Config", {}).get("Dependencies", "").replace(",", " ").split()
    return tuple(found)


def _installs(root: Path, name: str) -> bool:
    """Whether the image installs packages, for any target."""
    return any(
        "Packages" in conf.get("Content", {}) for conf in _confs(root / "mkosi.images" / name)
    )


def _confs(folder: Path) -> Iterator[dict[str, dict[str, str]]]:
    """Read the configuration files in an image's folder."""
    for path in (folder / "mkosi.conf", *sorted((folder / "mkosi.conf.d").glob("*.conf"))):
        yield read_conf(path)


def read_conf(path: Path) -> dict[str, dict[str, str]]:
    """Read a mkosi configuration file as sections of settings; an absent file has none.

    If a section has a setting several times, the last one is kept. Raises UsageError if it is not a
    configuration file.
    """
    parser = configparser.ConfigParser(
        delimiters=("=",), comment_prefixes=("#",), interpolation=None, strict=False
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a mkosi configuration: {error}") from error
    return {name: dict(parser[name]) for name in parser.sections()}


def of_checkout(inputs: Iterable[Input]) -> tuple[Input, ...]:
    """Return those inputs that are files of the checkout, and so the same on every machine."""
    return tuple(one for one in inputs if one.kind is Kind.CONFIGURATION)


def _inputs(files: Iterable[File], name: str, target: StageTarget) -> tuple[Input, ...]:
    """Return the inputs that decide the output of an image, apart from the stages it depends on.

    files are those of the configuration. Files outside mkosi.images/ are inputs of every image.
    """
    settings = {
        "distribution": target.distribution,
        "architecture": target.arch.name,
        **target.values,
    }
    own = f"{IMAGES}/{name}/"
    return (
        *(Input.setting(name, value) for name, value in settings.items()),
        *target.of_stage.get(name, ()),
        *(
            Input(Kind.CONFIGURATION, file.name, file.describe())
            for file in files
            if (file.name.startswith(own) or not file.name.startswith(f"{IMAGES}/"))
            and _concerns(file, target)
        ),
    )


def _concerns(file: File, target: StageTarget) -> bool:
    """Whether a file can matter to target.

    It may be a drop-in for another distribution, or in the tree of one.
    """
    others = {one.mkosi for one in catalog.DISTRIBUTIONS.values()} - {target.distribution}
    if configuration.split(file.name)[0] in map(configuration.tree_of, others):
        return False
    path = file.path
    if path.suffix != ".conf" or path.parent.name != "mkosi.conf.d":
        return True
    match = read_conf(path).get("Match", {})
    facts = {"Distribution": target.distribution, "Architecture": target.arch.mkosi}
    wanted = {name: match.get(name, fact) for name, fact in facts.items()}
    return all(wanted[name] == facts[name] or not NAME.fullmatch(wanted[name]) for name in facts)
