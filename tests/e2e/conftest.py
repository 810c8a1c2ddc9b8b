"""Fixtures of the end-to-end tests: the built image, the tools that built it, and the lab."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import arch
from scripts.boot import Subject
from scripts.build.workshop import Workshop as BuildWorkshop
from scripts.emulation.emulators import TABLE, EmulationTable
from scripts.mkosi.sandbox import Tools
from scripts.options import Options
from scripts.sessions import arguments
from scripts.system.progress import Progress
from tests.lab import eras, world
from tests.lab.eras import Era
from tests.lab.repository import World
from tests.lab.server import LabServer
from tests.lab.workshop import Workshop, workshop


@pytest.fixture(scope="session")
def opts(checkout: Path) -> Options:
    """The options of a Debian build for this machine's architecture."""
    return arguments.parse(["--distribution", "debian"], os.environ, root=checkout)


@pytest.fixture(scope="session")
def tools(opts: Options) -> Tools:
    """The tools tree that built the image."""
    return BuildWorkshop.prepare(opts, Progress()).tools


@pytest.fixture(scope="session")
def built(opts: Options) -> Subject:
    """The finished Debian image for this machine's architecture."""
    table = EmulationTable.read(opts.folders.root / TABLE)
    subject = Subject(
        opts.target.distribution.name,
        opts.target.arch,
        opts.artifacts / "os-image.raw",
        opts.artifacts / "os-image.efi",
        [target.name for target in table.foreign_to(opts.target.arch)],
    )
    for path in (subject.disk, subject.uki):
        if not path.exists():
            pytest.fail(f"there is no {path}: build it with `./nox -s quickstart`", pytrace=False)
    return subject


@pytest.fixture(scope="session")
def era(pytestconfig: pytest.Config) -> Era:
    """The age of the lab's packages."""
    return eras.ERAS[pytestconfig.getoption("--era")]


@pytest.fixture(scope="session")
def made(checkout: Path, era: Era) -> World:
    """The lab's files for x86_64, which the checkout keeps for the next run."""
    world.provide()
    return world.make(checkout / ".work/lab", arch.X86_64, print, era=era)


@pytest.fixture(scope="module")
def lab(made: World) -> Iterator[LabServer]:
    """The lab's server."""
    with LabServer(made.www) as server:
        yield server


@pytest.fixture(scope="module")
def shop(made: World, lab: LabServer) -> Iterator[Workshop]:
    """The lab's workshop: its engine, its registry, and the pins for our own packages."""
    with workshop(made, lab.url) as shop:
        yield shop


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run what takes longer than CI has, too")
    parser.addoption(
        "--era",
        choices=[*eras.ERAS],
        default=eras.AMAZON.name,
        help=f"age of the lab's packages (default: {eras.AMAZON.name})",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: run with --full only, since it takes long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that need --full, so that pytest reports them as deselected."""
    if config.getoption("--full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
