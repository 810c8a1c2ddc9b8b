"""Runs what builds of our own packages need: an engine, a registry with the image, and pins."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tomlkit
from tomlkit.items import Table

from scripts.catalog import ROOT
from scripts.options import PACKAGES
from tests.lab import engine, image, repository
from tests.lab.engine import Registry
from tests.lab.repository import FEDORA_KEY_NAME, FEDORA_SOURCES, World


@dataclass(frozen=True)
class Workshop:
    """A running workshop: the engine's environment and programs, the registry, and the pins."""

    environment: Mapping[str, str]
    pins: Path
    registry: Registry
    programs: engine.Programs


@contextlib.contextmanager
def workshop(world: World, url: str) -> Iterator[Workshop]:
    """Run a workshop for as long as the with block lasts; a server must serve world at url.

    Raises MachineError if the machine lacks a program that the workshop needs.
    """
    programs = engine.obtain(world.work)
    made = image.make(world, print)
    with (
        engine.registry(programs, world.work / "registry") as registry,
        engine.engine(programs) as running,
        tempfile.TemporaryDirectory(prefix="lab-") as folder,
    ):
        pins = write_pins(Path(folder), world, url, made.push(registry))
        yield Workshop(running.environment, pins, registry, programs)


def write_pins(folder: Path, world: World, url: str, reference: str) -> Path:
    """Copy the project's own pins to folder, with the lab's addresses, key, image and versions.

    The copy ignores the versions that `update-pins` has found. It pins the lab's version of
    Fedora's packages, and for all others whichever version the release has.
    """
    own = ROOT / PACKAGES
    document = tomlkit.parse(own.read_text())
    name, _, digest = reference.partition("@")
    _table(document, "base-image").update({"name": name, "tag": "", "digest": digest})
    _table(document, "source", "fedora").update(
        {"baseurl": f"{url}/{FEDORA_SOURCES}/", "key": str(world.www / FEDORA_KEY_NAME)}
    )
    nevras = repository.fedora_sources(world)
    for package in _table(document, "package"):
        table = _table(document, "package", package)
        table["patches"] = [str(own.parent / patch) for patch in table["patches"]]
        table["nevra"] = nevras.get(package, package)
    path = folder / "packages.toml"
    path.write_text(tomlkit.dumps(document))
    return path


def _table(document: tomlkit.TOMLDocument, *keys: str) -> Table:
    found: object = document
    for key in keys:
        assert isinstance(found, (tomlkit.TOMLDocument, Table))
        found = found[key]
    assert isinstance(found, Table)
    return found
