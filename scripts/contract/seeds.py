"""What configures the guest: the files of its cidata disk, by the kind that a scenario names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scripts.boot import cidata


@dataclass(frozen=True)
class Seed:
    """The files of a NoCloud disk by name, and the user that they create, who may use sudo."""

    files: Mapping[str, str] = field(default_factory=dict)
    user: str = cidata.USER


@dataclass(frozen=True)
class Occasion:
    """The start that a seed is for.

    start counts the machine's starts from 1, and name is that of the scenario. public_key may log
    in. mac_addresses are those of the cards, settings those of the scenario's table `seed`, and
    environment what the host's services have to say.
    """

    name: str
    start: int
    public_key: str
    mac_addresses: Sequence[str]
    settings: Mapping[str, object]
    environment: Mapping[str, str]


def plain(occasion: Occasion) -> Seed:
    """Return a seed that creates a user, and configures nothing else."""
    return Seed(cidata.files(f"finch-{occasion.name}", occasion.public_key))


KINDS: Mapping[str, Callable[[Occasion], Seed]] = {"plain": plain}
