"""Asks a person at the terminal whether to pin a digest that a build lacks."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from scripts.options import Options
from scripts.pins import offers
from scripts.pins.offers import Offer
from scripts.system.progress import Progress

YES = ("y", "yes")


def complete_pins(options: Options, environ: Mapping[str, str], progress: Progress) -> None:
    """Pin the digests that a build with options lacks, if a person at the terminal agrees.

    Raises UsageError, which says how to pin it, if one is missing and nobody is asked or agrees. CI
    and a build without a network look nothing up: the build itself refuses what is not pinned.
    """
    if options.sources.offline or environ.get("CI"):
        return
    found = offers.find(options)
    if not found:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty() and _agrees(found, options, progress)):
        raise offers.refusal(found, options)
    for offer in found:
        offer.accept()
        progress.say(f"{offer.pin.name} {offer.update.newest} is pinned; commit the change")


def _agrees(found: Sequence[Offer], options: Options, progress: Progress) -> bool:
    """Ask once whether to pin all that was found."""
    names = " and ".join(offer.pin.name for offer in found)
    for offer in found:
        progress.say(f"no sha256 is pinned for {options.target.arch}, but {offer}")
    try:
        return input(f"Pin {names} now and continue? [y/N] ").strip().lower() in YES
    except (EOFError, UnicodeError):  # nothing came, or something that is no text
        return False
