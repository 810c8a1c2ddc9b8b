"""Parses what options of `./nox -s lab` take: --port, and --fault and --tamper, which spoil things.

A wrong value raises ArgumentTypeError, which argparse reports together with the option's name.
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


# The largest TCP port.
LARGEST_PORT = 65_535


def port(text: str) -> int:
    """Return the TCP port that text names, 0 for any free one."""
    if not (text.isascii() and text.isdecimal() and int(text) <= LARGEST_PORT):
        raise argparse.ArgumentTypeError(f"must be 0 to {LARGEST_PORT}, not {text!r}")
    return int(text)


def fault(text: str) -> Fault:
    """Return the fault that text (KIND=REGEX[:TIMES]) describes."""
    name, _, rest = text.partition("=")
    kind = _named(KINDS, name)
    match = TIMED.fullmatch(rest)
    pattern, times = (match[1], int(match[2])) if match else (rest, None)
    if not pattern:
        raise argparse.ArgumentTypeError(f"{text!r} has no REGEX: write KIND=REGEX[:TIMES]")
    if times == 0:
        raise argparse.ArgumentTypeError(f"TIMES must be 1 or more in {text!r}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise argparse.ArgumentTypeError(
            f"{pattern!r} is not a regular expression: {error}"
        ) from None
    return Fault(kind, pattern, times)


def tampered(text: str) -> tuple[Tampering, str]:
    """Return the tampering and the package (or METADATA) that text (KIND=PACKAGE) describes."""
    name, _, package = text.partition("=")
    kind = _named(TAMPERINGS, name)
    if not package:
        raise argparse.ArgumentTypeError(f"{text!r} has no PACKAGE: write KIND=PACKAGE")
    return kind, package


def leading_to(world: World, kind: Tampering, package: str) -> Fault:
    """Return a fault that leads builds of any release to a repository with package tampered with.

    It leaves source RPMs alone. Raises UsageError if the lab has no such package.
    """
    guid = tampering.repository_with(world, kind, package)
    return Fault(Kind.STALE, rf"/{world.arch}/mirror\.list$", instead=guid)


def describe(given: Fault) -> str:
    """Describe a fault in words, so that a failed build can be traced to it."""
    times = f", the first {given.times} of them" if given.times else ""
    return f"{given.kind.value} for requests whose path contains {given.pattern}{times}"


def _named(among: Mapping[str, Name], name: str) -> Name:
    if name not in among:
        raise argparse.ArgumentTypeError(f"KIND must be one of {', '.join(among)}, not {name!r}")
    return among[name]
