"""Building Finch's own emulators with `docker buildx bake`, from a Git repository at a commit.

BuildKit fetches the repository itself; binfmt/targets.toml pins it. Only what concerns this machine
is set from here: the platform, where the programs go, and the layer cache.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from scripts import catalog
from scripts.emulation import emulators
from scripts.emulation.emulators import TABLE, Bake, EmulationTable, Emulators
from scripts.options import BAKE, DEBIAN, Options
from scripts.packages import buildx, engine
from scripts.packages.buildx import Cache
from scripts.packages.engine import Engine
from scripts.system.errors import MachineError
from scripts.system.progress import Progress

# What the layer cache is called, as in finch-core: qemu-build-<architecture>.
NAME = "qemu-build"

# Where the files come out, in the folder in which buildx runs. Bake writes nowhere else without
# being asked for permission (buildx 0.20 and newer).
TREE = "tree"

# Lets bake read and write a layer cache in a folder elsewhere. Releases of buildx that do not ask
# for permission do not know the option --allow either, but they ignore this variable.
ANYWHERE = "BUILDX_BAKE_ENTITLEMENTS_FS=0"


def find(opts: Options) -> Emulators | None:
    """Return the emulators for the target of opts if `build` has left them in work, or None."""
    return emulators.find(opts.folders.root, opts.folders.work, opts.target.arch, BAKE)


def build(opts: Options, progress: Progress) -> Emulators:
    """Return the emulators for the target of opts, built into the folder work.

    Raises HarnessError if that fails or --offline forbids it, and MachineError, with a remedy, if
    there is no engine.
    """
    arch = opts.target.arch
    if opts.sources.offline:
        raise emulators.forbidden(f"the emulators for {arch} have not been built yet")
    table = EmulationTable.read(opts.folders.root / TABLE)
    found = _engine(opts)
    progress.say(f"building the emulators for {arch}, which takes long without a layer cache")
    folder = emulators.folder_of(opts.folders.work, table, arch, BAKE)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as name:
        scratch = Path(name)
        _bake(table.bake, opts, found, scratch, progress)
        wanted = table.foreign_to(arch)
        emulators.keep(wanted, arch, scratch / TREE, table.bake.reference, folder)
    made = find(opts)
    assert made
    return made


def _engine(opts: Options) -> Engine:
    """Return the engine to build with. Raises MachineError, with a remedy, if there is none."""
    try:
        return engine.require_here(opts.packages.buildx_builder)
    except MachineError as error:
        raise MachineError(
            f"the emulators cannot be built: {error.message}",
            hint=f"{error.hint}; `{catalog.command('doctor', 'packages')}` says more, and "
            f"{catalog.option('emulators', DEBIAN)} takes Debian's",
        ) from None


def _bake(bake: Bake, opts: Options, found: Engine, scratch: Path, progress: Progress) -> None:
    """Build bake with the engine found, and put the files into the folder TREE in scratch."""
    cache = Cache.of(opts, found, NAME)
    buildx.say_unwritten(opts, found, cache, progress)
    log = opts.artifacts / "emulator-build.log"
    log.parent.mkdir(parents=True, exist_ok=True)

    def attempt(cache: Cache) -> list[str]:
        shutil.rmtree(scratch / TREE, ignore_errors=True)
        return command(bake, opts, found, cache)

    with progress.task("emulators") as task, log.open("wb") as file:
        failure = buildx.build(attempt, cache, task, file, progress, folder=scratch)
    if failure:
        raise failure.error("build of the emulators", _remedy(), log, progress)


def _remedy() -> str:
    debian = catalog.option("emulators", DEBIAN)
    return f"the engine needs git and a network for it; {debian} takes Debian's emulators"


def command(bake: Bake, opts: Options, found: Engine, cache: Cache) -> list[str]:
    """Return the command that builds bake for the platform of opts, in the folder it runs in."""
    is_elsewhere = isinstance(opts.packages.layer_cache, Path) and cache.is_used
    settings = {
        "platform": f"linux/{opts.target.arch.debian}",
        "output": buildx.csv_value(type="local", dest=TREE),
        # Nothing in place of the bake file's own caches, which are tags that move.
        "cache-from": cache.reads,
        "cache-to": cache.writes,
        **{f"args.{name}": value for name, value in opts.sources.proxies.variables.items()},
    }
    return [
        *(["env", ANYWHERE] if is_elsewhere else []),
        "docker", "buildx", "bake",
        "--builder", opts.packages.buildx_builder or found.builder,
        "--progress", "plain",
        # Otherwise another file would come out beside the programs.
        "--provenance", "false",
        *(word for name, value in settings.items() for word in ("--set", f"*.{name}={value}")),
        bake.reference,
        bake.target,
    ]  # fmt: skip
