"""The pins that packages of our own are built from in the lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.arch import X86_64
from scripts.packages import recipes
from tests.lab.keys import Key
from tests.lab.repository import FEDORA_SOURCES, MARK, World
from tests.lab.workshop import write_pins

URL = "http://127.0.0.1:8023"
IMAGE = f"127.0.0.1:5000/amazonlinux/amazonlinux@sha256:{'a' * 64}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A lab whose sshfs is of a release that nobody else has."""
    made = World(tmp_path, X86_64, ("2023.12.20260930",), Key("F" * 40, "", ""))
    folder = made.www / FEDORA_SOURCES
    folder.mkdir(parents=True)
    (folder / MARK).write_text(
        f"{made.key.fingerprint}\n{'b' * 64}/fuse-sshfs-3.7.3-99.fc43.src.rpm"
    )
    return made


def test_the_lab_pins_what_it_has_and_not_what_the_project_pins(
    world: World, tmp_path: Path
) -> None:
    pins = recipes.read(write_pins(tmp_path, world, URL, IMAGE))
    nevras = {recipe.name: recipe.nevra for recipe in pins.recipes}

    assert nevras == {"cloud-init": "cloud-init", "fuse-sshfs": "fuse-sshfs-3.7.3-99.fc43"}
    assert pins.reference == IMAGE
