"""Stages: the images mkosi builds, in which order, and which of them are out of date.

mkosi itself walks every image of an invocation. Here each image of
mkosi.images/ is a stage with a key, the hash of all that decides its output; a
stage whose key stands beside its finished output is not built again.
"""

from __future__ import annotations

import configparser
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts.arch import Arch
from scripts.system.digests import describe, describe_tree, text_digest
from scripts.system.errors import UsageError

# The stage that all others are built with, though none stands on it: what is built natively,
# whatever the others are built for.
TOOLS_TREE = "tools-tree"

# What mkosi reads for every image, beside the image's own folder; the local ones are a user's own.
ROOT_FILES = ("mkosi.conf", "mkosi.local.conf")
ROOT_FOLDERS = ("mkosi.conf.d", "mkosi.local", "mkosi.profiles")

# A value of [Match] that names one thing; "!" negates one and "|" makes it one of several.
NAME = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True)
class Target:
    """What a build is for.

    values are further things that decide every stage's output, such as the
    package sources and mkosi's digest, by name; of_stage has those that
    decide one stage only, by the name of the stage.
    """

    distribution: str
    arch: Arch
    values: Mapping[str, str]
    of_stage: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """An image of mkosi.images/ and the stages that it stands on.

    inputs says what decides its output: a short description by the name of the
    file, setting or stage. key is the hash over them. installs says whether
    packages are installed into it, for which the repositories must be asked.
    """

    name: str
    needs: tuple[str, ...]
    inputs: Mapping[str, str]
    installs: bool = True

    @property
    def key(self) -> str:
        """The sha256 over inputs."""
        return text_digest(json.dumps(self.inputs, sort_keys=True))


def plan(root: Path, wanted: Iterable[str], target: Target) -> list[Stage]:
    """The stages that wanted comes to, each after those that it needs.

    root is the folder of mkosi.conf. Raises UsageError for an image that is not
    in mkosi.images/ and for one that needs itself.
    """
    stages: dict[str, Stage] = {}

    def add(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise UsageError(f"mkosi.images/{name} depends on itself: {' → '.join((*path, name))}")
        if name in stages:
            return
        needs = dependencies(root, name)
        for need in needs:
            add(need, (*path, name))
        inputs = _inputs(root, name, target) | {f"stage {n}": stages[n].key for n in needs}
        stages[name] = Stage(name, needs, inputs, _installs(root, name))

    for name in wanted:
        add(name, ())
    return list(stages.values())


def dependencies(root: Path, name: str) -> tuple[str, ...]:
    """What the image name stands on: its Dependencies=."""
    folder = root / "mkosi.images" / name
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in folder.parent.iterdir()))
        raise UsageError(f"there is no image {name!r}", hint=f"mkosi.images/ holds {known}")
    found: list[str] = []
    for conf in _confs(folder):
        found += conf.get("Config", {}).get("Dependencies", "").replace(",", " ").split()
    return tuple(found)


def _installs(root: Path, name: str) -> bool:
    """Whether the image name installs packages, for any target."""
    return any(
        "Packages" in conf.get("Content", {}) for conf in _confs(root / "mkosi.images" / name)
    )


def _confs(folder: Path) -> Iterator[dict[str, dict[str, str]]]:
    """The configuration files of the image whose folder this is."""
    for path in (folder / "mkosi.conf", *sorted((folder / "mkosi.conf.d").glob("*.conf"))):
        yield read_conf(path)


def read_conf(path: Path) -> dict[str, dict[str, str]]:
    """A mkosi configuration file as sections of settings ({} where there is none).

    Of a setting that stands several times in a section only the last is kept.
    Raises UsageError for what is no configuration file.
    """
    parser = configparser.ConfigParser(
        delimiters=("=",), comment_prefixes=("#",), interpolation=None, strict=False
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read(path)
    except configparser.Error as error:
        raise UsageError(f"{path} is no mkosi configuration: {error.message}") from error
    return {name: dict(parser[name]) for name in parser.sections()}


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In words, what differs between the inputs of a stage as it was built and as it is."""
    changed = [name for name in now if before.get(name) != now[name]]
    changed += [name for name in before if name not in now]
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]} changed{more}" if changed else "its key changed"


def of_tree(inputs: Mapping[str, str]) -> dict[str, str]:
    """Those inputs of a stage that are files of the checkout, and so the same on every machine."""
    return {name: text for name, text in inputs.items() if name.startswith("mkosi.")}


def _inputs(root: Path, name: str, target: Target) -> dict[str, str]:
    inputs = {
        "distribution": target.distribution,
        "architecture": target.arch.name,
        **target.values,
        **target.of_stage.get(name, {}),
    }
    image = f"mkosi.images/{name}"
    files = {file: describe(root / file) for file in ROOT_FILES if (root / file).exists()}
    for folder in (*ROOT_FOLDERS, image):
        files |= {f"{folder}/{path}": text for path, text in describe_tree(root / folder).items()}
    return inputs | {path: text for path, text in files.items() if _concerns(root / path, target)}


def _concerns(path: Path, target: Target) -> bool:
    """Whether a file can matter to target: no README, no drop-in for another distribution."""
    if path.name == "README.md" and path.parent.name == "mkosi.conf.d":
        return False
    if path.suffix != ".conf" or path.parent.name != "mkosi.conf.d":
        return True
    match = read_conf(path).get("Match", {})
    facts = {"Distribution": target.distribution, "Architecture": target.arch.mkosi}
    wanted = {name: match.get(name, fact) for name, fact in facts.items()}
    return all(wanted[name] == facts[name] or not NAME.fullmatch(wanted[name]) for name in facts)
