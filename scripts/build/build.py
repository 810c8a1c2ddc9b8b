"""One build: its plan, the reason for each stage, and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from scripts import catalog
from scripts.build import ingredients
from scripts.build.manifest import Manifest
from scripts.build.runner import Runner
from scripts.build.workshop import Workshop
from scripts.distributions import amazonlinux
from scripts.emulation import standins
from scripts.emulation.emulators import Emulators
from scripts.mkosi.source import Mkosi
from scripts.options import EPOCH, Options
from scripts.stages import artifacts
from scripts.stages import plan as stages
from scripts.stages.additions import Additions
from scripts.stages.inputs import Input
from scripts.stages.places import Places
from scripts.stages.plan import Stage, StageTarget
from scripts.stages.records import Record, why_dependent, why_due
from scripts.system.errors import UsageError
from scripts.system.progress import Progress


@dataclass(frozen=True)
class Built:
    """The results of a build.

    planned are the stages in their order, and reasons says why each that was due has been built.
    records are those of all stages that are kept, by name, and manifest is what manifest.json says.
    """

    planned: Sequence[Stage]
    reasons: Mapping[str, str]
    records: Mapping[str, Record]
    manifest: Manifest


def dated(options: Options, progress: Progress) -> Options:
    """Return options with the release `latest` replaced by the dated one that it now stands for.

    A dated release never changes, so only then can a finished stage be up to date. Raises
    UsageError for another name, which plain mkosi could take for something else, and HarnessError
    if the mirror's newest release is older than one it had before.
    """
    release, sources = options.target.release, options.sources
    if options.target.distribution.mirror_layout != "cdn" or release is None:
        return options
    amazonlinux.check_name(release, sources.mirror, offline=sources.offline)
    if release != amazonlinux.LATEST:
        return options
    if sources.offline:
        raise UsageError(
            f"the latest release cannot be looked up with {catalog.flag('offline')}",
            hint=f"{catalog.option('release')} names one",
        )
    release = amazonlinux.latest(
        sources.mirror,
        options.folders.work / amazonlinux.SEEN,
        allow_older=sources.allow_older_index,
    )
    progress.say(f"the latest release is {release}")
    return replace(options, target=replace(options.target, release=release))


def build(shop: Workshop) -> Built:
    """Build the wanted stages that are out of date, and write checksums and manifest."""
    mkosi = shop.mkosi  # first, as a wrong MKOSI_SOURCE must not wait for packages to be built
    added = ingredients.add(shop, session="build")
    carried = ingredients.obtain_emulators(shop)
    planned = plan(shop.options, mkosi, shop.places, added, carried)
    due = reasons(planned, shop)
    if due:
        ingredients.write_emulators(carried, shop)
    _build_stages(planned, due, shop)
    records = records_of(shop.places)
    return Built(planned, due, records, _write_manifest(shop, records, added))


def build_tools_tree(shop: Workshop) -> None:
    """Build the tools tree alone if it is out of date."""
    planned = [_plan_tools_tree(shop.options, shop.mkosi, shop.places)]
    _build_stages(planned, reasons(planned, shop), shop)


def _build_stages(planned: Sequence[Stage], reasons: Mapping[str, str], shop: Workshop) -> None:
    """Build the stages of planned that have a reason."""
    due = [stage for stage in planned if stage.name in reasons]
    if not due:
        return
    ingredients.require("build", shop)
    shop.install_mkosi()
    for stage in due:
        shop.progress.say(f"{stage.name} will be built: {reasons[stage.name]}")
    has_images = any(stage.name != catalog.TOOLS_TREE for stage in due)
    with shop.emulation() if has_images else nullcontext():
        Runner(shop).build(due)


def _plan_tools_tree(options: Options, mkosi: Mkosi, places: Places) -> Stage:
    values = {
        "mkosi": mkosi.digest,
        "release": places.tools.release,
        "package sources": places.tools.sources_digest,
        **_epoch(options),
    }
    target = StageTarget(places.tools.distribution.mkosi, places.tools.arch, values)
    [tree] = stages.plan(places.configuration, [catalog.TOOLS_TREE], target)
    return tree


def plan(
    options: Options, mkosi: Mkosi, places: Places, added: Additions, carried: Emulators
) -> list[Stage]:
    """Return the tools tree and the stages of the wanted images, each after its dependencies.

    added is what the base holds beside the distribution's packages, carried the emulators in it.
    """
    tree = _plan_tools_tree(options, mkosi, places)
    place = places.images
    is_spared = standins.are_for(place.distribution, place.arch)
    spared = [Input.setting("stand-ins", standins.DIGEST)] if is_spared else []
    target = StageTarget(
        place.distribution.mkosi,
        place.arch,
        {
            "mkosi": mkosi.digest,
            "release": place.release,
            "package sources": place.sources_digest,
            "tools tree": tree.key,
            **_epoch(options),
            **({"profiles": " ".join(place.profiles)} if place.profiles else {}),
        },
        {
            catalog.ADDITIONS: [
                *added.inputs(),
                Input.setting("emulators", carried.digest),
                *spared,
            ],
            catalog.KERNEL: spared,
            catalog.INITRD: spared,
        },
    )
    return [tree, *stages.plan(places.configuration, options.target.wanted, target)]


def _epoch(options: Options) -> dict[str, str]:
    """The mkosi setting that limits the times of files, if there is a limit."""
    return {} if options.build.epoch is None else {EPOCH: str(options.build.epoch)}


def reasons(planned: Sequence[Stage], shop: Workshop) -> dict[str, str]:
    """Map each stage of planned that must be built to the reason.

    A stage is rebuilt whenever one that it needs is rebuilt, even if its key is the same.
    """
    kept = records_of(shop.places)
    due: dict[str, str] = {}
    for stage in planned:
        reason = _reason(stage, shop)
        if not reason and stage.name in kept:
            reason = why_dependent(kept[stage.name], stage.needs, kept, due)
        if reason:
            due[stage.name] = reason
    return due


def _reason(stage: Stage, shop: Workshop) -> str:
    """Why stage must be built ("" if it is up to date)."""
    forced = shop.options.build.force and stage.name != catalog.TOOLS_TREE
    kept = shop.places.stage(stage.name)
    return why_due(stage, kept, shop.options.artifacts, forced=forced)


def records_of(places: Places) -> dict[str, Record]:
    """The record of each stage of the images that has been built, by name."""
    folders = sorted((places.images.folder / "stages").iterdir())
    return {path.name: record for path in folders if (record := Record.read(path))}


def _write_manifest(shop: Workshop, records: Mapping[str, Record], added: Additions) -> Manifest:
    """Write checksums and manifest.json for what is in out/, and return the manifest."""
    out = shop.options.artifacts
    standing = [
        artifact
        for record in records.values()
        for artifact in record.artifacts
        if artifact.stands_in(out)
    ]
    manifest = Manifest.of(shop.options, shop.mkosi, shop.places.images, records, added, standing)
    artifacts.write_checksums(out, standing)
    manifest.write(out)
    return manifest
