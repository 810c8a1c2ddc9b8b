"""Building our own packages: RPMs that Amazon Linux lacks or breaks, in Docker with BuildKit.

The files of al2023-package-build/ are assembled into a build context. RPMs that were built from the
same context are not built again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from scripts import catalog
from scripts.distributions import amazonlinux
from scripts.options import BASE_IMAGE, Options
from scripts.packages import buildx, engine, recipes
from scripts.packages.buildx import Cache
from scripts.packages.engine import Engine
from scripts.packages.recipes import (
    AMAZON,
    AMAZON_KEY,
    FOLDER,
    PackagePins,
    Recipe,
    SourceRepository,
)
from scripts.stages import artifacts, inputs, places
from scripts.stages.additions import Additions
from scripts.stages.places import Place
from scripts.stages.plan import Stage
from scripts.stages.records import Package, Record, why_due
from scripts.system.digests import describe_tree
from scripts.system.errors import HarnessError, MachineError, UsageError
from scripts.system.files import write_private
from scripts.system.progress import Progress
from scripts.system.url import Url

# The id of the secret with the repository of the target's packages. No package may have that name.
BINARY = "binary"


@dataclass(frozen=True)
class RpmPlan:
    """Which packages a build with opts needs, and why they must be built.

    context is the build context. reason is "" if the RPMs in the folder finished are up to date.
    engine is what they will be built with, once `with_engine` has found it. lists are the mirror
    lists that require credentials.
    """

    opts: Options
    pins: PackagePins
    context: Path
    stage: Stage
    finished: Path
    reason: str
    engine: Engine | None = None
    lists: tuple[Url, ...] = ()


def plan(opts: Options, place: Place) -> RpmPlan | None:
    """Return which packages a build with opts needs, or None if it needs none of ours.

    place is where the build is kept. Raises UsageError if a pin makes no sense or lacks a digest.
    """
    if not opts.target.distribution.has_rpms or opts.packages.skipped:
        return None
    pins = recipes.read(opts.packages.recipes)
    recipes.check_stages(pins, opts)
    if not pins.built:
        return None
    if not pins.digest:
        raise UsageError(
            f"the image {pins.image}, in which packages are built, is not pinned by its digest",
            hint=f"write the digest (sha256:…) into [{BASE_IMAGE}] of {opts.packages.recipes}; "
            f"{catalog.option('without-packages')} builds no packages",
        )
    work = place.folder / "package-build"
    context = write_context(work / "context", pins, opts, place)
    settings = {"base image": pins.reference, "architecture": place.arch.name}
    stage = Stage(FOLDER, (), inputs.from_labels(settings | describe_tree(context)))
    finished = work / "rpms"
    reason = _reason(stage, finished, opts)
    return RpmPlan(opts, pins, context, stage, finished, reason, lists=_lists(pins, opts, place))


def with_engine(planned: RpmPlan) -> RpmPlan:
    """Return planned with an engine that can build it.

    Raises MachineError, with a remedy, if there is none, and HarnessError if --offline forbids it.
    """
    opts = planned.opts
    if opts.sources.offline:
        raise HarnessError(
            "packages must be built, which needs the network",
            hint=f"leave out {catalog.flag('offline')}, or use the distribution's own packages: "
            f"{catalog.option('without-packages')}",
        )
    try:
        return replace(planned, engine=engine.require_here(opts.packages.buildx_builder))
    except MachineError as error:
        raise MachineError(
            f"our own packages cannot be built: {error.message}",
            hint=f"{error.hint}; `{catalog.command('doctor', 'packages')}` says more, and "
            f"{catalog.option('without-packages')} uses the distribution's own",
        ) from None


def build(planned: RpmPlan, progress: Progress) -> Additions:
    """Return the RPMs that planned names, built first if there is a reason to.

    Raises HarnessError if that fails, and leaves earlier RPMs untouched.
    """
    if planned.engine:
        progress.say(f"packages will be built: {planned.reason}")
        _build(planned, planned.engine, progress)
    wanted = tuple(name for recipe in planned.pins.built for name in recipe.rpms)
    return Additions(tuple(sorted(planned.finished.glob("*.rpm"))), wanted)


def _reason(stage: Stage, finished: Path, opts: Options) -> str:
    """Return why the RPMs must be built, or "" if they are up to date."""
    # Nothing can be built without the network.
    forced = opts.build.force and not opts.sources.offline
    return why_due(stage, finished, finished, forced=forced)


def write_context(folder: Path, pins: PackagePins, opts: Options, place: Place) -> Path:
    """Make folder the build context, with everything that the Dockerfile copies, and return it."""
    own = opts.folders.root / FOLDER
    binary, sources = _repositories(pins, place, _key(opts))
    for path in (folder, secrets(folder)):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    shutil.copy(own / "build-package", folder)
    unwanted = {recipe.name for recipe in pins.recipes} - {recipe.name for recipe in pins.built}
    text = recipes.dockerfile((own / "Dockerfile").read_text(), sorted(unwanted))
    (folder / "Dockerfile").write_text(text)
    repositories = folder / "repositories"
    repositories.mkdir()
    shutil.copyfile(binary.key, repositories / "key")
    text = binary.repository(AMAZON, check=True)
    (repositories / "amazonlinux.repo").write_text(text)
    proxy = opts.sources.proxies.first
    write_private(secrets(folder) / BINARY, text + _credentials(binary, proxy))
    for recipe in pins.built:
        wanted, source = replace(recipe, nevra=_nevra(recipe, opts, place)), sources[recipe.source]
        text = source.repository("source", check=False)
        _write_recipe(folder / "packages" / recipe.name, wanted, source, text)
        write_private(secrets(folder) / recipe.name, text + _credentials(source, proxy))
    return folder


def secrets(context: Path) -> Path:
    """Return the folder of the build's secrets, which are no part of its context.

    Each is a repository's configuration as in the context, with credentials. Its name is the id
    that the Dockerfile mounts it by.
    """
    return context.with_name("secrets")


def _credentials(source: SourceRepository, proxy: Url | None) -> str:
    """Return the lines that give dnf the credentials for a repository.

    Only the mirror's can have any, and then its address is the only one.
    """
    return amazonlinux.dnf_credentials(source.urls[0] if source.urls else None, proxy)


def _nevra(recipe: Recipe, opts: Options, place: Place) -> str:
    """Return the source RPM to ask dnf for.

    For a source RPM of Amazon Linux that is its name alone, unless place has the pinned release:
    the NEVRA is that of the pinned release.
    """
    is_pinned = place.release == places.release_of(opts.folders.root, place.distribution)
    return recipe.nevra if recipe.source != AMAZON or is_pinned else recipe.name


def _key(opts: Options) -> Path:
    """Return the key that signs the RPMs of the target's mirror."""
    return opts.sources.signing_key or opts.folders.root / FOLDER / AMAZON_KEY


