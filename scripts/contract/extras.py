"""Disks with programs that are laid into a guest for a scenario, and are in no image."""

from __future__ import annotations

from pathlib import Path

from scripts.arch import Arch
from scripts.mkosi.sandbox import Tools


def names() -> list[str]:
    """Return the names of all disks."""
    return []


def build(name: str, arch: Arch, tools: Tools, kept: Path) -> Path:
    """Return the image of the disk called name, for guests of arch."""
    raise NotImplementedError(name, arch, tools, kept)
