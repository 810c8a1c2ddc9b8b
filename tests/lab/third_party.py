"""Makes stand-ins for third-party releases on GitHub from Debian packages, and pins for them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import tomlkit

from scripts.catalog import ROOT
from scripts.packages import thirdparty
from scripts.system.digests import file_digest
from scripts.system.extraction import extract
from tests.lab.debs import Deb
from tests.lab.repository import World

# For each pin: the Debian package with the program, and the program's path there.
PROGRAMS = {
    "docker-credential-pass": (
        "golang-docker-credential-helpers",
        "usr/bin/docker-credential-pass",
    ),
    "pass": ("pass", "usr/bin/pass"),
}

COSIGN = "cosign"

Releases = Mapping[str, tuple[str, Path]]


def publish(world: World, rpm: Path, debs: Sequence[Deb]) -> None:
    """Lay out cosign's RPM and the programs in debs as third-party releases."""
    by_name = {deb.name: deb for deb in debs}
    with tempfile.TemporaryDirectory(dir=world.www) as scratch:
        releases = {COSIGN: (rpm.name.split("-")[1], rpm)}
        for name, (package, path) in PROGRAMS.items():
            folder = Path(scratch) / name
            extract(by_name[package].path, folder)
            releases[name] = (by_name[package].version.split("+")[0].split("-")[0], folder / path)
        _lay_out(world, releases)


def _lay_out(world: World, releases: Releases) -> None:
    """Copy the files to the paths of the project's own pins, and write pins with their digests."""
    path = ROOT / thirdparty.PINS
    document = tomlkit.parse(path.read_text())
    for pin in thirdparty.read_pins(path):
        version, file = releases[pin.name]
        url = urlsplit(thirdparty.fill(pin.url, version, world.arch))
        target = world.third_party / f"{url.netloc}{url.path}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or file_digest(target) != file_digest(file):
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copyfile(file, temporary)
            temporary.replace(target)
        table = document[pin.name]
        assert isinstance(table, tomlkit.items.Table)
        table["version"] = version
        known = table["sha256"]
        assert isinstance(known, tomlkit.items.Table)
        for arch in list(known):
            known[arch] = (
                file_digest(target) if arch in (world.arch.name, thirdparty.NOARCH) else ""
            )
    world.pins_file.write_text(tomlkit.dumps(document))
