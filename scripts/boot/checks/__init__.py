"""The checks of a booted image, which judge the collected facts and nothing else."""

from __future__ import annotations

from scripts.boot.checks import (
    amazonlinux,
    boots,
    clock,
    consoles,
    debian,
    disk,
    emulators,
    files,
    image,
    logins,
    mounts,
    needs,
    network,
    programs,
    services,
    start,
)
from scripts.boot.checks.rule import rules_of
from scripts.boot.facts import Facts
from scripts.boot.results import Check, Status
from scripts.catalog import Distribution

# The subjects, in the order in which results list their checks: that of a test's course.
SUBJECTS = (
    disk,
    start,
    consoles,
    mounts,
    services,
    clock,
    network,
    needs,
    programs,
    boots,
    emulators,
    amazonlinux,
    debian,
    logins,
    files,
    image,
)

RULES = tuple(rule for subject in SUBJECTS for rule in rules_of(subject))


def probes_read(distribution: Distribution, boot: str) -> frozenset[str]:
    """The names of the probes that a distribution's checks read in boot, "first" or "second"."""
    return frozenset(
        name for rule in RULES if rule.is_for(distribution) for name in rule.asks(boot)
    )


def check_all(facts: Facts) -> list[Check]:
    """The outcome of each check that applies to the image's distribution."""
    return [rule.outcome(facts) for rule in RULES if rule.is_for(facts.distribution)]


def fatal(facts: Facts) -> bool:
    """Return whether a failed check makes booting pointless."""
    return any(rule.outcome(facts).status is Status.FAILED for rule in RULES if rule.fatal)
