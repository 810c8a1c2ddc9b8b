"""Packages that dnf installs from Amazon's repository of Supplementary Packages (SPAL).

They take the place of packages of our own that are not built. Amazon signs them, and dnf verifies
them as it does the distribution's other packages.
"""

from __future__ import annotations

from scripts import catalog
from scripts.distributions import amazonlinux
from scripts.distributions.amazonlinux import SPAL
from scripts.options import Options
from scripts.packages import recipes
from scripts.packages.recipes import PackagePins
from scripts.stages import places
from scripts.stages.additions import Additions
from scripts.stages.places import Place
from scripts.system.errors import HarnessError, UsageError
from scripts.system.fetch import MissingError
from scripts.system.progress import Progress


def names(opts: Options) -> list[str]:
    """Return the packages that may come from SPAL. Raises UsageError if the pins make no sense."""
    if not opts.target.distribution.has_rpms:
        return []
    return list(recipes.read(opts.packages.recipes).supplementary)


def packages(opts: Options, place: Place) -> dict[str, str]:
    """Map each package to install from SPAL to what dnf is asked for: name, version and release.

    place is where the images are built. Raises UsageError if the pins make no sense, or if they
    name SPAL as the source of a package, but the release of place has no SPAL.
    """
    if not opts.target.distribution.has_rpms:
        return {}
    pins = recipes.read(opts.packages.recipes)
    wanted = [name for name in _wanted(pins, opts) if name not in opts.packages.allow_missing]
    if amazonlinux.has_spal(place.release):
        return {name: _asked(pins.supplementary[name], opts, place) for name in wanted}
    if not opts.packages.skipped and wanted:
        raise UsageError(
            f"{wanted[0]} cannot come from SPAL: {_why_none(place)}",
            hint=f"give it another source in {opts.packages.recipes}, or "
            f"{catalog.option('allow-missing', wanted[0])} builds without it",
        )
    return {}


def add(opts: Options, place: Place, progress: Progress) -> Additions:
    """Return the packages to install from SPAL, and say which those are, and which are left out.

    Raises UsageError as `packages` does.
    """
    found = packages(opts, place)
    for asked in found.values():
        progress.say(f"{asked} comes from SPAL")
    if opts.target.distribution.has_rpms:
        for name in _wanted(recipes.read(opts.packages.recipes), opts):
            if name not in found:
                is_allowed = name in opts.packages.allow_missing
                reason = catalog.option("allow-missing", name) if is_allowed else _why_none(place)
                progress.say(f"{name} is left out: {reason}")
    return Additions(supplementary=found)


def check(opts: Options, place: Place) -> None:
    """Check that place's mirror has SPAL if a build with opts needs it. Raises HarnessError."""
    needed = packages(opts, place)
    if not needed:
        return
    try:
        amazonlinux.check_spal(place.release, place.arch, place.mirror)
    except MissingError as error:
        name = next(iter(needed))
        raise HarnessError(
            error.message, hint=f"{catalog.option('allow-missing', name)} builds without {name}"
        ) from error


def repositories(opts: Options, place: Place) -> tuple[str, ...]:
    """Return the repositories to enable besides the distribution's own. Raises as `packages`."""
    return (SPAL,) if packages(opts, place) else ()


def _wanted(pins: PackagePins, opts: Options) -> list[str]:
    """Return the packages that SPAL should provide, whether it can or not."""
    built = () if opts.packages.skipped else {recipe.name for recipe in pins.built}
    return [name for name in pins.supplementary if name not in built]


def _asked(nevra: str, opts: Options, place: Place) -> str:
    """Return what dnf is asked for: of another release than the pinned one, no RPM release."""
    is_pinned = place.release == places.release_of(opts.folders.root, place.distribution)
    return nevra if is_pinned else nevra.rpartition("-")[0]


def _why_none(place: Place) -> str:
    first = amazonlinux.FIRST_WITH_SPAL
    return f"the release {place.release} is older than {first}, the first with SPAL"
