"""Bakes emulators with a real engine, from a Git repository on loopback of the shape of Finch's.

Its Dockerfile copies Debian's emulators out of a local image in place of compiling QEMU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomlkit

from scripts import arch
from scripts.build import build, ingredients
from scripts.build.workshop import Workshop
from scripts.description import singles
from scripts.emulation import bake, emulators
from scripts.emulation.emulators import RECORD, TABLE, Emulators
from scripts.mkosi.source import Mkosi
from scripts.options import Options
from scripts.packages import engine as engines
from scripts.sessions import arguments
from scripts.stages import additions
from scripts.system.errors import HarnessError, MachineError
from scripts.system.process import running, start
from scripts.system.progress import Progress
from tests import services
from tests.lab import engine
from tests.lab.engine import Programs, Registry

IMAGE = "emulators:lab"

# Its targets inherit, name tags and have caches of their own, as those of tonistiigi/binfmt.
BAKE_FILE = """\
variable "REPO" {
  default = "nowhere.test/binfmt"
}
target "base" {
  args = {
    BUILDKIT_CONTEXT_KEEP_GIT_DIR = 1
  }
}
target "mainline" {
  inherits = ["base"]
  tags = ["${REPO}:test"]
  cache-to = ["type=inline"]
  cache-from = ["${REPO}:mainline"]
}
target "desktop" {
  inherits = ["mainline"]
  cache-from = ["${REPO}:desktop"]
}
"""

DOCKERFILE = f"""\
FROM --platform=$BUILDPLATFORM {IMAGE} AS build
FROM scratch AS binaries
COPY --from=build /usr/bin/qemu-* /
FROM scratch
COPY --from=binaries / /usr/bin/
COPY Dockerfile /usr/bin/binfmt
"""

# What goes wrong, by branch: a program of the machine's own, which is not static, and no program.
DYNAMIC = f"FROM {IMAGE} AS build\nFROM scratch\nCOPY --from=build /bin/true /usr/bin/qemu-arm\n"
MISSING = f"FROM {IMAGE} AS build\nFROM scratch\nCOPY --from=build /bin/true /usr/bin/other\n"


@dataclass(frozen=True)
class Site:
    """A running engine and Git server: the address of the repository, and its commits by name."""

    programs: Programs
    address: str
    commits: dict[str, str]
    debian: Emulators
    environment: dict[str, str]


def git(folder: Path, *argv: str) -> str:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@nowhere.test")
    done = subprocess.run(
        ["git", "-C", folder, *identity, *argv], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def repository(folder: Path) -> dict[str, str]:
    """Make a repository at folder; its branch ends with commits that give no emulators."""
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "docker-bake.hcl").write_text(BAKE_FILE)
    commits = {}
    for name, text in (("whole", DOCKERFILE), ("dynamic", DYNAMIC), ("missing", MISSING)):
        (folder / "Dockerfile").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", name)
        commits[name] = git(folder, "rev-parse", "HEAD")
    return commits


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the repositories in folder by Git's own protocol; yields the URL."""
    port = services.free_port()
    command = [
        "git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", "--reuseaddr",
        f"--base-path={folder}",
    ]  # fmt: skip
    url = f"git://127.0.0.1:{port}"
    with running(start(command, stderr=subprocess.DEVNULL)) as process:
        deadline = time.monotonic() + 60
        while subprocess.run(
            ["git", "ls-remote", f"{url}/binfmt"], capture_output=True, check=False
        ).returncode:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield url


