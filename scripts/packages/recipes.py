"""packages.toml: which packages are ours, from which source RPMs, built in which image."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.options import BASE_IMAGE, Options
from scripts.system.errors import UsageError

# The folder of the Dockerfile, in the checkout.
FOLDER = "al2023-package-build"

# The source whose mirror, release and key are those of the images.
AMAZON = "amazonlinux"
AMAZON_KEY = "keys/RPM-GPG-KEY-amazon-linux-2023"
# A server that stalls is given up as by mkosi's dnf (scripts/distributions/debian.py). Whatever the
# image's dnf.conf says, none that does not answer is passed over.
PATIENCE = "retries=3\ntimeout=15\nminrate=1000\nskip_if_unavailable=0\n"

# What may be added to a release: sed puts it there, and rpm compares it.
SUFFIX = re.compile(r"[A-Za-z0-9.]+")

# A stage of the Dockerfile that has a name; all but BUILDER build the package of that name.
STAGE = re.compile(r"^FROM\s.*\sAS\s+(\S+)", re.MULTILINE | re.IGNORECASE)
BUILDER = "builder"


@dataclass(frozen=True)
class Source:
    """Where source RPMs come from: dnf's option that says so, and the key they are signed with.

    Of several urls each that fails leaves it to the next.
    """

    option: str
    urls: tuple[str, ...]
    key: Path

    def repository(self, name: str, *, check: bool) -> str:
        """A dnf repository (dnf.conf(5)) of that name; check: its RPMs' signatures."""
        gpg = "gpgcheck=1\ngpgkey=file:///build/repositories/key\n" if check else "gpgcheck=0\n"
        return f"[{name}]\nname={name}\n{self.option}={' '.join(self.urls)}\n{gpg}{PATIENCE}\n"


@dataclass(frozen=True)
class Recipe:
    """A package that is built: from which source RPM, changed how, and what of it is wanted."""

    name: str
    source: str
    nevra: str
    patches: tuple[Path, ...]
    suffix: str
    rpms: tuple[str, ...]


@dataclass(frozen=True)
class Pins:
    """What packages.toml says. image is what packages are built in, digest its digest or ""."""

    image: str
    digest: str
    sources: Mapping[str, Source]
    recipes: tuple[Recipe, ...]

    @property
    def reference(self) -> str:
        """The image, by its digest where that is known."""
        return f"{self.image}@{self.digest}" if self.digest else self.image


def read(path: Path) -> Pins:
    """The pins in the file at path, whose folder the paths in it start from. Raises UsageError."""
    try:
        data = tomllib.loads(path.read_text())
        image = _Table(path, BASE_IMAGE, data[BASE_IMAGE])
        tag = image.text("tag") if "tag" in image.values else ""
        pins = Pins(
            image=f"{image.text('name')}:{tag}" if tag else image.text("name"),
            digest=image.text("digest"),
            sources={
                name: _source(_Table(path, f"source.{name}", table))
                for name, table in data.get("source", {}).items()
            },
            recipes=tuple(
                _recipe(name, _Table(path, f"package.{name}", table))
                for name, table in data["package"].items()
            ),
        )
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is not complete: {error}", hint=f"{FOLDER}/packages.toml has all there is"
        ) from None
    for recipe in pins.recipes:
        if recipe.source not in (AMAZON, *pins.sources):
            raise UsageError(f"{path}: {recipe.name} has the unknown source {recipe.source!r}")
    return pins


@dataclass(frozen=True)
class _Table:
    """A table of the pins at path, its values yet to be looked at."""

    path: Path
    name: str
    values: Mapping[str, Any]

    def text(self, key: str) -> str:
        """The string of that key. Raises KeyError, and UsageError where it is something else."""
        value = self.values[key]
        if not isinstance(value, str):
            raise UsageError(f"{self.path}: {key} of {self.name} is no string")
        return value

    def one_or_more(self, key: str) -> tuple[str, ...]:
        """As `texts`, where a single string may stand for a list of it."""
        return (self.text(key),) if isinstance(self.values[key], str) else self.texts(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """As `text`, of a list of strings."""
        values = self.values[key]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise UsageError(f"{self.path}: {key} of {self.name} is no list of strings")
        return tuple(values)


def _source(table: _Table) -> Source:
    return Source("baseurl", table.one_or_more("baseurl"), table.path.parent / table.text("key"))


def _recipe(name: str, table: _Table) -> Recipe:
    suffix = table.text("suffix")
    if not SUFFIX.fullmatch(suffix):
        raise UsageError(
            f"{table.path}: {suffix!r}, the suffix of {table.name}, is not made of letters, digits "
            "and dots"
        )
    return Recipe(
        name=name,
        source=table.text("source"),
        nevra=table.text("nevra"),
        patches=tuple(table.path.parent / patch for patch in table.texts("patches")),
        suffix=suffix,
        rpms=table.texts("rpms"),
    )


def check_stages(pins: Pins, opts: Options) -> None:
    """Raise UsageError where the packages of pins are not those that the Dockerfile builds."""
    text = (opts.folders.root / FOLDER / "Dockerfile").read_text()
    builds = sorted({*STAGE.findall(text)} - {BUILDER})
    names = sorted(recipe.name for recipe in pins.recipes)
    if names != builds:
        raise UsageError(
            f"{opts.packages.recipes} has the packages {', '.join(names) or '(none)'}, but what is "
            f"built is {', '.join(builds)}",
            hint=f"each takes a stage of its name in {FOLDER}/Dockerfile",
        )
