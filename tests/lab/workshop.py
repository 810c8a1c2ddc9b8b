"""All that packages of our own are built with: an engine, a registry with the image, and pins."""

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
    """What of it a build has to be told: the environment of the engine, and a file of pins."""

    environment: Mapping[str, str]
    pins: Path
    registry: Registry
    programs: engine.Programs


@contextlib.contextmanager
def workshop(world: World, url: str) -> Iterator[Workshop]:
    """A workshop for as long as the with block lasts; a server shows world at url.

    Raises MachineError where the machine lacks what it is made with.
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
    """Write into folder the project's own pins with the lab's addresses, key, image and versions.

    Of a package that the lab has from Fedora it is the lab's version that is pinned there, of the
    others whichever is in the release, whatever `update-pins` has found meanwhile.
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
