"""Packages of our own: RPMs that Amazon Linux lacks or breaks, built in Docker with BuildKit.

al2023-package-build/ says which and from what; here its files become a build context, the context
a key, and RPMs that were built from the same context are not built again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.distributions import amazonlinux
from scripts.options import BASE_IMAGE, Options
from scripts.packages import buildx, engine, recipes
from scripts.packages.buildx import TAIL_LINES, Cache, Failure
from scripts.packages.engine import Engine
from scripts.packages.recipes import AMAZON, AMAZON_KEY, FOLDER, Pins, Recipe, Source
from scripts.stages import artifacts, places
from scripts.stages import plan as stages
from scripts.stages.additions import Additions
from scripts.stages.places import Place
from scripts.stages.plan import Stage
from scripts.stages.records import Package, Record
from scripts.system.digests import describe_tree
from scripts.system.errors import HarnessError, MachineError, UsageError
from scripts.system.progress import Progress


@dataclass(frozen=True)
class Plan:
    """What is to be built for opts, in which context; reason says why, "" where nothing is.

    finished is the folder of the RPMs, engine what they will be built with once that is known.
    """

    opts: Options
    pins: Pins
    context: Path
    stage: Stage
    finished: Path
    reason: str
    engine: Engine | None = None


def plan(opts: Options, place: Place) -> Plan | None:
    """What packages come to for opts: None where the distribution's own are to do.

    Raises UsageError for pins that make no sense or lack a digest.
    """
    if not opts.target.distribution.has_rpms or opts.packages.skipped:
        return None
    pins = recipes.read(opts.packages.recipes)
    recipes.check_stages(pins, opts)
    if not pins.digest and BASE_IMAGE not in opts.packages.allow_missing:
        raise UsageError(
            f"the image {pins.image}, in which packages are built, is not pinned by its digest",
            hint="./nox -s update-pins obtains it; "
            f"-- --allow-missing {BASE_IMAGE} takes what the tag names, "
            "-- --without-packages builds none",
        )
    work = place.folder / "package-build"
    context = write_context(work / "context", pins, opts, place)
    inputs = {"base image": pins.reference, "architecture": place.arch.name}
    stage = Stage(FOLDER, (), inputs | describe_tree(context))
    finished = work / "rpms"
    return Plan(opts, pins, context, stage, finished, _reason(stage, finished, opts))


def ready(planned: Plan) -> Plan:
    """The plan with the engine that it needs. Raises MachineError where there is none."""
    opts = planned.opts
    if opts.sources.offline:
        raise HarnessError(
            "packages have to be built, which needs the network",
            hint="leave --offline out, or build without them: -- --without-packages",
        )
    try:
        return replace(planned, engine=engine.require(os.environ, opts.packages.buildx_builder))
    except MachineError as error:
        raise MachineError(
            f"packages of our own cannot be built: {error.message}",
            hint=f"{error.hint}; `./nox -s doctor -- packages` says more, and "
            "-- --without-packages builds with the distribution's own",
        ) from None


def obtain(planned: Plan, progress: Progress) -> Additions:
    """The RPMs that planned names, built if there is a reason to.

    Raises HarnessError where that fails; RPMs that were there before are there still.
    """
    if planned.engine:
        progress.say(f"packages will be built: {planned.reason}")
        _build(planned, planned.engine, progress)
    wanted = tuple(name for recipe in planned.pins.recipes for name in recipe.rpms)
    return Additions(tuple(sorted(planned.finished.glob("*.rpm"))), wanted)


def _reason(stage: Stage, finished: Path, opts: Options) -> str:
    """Why the RPMs have to be built ("" where they need not)."""
    record = Record.read(finished)
    if not record:
        return "not built yet"
    if opts.build.force and not opts.sources.offline:  # without the network the old ones have to do
        return "--force"
    if record.key != stage.key:
        return stages.difference(record.inputs, stage.inputs)
    changed = [made.name for made in record.artifacts if not made.stands_in(finished)]
    return f"{changed[0]} is gone or was written to" if changed else ""


def write_context(folder: Path, pins: Pins, opts: Options, place: Place) -> Path:
    """Make folder the build context, all that the Dockerfile copies, and return it."""
    own = opts.folders.root / FOLDER
    binary, sources = _repositories(pins, place, opts.sources.signing_key or own / AMAZON_KEY)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("Dockerfile", "build-package"):
        shutil.copy(own / name, folder)
    repositories = folder / "repositories"
    repositories.mkdir()
    shutil.copyfile(binary.key, repositories / "key")
    (repositories / "amazonlinux.repo").write_text(binary.repository("amazonlinux", check=True))
    for recipe in pins.recipes:
        wanted = replace(recipe, nevra=_nevra(recipe, opts, place))
        _write_recipe(folder / "packages" / recipe.name, wanted, sources[recipe.source])
    return folder


def _nevra(recipe: Recipe, opts: Options, place: Place) -> str:
    """What is asked for: the NEVRA of an Amazon source RPM is that of the pinned release alone."""
    is_pinned = place.release == places.release_of(opts.folders.root, place.distribution)
    return recipe.nevra if recipe.source != AMAZON or is_pinned else recipe.name


def _repositories(pins: Pins, place: Place, key: Path) -> tuple[Source, Mapping[str, Source]]:
    """Where packages of the target come from, and source RPMs by the name of their source."""
    base = (place.mirror or amazonlinux.CDN).rstrip("/")
    if not amazonlinux.is_repository(base):
        tree = f"{base}/core/mirrors/{place.release}"
        own = Source("mirrorlist", (f"{tree}/SRPMS/mirror.list",), key)
        binary = Source("mirrorlist", (f"{tree}/{place.arch.name}/mirror.list",), key)
        return binary, {AMAZON: own, **pins.sources}
    if AMAZON not in pins.sources:
        raise UsageError(
            f"{base} is a single repository, which has no source RPMs to build packages from",
            hint=f"name some as [source.{AMAZON}] in a file for -- --packages, or build without "
            "them: -- --without-packages",
        )
    url = base.replace("$basearch", place.arch.name).replace("$releasever", place.release)
    return Source("baseurl", (url,), key), pins.sources


def _write_recipe(folder: Path, recipe: Recipe, source: Source) -> None:
    for part in ("source", "patches"):
        (folder / part).mkdir(parents=True)
    for name, text in (
        ("nevra", recipe.nevra),
        ("suffix", recipe.suffix),
        ("rpms", "\n".join(recipe.rpms)),
    ):
        (folder / name).write_text(f"{text}\n")
    # The key is asked for by build-package itself: `dnf download` looks at no signature.
    (folder / "source/source.repo").write_text(source.repository("source", check=False))
    try:
        shutil.copyfile(source.key, folder / "source/key")
        for patch in recipe.patches:
            shutil.copyfile(patch, folder / "patches" / patch.name)
    except OSError as error:
        raise UsageError(f"{error.filename} of {recipe.name}: {error.strerror}") from None


def _build(planned: Plan, found: Engine, progress: Progress) -> None:
    """Build planned with found, without the layer cache where that stands in the way."""
    opts, began = planned.opts, time.monotonic()
    fresh = planned.finished.with_name("rpms.new")
    cache = Cache.of(opts, found)
    if opts.packages.layer_cache and not cache.writes:
        progress.say(
            f"warning: the layer cache is not written: {found} "
            '(Docker\'s "containerd-snapshotter" feature would)'
        )
    log = opts.artifacts / "package-build.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with progress.task("packages") as task, log.open("wb") as file:

        def attempt(cache: Cache) -> Failure | None:
            shutil.rmtree(fresh, ignore_errors=True)
            command = buildx.build_command(opts, planned.pins, planned.context, fresh, found, cache)
            return buildx.attempt(command, cache, task, file, progress)

        failure = attempt(cache)
        if failure and cache.is_used and failure.may_be_the_caches:
            progress.say(
                f"warning: the layer cache {cache.name} is done without, as the build failed with "
                f"it: {failure.reason}"
            )
            failure = attempt(Cache())
        if failure:
            raise _describe(failure, progress, log)
        _keep(fresh, planned, round(time.monotonic() - began, 1))


def _keep(fresh: Path, planned: Plan, seconds: float) -> None:
    """Put fresh, with its record, in the place of what was finished before."""
    stage = planned.stage
    names = sorted(path.name for path in fresh.glob("*.rpm"))
    packages = tuple(_package(name) for name in names)
    wanted = {name for recipe in planned.pins.recipes for name in recipe.rpms}
    if missing := wanted - {package.name for package in packages}:
        raise HarnessError(f"the package build came without {', '.join(sorted(missing))}")
    Record(
        stage.key, stage.inputs, seconds, tuple(artifacts.describe(fresh, names)), packages
    ).write(fresh)
    shutil.rmtree(planned.finished, ignore_errors=True)
    fresh.rename(planned.finished)


def _package(file: str) -> Package:
    """The package in a file of the name name-version-release.arch.rpm."""
    nevr, _, arch = file.removesuffix(".rpm").rpartition(".")
    name, version, release = nevr.rsplit("-", 2)
    return Package(name, f"{version}-{release}", arch)


def _describe(failure: Failure, progress: Progress, log: Path) -> HarnessError:
    """What is said of a build that failed; the last lines of its step are shown before."""
    for line in failure.tail[-TAIL_LINES:]:
        progress.console.print(f"  {line}", markup=False, emoji=False)
    shown = "what its last step printed stands above; " if failure.step else ""
    return HarnessError(
        f"the package build failed{f' at {failure.step}' if failure.step else ''}: "
        f"{failure.reason}",
        hint=f"{shown}the RPMs built before are untouched",
        log=log,
    )