def _lists(pins: PackagePins, opts: Options, place: Place) -> tuple[Url, ...]:
    """Return the mirror lists of a build that require credentials."""
    binary, sources = _repositories(pins, place, _key(opts))
    listing = [one for one in (binary, *sources.values()) if one.option == "mirrorlist"]
    return tuple(url for one in listing for url in one.urls if url.credentials)


def _repositories(
    pins: PackagePins, place: Place, key: Path
) -> tuple[SourceRepository, Mapping[str, SourceRepository]]:
    """Return the repository of the target's packages, and those of source RPMs by name."""
    tree = Url.of(place.mirror or amazonlinux.CDN) / f"core/mirrors/{place.release}"
    own = SourceRepository("mirrorlist", (tree / "SRPMS/mirror.list",), key)
    urls = (tree / f"{place.arch.name}/mirror.list",)
    signed = amazonlinux.signs_metadata(place.release)
    binary = SourceRepository("mirrorlist", urls, key, signs_metadata=signed)
    return binary, {AMAZON: own, **pins.sources}


def _write_recipe(folder: Path, recipe: Recipe, source: SourceRepository, text: str) -> None:
    """Write to folder what the build of recipe reads; text is the configuration of source."""
    for part in ("source", "patches"):
        (folder / part).mkdir(parents=True)
    for name, line in (
        ("nevra", recipe.nevra),
        ("suffix", recipe.suffix),
        ("rpms", "\n".join(recipe.rpms)),
    ):
        (folder / name).write_text(f"{line}\n")
    # build-package checks the signature itself, because `dnf download` does not.
    (folder / "source/source.repo").write_text(text)
    try:
        shutil.copyfile(source.key, folder / "source/key")
        for patch in recipe.patches:
            shutil.copyfile(patch, folder / "patches" / patch.name)
    except OSError as error:
        raise UsageError(
            f"{error.filename} of the package {recipe.name} cannot be read: {error.strerror}"
        ) from None


def _build(planned: RpmPlan, found: Engine, progress: Progress) -> None:
    """Build planned with the engine found; once more without the layer cache if that may help."""
    opts, began = planned.opts, time.monotonic()
    for url in planned.lists:
        amazonlinux.check_list(url)
    fresh = planned.finished.with_name("rpms.new")
    cache = Cache.of(opts, found, "package-build")
    buildx.say_unwritten(opts, found, cache, progress)
    log = opts.artifacts / "package-build.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with progress.task("packages") as task, log.open("wb") as file:

        def command(cache: Cache) -> list[str]:
            shutil.rmtree(fresh, ignore_errors=True)
            return buildx.build_command(
                opts, planned.pins, planned.context, fresh, found, cache, secrets(planned.context)
            )

        if failure := buildx.build(command, cache, task, file, progress):
            remedy = "RPMs that were built earlier are untouched"
            raise failure.error("package build", remedy, log, progress)
        _keep(fresh, planned, round(time.monotonic() - began, 1))


def _keep(fresh: Path, planned: RpmPlan, seconds: float) -> None:
    """Replace the finished RPMs by those in fresh, and write their record.

    Raises HarnessError if one that is wanted is missing.
    """
    stage = planned.stage
    names = sorted(path.name for path in fresh.glob("*.rpm"))
    packages = tuple(_package(name) for name in names)
    wanted = {name for recipe in planned.pins.built for name in recipe.rpms}
    if missing := wanted - {package.name for package in packages}:
        raise HarnessError(f"the package build did not produce {', '.join(sorted(missing))}")
    Record.of(stage, seconds, artifacts.describe(fresh, names), packages, {}).write(fresh)
    shutil.rmtree(planned.finished, ignore_errors=True)
    fresh.rename(planned.finished)


def _package(file: str) -> Package:
    """Return the package in a file called name-version-release.arch.rpm."""
    nevr, _, arch = file.removesuffix(".rpm").rpartition(".")
    name, version, release = nevr.rsplit("-", 2)
    return Package(name, f"{version}-{release}", arch)
