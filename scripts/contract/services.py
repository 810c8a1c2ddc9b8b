"""What runs on the host beside a guest, on loopback, by the name that a scenario gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from scripts.system.progress import Progress


@dataclass(frozen=True)
class Host:
    """Where services run: a scratch folder for this scenario, and the folder of kept downloads."""

    work: Path
    kept: Path
    progress: Progress


@dataclass(frozen=True)
class Offer:
    """What a service offers.

    environment tells scripts and seeds of it. sockets and folders are tags of mounts (hardware.py).
    control is what actions change the service with, if anything.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    sockets: Mapping[str, Path] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    control: object = None


# Each starts its service for the length of a with block.
SERVICES: Mapping[str, Callable[[Host], AbstractContextManager[Offer]]] = {}