def import_image(found: Emulators, folder: Path, environment: dict[str, str]) -> None:
    """Give the engine an image with Debian's emulators and a program that is not static."""
    with closing(tarfile.open(folder / "image.tar", "w")) as image:
        for one in found.table.foreign_to(arch.native()):
            image.add(found.program(one), f"usr/bin/{one.program}")
        image.add(Path("/bin/true").resolve(), "bin/true")
    subprocess.run(
        ["docker", "import", folder / "image.tar", IMAGE],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0:
        reason = "only root can run an engine"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("bake")
    try:
        programs = engine.obtain(checkout / ".work/lab")
    except MachineError as error:
        pytest.skip(error.message)
    debian = emulators.download(checkout, checkout / ".work", arch.native(), Progress(live=False))
    commits = repository(folder / "binfmt")
    with serving(folder) as url, engine.engine(programs) as found:
        environment = os.environ | dict(found.environment)
        import_image(debian, folder, environment)
        yield Site(programs, f"{url}/binfmt", commits, debian, dict(found.environment))


@pytest.fixture
def root(checkout: Path, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose table of emulators pins the lab's repository at its good commit."""
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    made = tmp_path / "checkout"
    for name in ("binfmt", "mkosi", "mkosi.conf.d", "mkosi.images"):
        shutil.copytree(checkout / name, made / name, symlinks=True)
    shutil.copy(checkout / "mkosi.conf", made)
    pin(made, address=site.address, commit=site.commits["whole"])
    return made


def pin(root: Path, **values: str) -> None:
    document = tomlkit.parse((root / TABLE).read_text())
    document["bake"].update(values)
    (root / TABLE).write_text(tomlkit.dumps(document))


def options(root: Path, *argv: str) -> Options:
    own = ("--distribution", "debian", "--arch", arch.native().name, "--emulators", "bake")
    return arguments.parse([*own, *argv], {}, root=root)


def log_of(opts: Options) -> str:
    return (opts.artifacts / "emulator-build.log").read_text()


def test_an_image_gets_the_emulators_of_the_pinned_commit(root: Path, site: Site) -> None:
    shop = Workshop.prepare(options(root), Progress(live=False))
    carried = ingredients.obtain_emulators(shop)

    wanted = carried.table.foreign_to(arch.native())
    assert carried.digests == {one.program: site.debian.digests[one.program] for one in wanted}
    record = json.loads((carried.folder / RECORD).read_text())
    assert record["package"] == f"{site.address}#{site.commits['whole']}"

    ingredients.write_emulators(carried, shop)
    tree = shop.places.images.emulators
    assert {path.name for path in (tree / "usr/bin").iterdir()} == {
        f"qemu-{one.name}-static" for one in wanted
    }
    described = [*singles.emulators(tree, arch.native(), carried.table, carried)]
    assert {one.version for one in described} == {site.commits["whole"], ""}
    using = Mkosi(root, "27.1", "nowhere", "digest")
    planned = build.plan(shop.options, using, shop.places, additions.NONE, carried)
    [base] = [stage for stage in planned if stage.name == "base"]
    assert carried.digest in {one.digest for one in base.inputs}


def test_what_has_been_baked_is_used_again_without_an_engine_or_a_network(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bake.build(options(root), Progress(live=False))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")

    shop = Workshop.prepare(options(root, "--offline"), Progress(live=False))

    assert ingredients.obtain_emulators(shop) == made


def forget(site: Site) -> None:
    """Remove the layers that the engine has kept."""
    subprocess.run(
        ["docker", "builder", "prune", "--all", "--force"],
        env=os.environ | site.environment, check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture
def registry(site: Site, tmp_path: Path) -> Iterator[Registry]:
    with engine.registry(site.programs, tmp_path / "registry") as found:
        yield found


def test_layers_are_kept_in_a_registry_and_those_of_the_bake_file_are_not_asked_for(
    root: Path, site: Site, registry: Registry
) -> None:
    opts = options(root, "--layer-cache", f"{registry.host}/finch/cache")
    made = bake.build(opts, Progress(live=False))
    assert registry.has("finch/cache", f"{bake.NAME}-{arch.native()}")
    assert "nowhere.test" not in log_of(opts)

    forget(site)
    shutil.rmtree(made.folder)
    again = bake.build(opts, Progress(live=False))

    assert again == made
    steps = [line.partition(" ")[0] for line in log_of(opts).splitlines() if "COPY --from" in line]
    assert steps
    assert all(f"{step} CACHED\n" in log_of(opts) for step in steps)


@pytest.mark.parametrize(
    ("commit", "said"),
    [
        ("dynamic", "/usr/bin/qemu-arm of .* it needs a dynamic linker, so it is not static"),
        ("missing", "does not contain /usr/bin/qemu-"),
    ],
)
def test_what_comes_out_is_checked_and_nothing_kept_of_what_is_no_emulator(
    root: Path, site: Site, commit: str, said: str
) -> None:
    text = (root / TABLE).read_text()
    (root / TABLE).write_text(text[: text.index("[targets.")] + text[text.index("[targets.arm]") :])
    pin(root, commit=site.commits[commit])
    opts = options(root)

    with pytest.raises(HarnessError, match=said):
        bake.build(opts, Progress(live=False))

    assert list((opts.folders.work / "emulators").iterdir()) == []


def test_a_repository_that_does_not_answer_is_named_with_a_remedy(root: Path) -> None:
    port = services.free_port()
    pin(root, address=f"git://127.0.0.1:{port}/binfmt", commit="0" * 40)
    opts = options(root)

    with pytest.raises(HarnessError, match=r"the build of the emulators failed at .*git") as caught:
        bake.build(opts, Progress(live=False))

    assert f"127.0.0.1:{port}" in caught.value.message
    assert "--emulators debian" in caught.value.hint
    assert caught.value.log


def test_an_engine_that_cannot_write_layers_builds_all_the_same(
    root: Path, site: Site, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with engine.engine(site.programs, containerd_store=False) as plain:
        monkeypatch.setenv("DOCKER_HOST", plain.environment["DOCKER_HOST"])
        monkeypatch.setenv("DOCKER_CONFIG", plain.environment["DOCKER_CONFIG"])
        import_image(site.debian, tmp_path, dict(os.environ))
        opts = options(root, "--layer-cache", f"{registry.host}/finch/cache")
        made = bake.build(opts, Progress(live=False))
        assert not engines.require_here("").exports_cache
    assert made.digests
    assert "warning: the layer cache is not written" in capsys.readouterr().err
