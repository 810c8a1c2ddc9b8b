"""Obtains what images hold besides the distribution's own packages, and lays it out for mkosi."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from scripts.build.workshop import Workshop
from scripts.catalog import flag
from scripts.distributions import amazonlinux
from scripts.doctor import doctor
from scripts.emulation import bake, emulators
from scripts.emulation.emulators import Emulators
from scripts.options import BAKE
from scripts.packages import rpms, supplementary, thirdparty
from scripts.stages.additions import Additions
from scripts.system.errors import UsageError


def require(session: str, shop: Workshop) -> None:
    """Check that the machine and the mirror are fit for session before anything long begins.

    Raises MachineError or HarnessError that says what is wrong.
    """
    options = shop.options
    doctor.require(session, options.folders.work)
    if options.target.distribution.mirror_layout == "cdn" and not options.sources.offline:
        place = shop.places.images
        amazonlinux.check(place.release, place.arch, options.sources.mirror)
        supplementary.check(options, place)


def add(shop: Workshop, *, session: str) -> Additions:
    """Obtain our own packages and third-party files, and lay them out for mkosi.

    session is the one that the machine must be fit for if something has to be obtained.
    """
    options = shop.options
    names = [*thirdparty.names(options), *supplementary.names(options)]
    _check_allowed(options.packages.allow_missing, names)
    planned = rpms.plan(options, shop.places.images)
    is_due = planned is not None and planned.reason != ""
    if is_due or thirdparty.lacking(options):
        require(session, shop)
    if planned and is_due:
        planned = rpms.with_engine(planned)
    added = thirdparty.download(options, shop.progress)
    added += supplementary.add(options, shop.places.images, shop.progress)
    if planned:
        with shop.emulation() if is_due else nullcontext():
            added += rpms.build(planned, shop.progress)
    added.lay_out(shop.places.images.additions)
    return added


def _check_allowed(allowed: Sequence[str], names: Sequence[str]) -> None:
    """Raise UsageError if one of allowed is not among names."""
    for name in allowed:
        if name not in names:
            raise UsageError(
                f"{flag('allow-missing')} {name}: nothing of that name is pinned",
                hint=f"pinned are {', '.join(names)}",
            )


def obtain_emulators(shop: Workshop) -> Emulators:
    """Obtain the emulators that the images carry."""
    options = shop.options
    if options.sources.emulators == BAKE:
        return bake.find(options) or _bake_emulators(shop)
    return emulators.download(
        options.folders.root,
        options.folders.work,
        options.target.arch,
        shop.progress,
        mirror=options.sources.mirror
        if options.target.distribution.mirror_layout == "debian"
        else None,
        given=options.sources.mkosi_source,
        offline=options.sources.offline,
    )


def _bake_emulators(shop: Workshop) -> Emulators:
    """Build the emulators that the images carry in Docker."""
    require("build", shop)
    return bake.build(shop.options, shop.progress)


def write_emulators(carried: Emulators, shop: Workshop) -> None:
    """Write the tree of emulators that the base image is made with."""
    place = shop.places.images
    emulators.write_tree(carried, place.arch, place.emulators)
