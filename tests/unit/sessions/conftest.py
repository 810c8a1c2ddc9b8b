"""A machine on which sessions build with a fake mkosi, and need nothing from elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts import arch
from scripts.doctor import doctor
from scripts.emulation import emulators
from scripts.emulation.emulators import TABLE, EmulationTable, Emulators
from scripts.mkosi import installation, source
from scripts.options import Options
from scripts.sessions import arguments
from scripts.stages.places import Places
from scripts.system.digests import text_digest
from tests import builds
from tests.unit.build.fakes import FakeMkosi

STATUS = """\
Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2
"""


@dataclass(frozen=True)
class Site:
    """Where sessions build: mkosi is the fake one, folder has all that they write."""

    folder: Path
    mkosi: FakeMkosi

    @property
    def argv(self) -> list[str]:
        """The words that make a session build Debian here, for this machine's architecture."""
        folders = ["--work", f"{self.folder}/work", "--out", f"{self.folder}/out"]
        return ["--distribution", "debian", "--mirror", "http://mirror.test/debian", *folders]

    @property
    def options(self) -> Options:
        return arguments.parse(self.argv, {})

    @property
    def places(self) -> Places:
        return Places.prepare(self.options)

    @property
    def out(self) -> Path:
        """The folder of the artifacts."""
        return self.options.artifacts

    @property
    def built(self) -> list[str]:
        """The stages that mkosi has built, in order."""
        return [event.stage for event in self.mkosi.events("end")]


def carried(folder: Path, checkout: Path) -> Emulators:
    """Emulators that are there, as far as their digests tell."""
    table = EmulationTable.read(checkout / TABLE)
    programs = [target.program for target in table.emulated.values()]
    folder.mkdir()
    for name in programs:
        (folder / name).write_text(name)
    return Emulators(folder, table, "a.deb", {name: text_digest(name) for name in programs})


@pytest.fixture
def site(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name in ("ARCH", "MKOSI_SOURCE", "ECR_CACHE_REPO"):
        monkeypatch.delenv(name, raising=False)
    mkosi = FakeMkosi.make(tmp_path / "fake")
    known = carried(tmp_path / "emulators", checkout)
    monkeypatch.setattr(source, "obtain", lambda *_, **__: mkosi)
    monkeypatch.setattr(installation, "install", lambda _: None)
    monkeypatch.setattr(emulators, "download", lambda *_, **__: known)
    monkeypatch.setattr(doctor, "require", lambda *_: None)
    made = tmp_path / "made"
    made.mkdir()
    builds.write_disk(made / "os-image.raw", {"esp": 1, "root": 1})
    builds.write_uki(made / "os-image.efi", {".linux": b"kernel", ".initrd": b"initrd"})
    mkosi.tell("os-image", {"copies": os.fspath(made)})
    tree = {"var/lib/dpkg/status": STATUS, "usr/lib/os-release": 'ID=debian\nVERSION_ID="13"\n'}
    mkosi.tell("base", {"files": {f"base/{path}": text for path, text in tree.items()}})
    mkosi.tell("tools-tree", {"files": {"tools-tree/usr/lib/os-release": "ID=debian\n"}})
    assert arch.native().is_native
    return Site(tmp_path, mkosi)
