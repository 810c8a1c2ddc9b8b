"""What Finch and others need of the guest (needs.toml), and what probes ask about it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Need:
    """One thing that client needs. needs.toml explains the fields."""

    name: str
    client: str
    reason: str
    source: str
    optional: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""
    run: str = ""
    pin: Mapping[str, str] = field(default_factory=dict)
    package: str = ""
    accepts: str = ""
    least: int = 0
    module: str = ""

    @property
    def question(self) -> str:
        """The line that a probe reads about it: its name, and the words that its kind takes."""
        if self.accepts or self.least:
            return f"{self.name} {self.module or '-'} {self.least} {self.accepts}".rstrip()
        return f"{self.name} {self.run}".rstrip()


@cache
def table() -> Mapping[str, tuple[Need, ...]]:
    """The needs of each kind, in the order of needs.toml. The probe of a kind has its name."""
    data = tomllib.loads(Path(__file__).with_name("needs.toml").read_text())
    return {
        kind: tuple(Need(name, **entry) for entry in entries for name in entry.pop("names"))
        for kind, entries in data.items()
    }


def questions(probe: str) -> str:
    """The lines that the probe called probe reads, "" if it is not about needs."""
    return "\n".join(need.question for need in table().get(probe, ()))
