"""The ages of Debian's packages that the lab can be made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Era:
    """A Debian release whose packages become the lab's RPMs.

    newer is the release that packages come from which the first one lacks, or has only in a version
    that is older than Amazon Linux's; "" if there is none. The folder called like the era has what
    applies to it alone: packages.toml, files/ and patches/.
    """

    name: str
    release: str
    newer: str = ""

    @property
    def folder(self) -> Path:
        """The folder of what applies to this era alone."""
        return Path(__file__).with_name(self.name)

    @property
    def releases(self) -> tuple[str, ...]:
        """The Debian releases that apt needs to know, the preferred one first."""
        return (self.release, self.newer) if self.newer else (self.release,)


# Debian 12 has nearly the versions of Amazon Linux 2023: systemd 252, dnf 4.14, cloud-init 22,
# chrony 4.3. Its kernel is 6.1, though, and it has no cosign.
AMAZON = Era("amazon", "bookworm", newer="trixie")

NEWEST = Era("newest", "trixie")

ERAS: Mapping[str, Era] = {era.name: era for era in (AMAZON, NEWEST)}
