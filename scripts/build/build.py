"""Build images, for the build, image and quickstart sessions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from scripts import options
from scripts.build import manifest
from scripts.build.runner import Builder
from scripts.distributions import amazonlinux
from scripts.doctor import doctor
from scripts.emulation import binfmt, emulators, standins
from scripts.emulation.emulators import Emulators
from scripts.mkosi import source
from scripts.mkosi.sandbox import Tools
from scripts.mkosi.source import Mkosi
from scripts.options import Options
from scripts.packages import rpms, thirdparty
from scripts.stages import additions, artifacts, places
from scripts.stages import plan as stages
from scripts.stages.additions import Additions
from scripts.stages.places import Places
from scripts.stages.plan import TOOLS_TREE, Stage, Target
from scripts.stages.records import Record
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Progress


def build(opts: Options, progress: Progress) -> None:
    """Build what opts asks for and is out of date, describe and show the result."""
    opts = with_dated_release(opts, progress)
    using = obtain(opts, progress)
    at = places.of(opts)
    added = add(opts, progress, at, session="build")
    carried = obtain_emulators(opts, progress)
    planned = plan(opts, using, at, added, carried)
    reasons = _reasons(planned, at, opts)
    if reasons:
        write_trees(carried, at)
    _build_stages(planned, reasons, opts, progress, using, at)
    records = _records(at)
    written = _write_description(opts, using, at, records, added)
    _describe(opts, using, at, records, written)
    _show(opts, at, planned, records, built=reasons)


def with_dated_release(opts: Options, progress: Progress) -> Options:
    """Opts with a release whose packages never change in the place of the latest.

    Else it could not be told whether a finished stage is up to date.
    """
    if opts.distribution not in options.RPM_DISTRIBUTIONS or opts.release != amazonlinux.LATEST:
        return opts
    if opts.offline:
        raise UsageError(
            "which release is the latest cannot be asked with --offline",
            hint="-- --release names one",
        )
    release = amazonlinux.newest(opts.mirror)
    progress.say(f"the latest release is {release}")
    return replace(opts, release=release)


def build_tools_tree(opts: Options, progress: Progress, using: Mkosi, at: Places) -> None:
    """Build the tools tree alone, if it is out of date."""
    planned = [_plan_tools_tree(opts, using, at)]
    _build_stages(planned, _reasons(planned, at, opts), opts, progress, using, at)


def _build_stages(
    planned: Sequence[Stage],
    reasons: Mapping[str, str],
    opts: Options,
    progress: Progress,
    using: Mkosi,
    at: Places,
) -> None:
    """Build those of planned for which there are reasons, by name."""
    todo = [stage for stage in planned if stage.name in reasons]
    if todo:
        _require("build", opts, at)
        source.install(using)
        for stage in todo:
            progress.say(f"{stage.name} will be built: {reasons[stage.name]}")
        has_images = any(stage.name != TOOLS_TREE for stage in todo)
        with emulation(opts, progress) if has_images else nullcontext():
            Builder(opts, using, progress, at).build(todo)


def _require(session: str, opts: Options, at: Places) -> None:
    """See that this machine and the mirror are fit for session, before anything long begins."""
    doctor.require(session, opts)
    if opts.distribution in options.RPM_DISTRIBUTIONS and not opts.offline:
        amazonlinux.check(at.images.release, at.images.arch, opts.mirror)


def obtain(opts: Options, progress: Progress) -> Mkosi:
    """The pinned and patched mkosi, obtained if need be; see `mkosi.obtain`."""
    return source.obtain(
        opts.root / "mkosi",
        opts.work,
        given=opts.mkosi_source,
        offline=opts.offline,
        say=progress.say,
    )


def add(opts: Options, progress: Progress, at: Places, *, session: str) -> Additions:
    """What the base holds beside the distribution's packages, obtained and laid out for mkosi.

    session is the one, by its name for `doctor`, that this machine has to be fit for.
    """
    _check_allowed(opts, [*thirdparty.names(opts), options.BASE_IMAGE])
    planned = rpms.plan(opts, at.images)
    is_due = planned is not None and planned.reason != ""
    if is_due or thirdparty.lacking(opts):
        _require(session, opts, at)
    if planned and is_due:
        planned = rpms.ready(planned)
    added = thirdparty.obtain(opts, progress)
    if planned:
        with emulation(opts, progress) if is_due else nullcontext():
            added += rpms.obtain(planned, progress)
    added.lay_out(at.images.additions)
    return added


def _check_allowed(opts: Options, names: Sequence[str]) -> None:
    """Raise UsageError where --allow-missing names what is not among names."""
    for name in opts.allow_missing:
        if name not in names:
            raise UsageError(
                f"--allow-missing {name}: nothing of that name is pinned",
                hint=f"pinned are {', '.join(names)}",
            )


def obtain_emulators(opts: Options, progress: Progress) -> Emulators:
    """The emulators that the images carry, fetched if need be; see `emulators.obtain`."""
    return emulators.obtain(
        opts.root,
        opts.work,
        opts.arch,
        mirror=opts.mirror if opts.distribution == "debian" else None,
        given=opts.mkosi_source,
        offline=opts.offline,
        say=progress.say,
    )


def write_trees(carried: Emulators, at: Places) -> None:
    """Write the trees that the configuration of the images names: see `Place`."""
    emulators.write_tree(carried, at.images.arch, at.images.emulators)


def emulation(opts: Options, progress: Progress) -> AbstractContextManager[None]:
    """What runs the programs of the images, where this machine does not."""
    return binfmt.emulated(
        opts.arch,
        opts.root,
        opts.work,
        may_register=opts.binfmt,
        offline=opts.offline,
        say=progress.say,
    )


def _plan_tools_tree(opts: Options, using: Mkosi, at: Places) -> Stage:
    values = {
        "mkosi": using.digest,
        "release": at.tools.release,
        "package sources": at.tools.sources_digest,
    }
    tools = Target(at.tools.distribution, at.tools.arch, values)
    [tree] = stages.plan(opts.root, [TOOLS_TREE], tools)
    return tree


def plan(
    opts: Options, using: Mkosi, at: Places, added: Additions, carried: Emulators
) -> list[Stage]:
    """The tools tree and the stages of the wanted images, each after those that it needs.

    added is what the base holds beside the distribution's packages, carried the emulators that it
    carries.
    """
    tree = _plan_tools_tree(opts, using, at)
    is_spared = standins.are_for(at.images.distribution, at.images.arch)
    spared = {"stand-ins": standins.DIGEST} if is_spared else {}
    images = Target(
        at.images.distribution,
        at.images.arch,
        {
            "mkosi": using.digest,
            "release": at.images.release,
            "package sources": at.images.sources_digest,
            "tools tree": tree.key,
        },
        {
            additions.STAGE: {**added.inputs(), "emulators": carried.digest, **spared},
            "base-with-kernel": spared,
            "initrd": spared,
        },
    )
    wanted = opts.images or options.IMAGES[opts.arch.name]
    return [tree, *stages.plan(opts.root, wanted, images)]


def _reasons(planned: Sequence[Stage], at: Places, opts: Options) -> dict[str, str]:
    """Why those of planned have to be built that do, by name."""
    reasons = {stage.name: _reason(stage, at, opts) for stage in planned}
    return {name: reason for name, reason in reasons.items() if reason}


def _reason(stage: Stage, at: Places, opts: Options) -> str:
    """Why stage has to be built ("" where it need not)."""
    record = Record.read(at.stage(stage.name))
    if not record:
        return "not built yet"
    if opts.force and stage.name != TOOLS_TREE:
        return "--force"
    if record.key != stage.key:
        return stages.difference(record.inputs, stage.inputs)
    changed = [made.name for made in record.artifacts if not made.stands_in(opts.target)]
    return f"{changed[0]} is gone or was written to" if changed else ""


def _records(at: Places) -> dict[str, Record]:
    """The record of each stage of the images that has been built, by name."""
    folders = sorted((at.images.folder / "stages").iterdir())
    return {path.name: record for path in folders if (record := Record.read(path))}


def _write_description(
    opts: Options, using: Mkosi, at: Places, records: Mapping[str, Record], added: Additions
) -> Mapping[str, Any]:
    """Write checksums and manifest.json over what stands in out/; what the latter says."""
    standing = [
        artifact
        for record in records.values()
        for artifact in record.artifacts
        if artifact.stands_in(opts.target)
    ]
    written = manifest.of(opts, using, at.images, records, added)
    artifacts.write_checksums(opts.target, standing)
    artifacts.write_manifest(opts.target, written, standing)
    return written


def _describe(
    opts: Options,
    using: Mkosi,
    at: Places,
    records: Mapping[str, Record],
    written: Mapping[str, Any],
) -> None:
    """Write bills of materials, provenance and report, unless they are there already.

    Those that are there are of the artifacts beside them: see `artifacts.delivery`.
    """
    if all((opts.target / name).exists() for name in artifacts.DESCRIPTIONS):
        return
    # Its libraries take half a second to load, which a build with nothing to do has not.
    from scripts.description import writer  # noqa: PLC0415

    try:
        writer.write(opts, at, Tools(at.tools_tree, using.sandbox), records, written)
    except OSError as error:
        raise HarnessError(f"what was built cannot be described: {error}") from error


def _show(
    opts: Options,
    at: Places,
    planned: Sequence[Stage],
    records: Mapping[str, Record],
    *,
    built: Collection[str],
) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table("artifact", "size", "seconds", "sha512")
    for name in [stage.name for stage in planned if stage.name in artifacts.OUTPUTS]:
        seconds = f"{records[name].seconds:.0f}" if name in built else "up to date"
        for output in artifacts.OUTPUTS[name]:
            own = [made for made in records[name].artifacts if made.output == output]
            digest = own[0].sha512[:16] if len(own) == 1 else f"{len(own)} files"
            table.add_row(output, decimal(sum(made.size for made in own)), seconds, digest)
    if table.row_count:
        console.print(table)
        console.print(f"in {opts.target}")
    for name in opts.images:
        if name not in artifacts.OUTPUTS:
            console.print(f"{name} stands in {at.stage(name) / name}")
    if not built:
        console.print("everything is up to date")
