"""The switches of `./nox -s lab` that have something go wrong: how they are written, as faults.

What makes no sense is an ArgumentTypeError, which argparse reports with the option's name.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from tests.lab import tampering
from tests.lab.repository import World
from tests.lab.server import Fault, Kind
from tests.lab.tampering import Tampering

KINDS: Mapping[str, Kind] = {kind.value.replace(" ", "-"): kind for kind in Kind}
TAMPERINGS: Mapping[str, Tampering] = {each.name.lower(): each for each in Tampering}

Name = TypeVar("Name", bound=Enum)

TIMED = re.compile(r"(.*):(\d+)", re.DOTALL)


def fault(text: str) -> Fault:
    """The fault that KIND=REGEX[:TIMES] says."""
    name, _, rest = text.partition("=")
    kind = _named(KINDS, name)
    match = TIMED.fullmatch(rest)
    pattern, times = (match[1], int(match[2])) if match else (rest, None)
    if not pattern:
        raise argparse.ArgumentTypeError(f"{text!r} lacks the REGEX of KIND=REGEX")
    if times == 0:
        raise argparse.ArgumentTypeError(f"{text!r} would never happen: TIMES is at least 1")
    try:
        re.compile(pattern)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{pattern!r} is no REGEX: {error}") from None
    return Fault(kind, pattern, times)


def tampered(text: str) -> tuple[Tampering, str]:
    """What is wrong with which package, as KIND=PACKAGE says."""
    name, _, package = text.partition("=")
    kind = _named(TAMPERINGS, name)
    if not package:
        raise argparse.ArgumentTypeError(f"{text!r} lacks the PACKAGE of KIND=PACKAGE")
    return kind, package


def leading_to(world: World, kind: Tampering, package: str) -> Fault:
    """The fault that has whoever builds images find package tampered with, in any release.

    Source RPMs come from where they did. Raises UsageError where the lab has no such package.
    """
    guid = tampering.repository_with(world, kind, package)
    return Fault(Kind.STALE, rf"/{world.arch}/mirror\.list$", instead=guid)


def describe(given: Fault) -> str:
    """What a fault does, for whoever wonders why a build failed."""
    times = f", the first {given.times}" if given.times else ""
    return f"{given.kind.value} for paths with {given.pattern}{times}"


def _named(among: Mapping[str, Name], name: str) -> Name:
    if name not in among:
        raise argparse.ArgumentTypeError(f"the KIND {name!r} is none of {', '.join(among)}")
    return among[name]
