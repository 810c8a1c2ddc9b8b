"""Fixtures of the end-to-end tests: the built image, the tools that built it, and the lab."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from scripts import arch, catalog
from scripts.boot import Subject
from scripts.build.workshop import Workshop as BuildWorkshop
from scripts.emulation.emulators import TABLE, EmulationTable
from scripts.mkosi.sandbox import Tools
from scripts.options import Options
from scripts.sessions import arguments
from scripts.system.progress import Progress
from tests.e2e import debian11, roots
from tests.e2e.checkout import Copy, amazonlinux, copy
from tests.e2e.debian11 import Debian11
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


@pytest.fixture(scope="session")
def amazon_copy(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the checkout with its tools tree, if any, but without builds of Amazon Linux."""
    root = tmp_path_factory.mktemp("amazon") / "finch ä images"
    (checkout / ".work").mkdir(exist_ok=True)
    with FileLock(checkout / ".work/lock", timeout=900):
        return copy(checkout, root, checkout / ".work", ["mkosi", "emulators", "tools/*/stages"])


@pytest.fixture(scope="session")
def amazon_lab(made: World) -> Iterator[LabServer]:
    """The server that the images of amazon_images are built from; its address is in their keys."""
    with LabServer(made.www) as server:
        yield server


@pytest.fixture(scope="session")
def amazon_shop(made: World, amazon_lab: LabServer) -> Iterator[Workshop]:
    """The workshop where the packages of amazon_images are built."""
    with workshop(made, amazon_lab.url) as shop:
        yield shop


@pytest.fixture(scope="session")
def amazon_images(
    amazon_copy: Copy, amazon_lab: LabServer, amazon_shop: Workshop, made: World
) -> Path:
    """The folder with all images of Amazon Linux for x86_64, which are built once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in amazon_shop.environment.items():
            patch.setenv(name, value)
        build = amazon_copy.nox(
            f"build-3.12(arch='{arch.X86_64}')",
            *amazonlinux(amazon_lab, made),
            "--packages", amazon_shop.pins,
        )  # fmt: skip
        assert build.wait(within=1800) == 0, build.output
    return amazon_copy.root / "out/amazonlinux" / arch.X86_64.name


@pytest.fixture(scope="session")
def amazon_roots(amazon_images: Path) -> Iterator[dict[str, Path]]:
    """The root file systems of amazon_images by the image: a file with ext4, and two folders."""
    with tempfile.TemporaryDirectory(dir=amazon_images.parent, prefix="roots-") as folder:
        work = Path(folder)
        disk = amazon_images / "os-image.raw"
        yield {
            "os-image": roots.of_disk(disk, arch.X86_64, work / "os-image.ext4"),
            catalog.CONTAINER: roots.of_layout(amazon_images / catalog.CONTAINER, work / "oci"),
            "wsl-rootfs": roots.unpack(amazon_images / "wsl-rootfs.tar.gz", work / "wsl"),
        }


@pytest.fixture(scope="session")
def old_debian(checkout: Path) -> Debian11:
    """Debian 11's rpm and e2fsprogs, which run in a root of their own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount an image and enter another root")
    return debian11.unpack(checkout)


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
