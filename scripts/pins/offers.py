"""Offers to pin digests that a build lacks and that their publishers name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from scripts.options import Options
from scripts.packages import thirdparty
from scripts.packages.thirdparty import PinnedFile
from scripts.pins import edits
from scripts.pins.lookups import Lookups, Update
from scripts.system.errors import HarnessError
from scripts.system.fetch import BRIEF, Settings


@dataclass(frozen=True)
class Offer:
    """A pin that lacks a digest, and the update that would add it: see `Lookups.third_party`."""

    pin: PinnedFile
    update: Update

    def __str__(self) -> str:
        return f"{self.update.source} lists the sha256 of {self.pin.name} {self.update.newest}"

    def accept(self) -> None:
        """Pin the digest in the checkout. Raises HarnessError."""
        edits.apply(self.update.edits)


def find(opts: Options, *, settings: Settings = BRIEF) -> list[Offer]:
    """Return an offer for each pin of the checkout that lacks a digest for a build with opts.

    A source counts only if it is asked over TLS. Raises UsageError, as a build does, if a pin lacks
    its digest and its publisher lists none, or if the sources do not answer.
    """
    return [_offer(pin, opts, settings) for pin in thirdparty.unpinned(opts)]


def _offer(pin: PinnedFile, opts: Options, settings: Settings) -> Offer:
    if opts.sources.third_party_pins or not _uses_tls(pin):
        raise thirdparty.unverified(pin, opts)
    try:
        update = Lookups(opts.folders.root, settings).third_party(pin, computes=False)
    except HarnessError as error:
        raise thirdparty.unverified(pin, opts, error.message) from error
    if not any(edit.key.endswith(f".{opts.target.arch}") for edit in update.edits):
        raise thirdparty.unverified(pin, opts)
    return Offer(pin, update)


def refusal(offers: Sequence[Offer], opts: Options) -> HarnessError:
    """Return the error for a build with offers, at least one, that have not been accepted."""
    return thirdparty.unverified(offers[0].pin, opts, str(offers[0]))


def _uses_tls(pin: PinnedFile) -> bool:
    """Whether everything that would be asked about pin is asked over TLS."""
    return all(urlsplit(url).scheme == "https" for url in (pin.releases, pin.checksums) if url)
