"""Attacks real builds through the kept packages, which CI restores from a cache. Some minutes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from scripts import arch
from scripts.build import freshness
from scripts.system.digests import file_digest
from tests.e2e.checkout import DEBIAN, TOOLS, Arg, Build, Copy, amazonlinux, copy, environ
from tests.forgery import forge
from tests.lab.repository import World
from tests.lab.server import LabServer

NATIVE = arch.native().name
ARCHIVES = "packages/cache/apt/archives"

# A package of the base whose postinst is called in every build, and one of the essential ones,
# whose archive mkosi itself unpacks.
VICTIM, ESSENTIAL = "adduser", "sed"

MARK = "finch-was-here"
POSTINST = f"#!/bin/sh\ntouch /{MARK}\n"


@dataclass(frozen=True)
class Site:
    """A copy of the checkout in which the base of one distribution is built."""

    copied: Copy
    target: tuple[Arg, ...]

    @property
    def place(self) -> Path:
        """The folder of the images' stages and packages."""
        return self.copied.work / str(self.target[1]) / NATIVE

    @property
    def log(self) -> str:
        path = self.copied.root / "out" / str(self.target[1]) / NATIVE / "build.log"
        return path.read_text(errors="replace")

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of each package of the base, by name, as its record has it."""
        record = json.loads((self.place / "stages/base/stage.json").read_text())
        return {package["name"]: package.get("sha256", "") for package in record["packages"]}

    def build(self, *args: Arg) -> Build:
        """Build the base, and return the finished build."""
        command = [sys.executable, "-m", "scripts.sessions.build", *self.target, *args]
        build = Build([*command, "--image", "base", "--force"], self.copied.root, environ())
        build.wait(within=600)
        return build

    def kept(self, pattern: str) -> Path:
        """The one kept package whose name matches pattern."""
        [path] = (self.place / "packages").rglob(pattern)
        return path


def make(checkout: Path, root: Path, *target: Arg) -> Site:
    (checkout / ".work").mkdir(exist_ok=True)
    with FileLock(checkout / ".work/lock", timeout=900):
        return Site(copy(checkout, root, checkout / ".work", [*TOOLS, "tools/*/stages"]), target)


@pytest.fixture(scope="module")
def debian(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site that has built Debian's base once, and so has kept its packages."""
    site = make(checkout, tmp_path_factory.mktemp("debs") / "finch ä images", *DEBIAN)
    build = site.build()
    assert build.process.returncode == 0, build.output
    return site


def test_planted_packages_and_lists_reach_no_image_and_are_told(debian: Site) -> None:
    forged = [debian.kept(f"{name}_*.deb") for name in (VICTIM, ESSENTIAL)]
    good = [file_digest(path) for path in forged]
    for path in forged:
        size = path.stat().st_size
        forge(path, POSTINST)
        assert path.stat().st_size == size
    linked = debian.kept("bash_*.deb")
    linked.unlink()
    linked.symlink_to("/etc/passwd")
    renamed = debian.kept("tar_*.deb")
    renamed.with_name("tar_99_amd64.deb").write_bytes(renamed.read_bytes())
    lists = debian.place / "packages/lib/apt/lists"
    lists.mkdir(parents=True)
    (lists / "mirror_dists_trixie_main_binary-amd64_Packages").write_text("Package: evil\n")

    build = debian.build()

    assert build.process.returncode == 0, build.output
    assert not (debian.place / "stages/base/base" / MARK).exists()
    assert [file_digest(path) for path in forged] == good
    assert [debian.digests[name] for name in (VICTIM, ESSENTIAL)] == good
    assert not linked.is_symlink()
    for path in (*forged, linked):
        assert f"the kept package '{path.name}' was removed" in build.output
        assert f"the kept package '{path.name}' was removed" in debian.log
    for name in ("tar_99_amd64.deb", "lib"):
        assert f"the kept package '{name}' was removed: no index names it" in debian.log
    assert not lists.exists()


def test_every_package_of_the_base_is_recorded_with_the_digest_of_its_file(debian: Site) -> None:
    files = {path.name.partition("_")[0]: path for path in debian.place.rglob("archives/*.deb")}

    assert len(debian.digests) > 100
    assert {name: file_digest(files[name]) for name in debian.digests} == debian.digests


def test_an_index_older_than_one_that_was_used_ends_the_build(debian: Site) -> None:
    memory = debian.place / "newest-index.json"
    later = datetime.now(UTC) + timedelta(days=1)
    freshness.remember(memory, {"trixie-updates": later})

    build = debian.build()
    allowed = debian.build("--allow-older-index", "--offline")

    assert build.process.returncode == 1
    assert "the package index of trixie-updates was made on" in build.error[0]
    assert f"{later:%Y-%m-%d}" in build.error[0]
    assert "--allow-older-index" in build.error[1]
    assert allowed.process.returncode == 0, allowed.output


@pytest.fixture(scope="module")
def amazon(
    checkout: Path, made: World, lab: LabServer, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """A site that has built the base of Amazon Linux once, from the lab."""
    if made.arch.name != NATIVE:
        pytest.skip("tried on x86_64 machines only")
    target = [*amazonlinux(lab, made), "--without-packages"]
    site = make(checkout, tmp_path_factory.mktemp("rpms") / "finch ä images", *target)
    build = site.build()
    assert build.process.returncode == 0, build.output
    return site


def test_a_signed_rpm_that_is_not_the_one_in_the_index_is_not_installed(amazon: Site) -> None:
    replaced, damaged = amazon.kept("bash-5*.rpm"), amazon.kept("chrony-*.rpm")
    before = amazon.digests
    other = amazon.kept("sed-*.rpm").read_bytes()
    replaced.write_bytes(other)
    replaced.with_name("sed-0.1-1.x86_64.rpm").write_bytes(other)
    damaged.write_bytes(bytes([*damaged.read_bytes()[:-1], 0]))

    build = amazon.build()

    assert build.process.returncode == 0, build.output
    assert amazon.digests == before
    assert all(digest for name, digest in before.items() if name != "gpg-pubkey")
    assert [file_digest(replaced), file_digest(damaged)] == [before["bash"], before["chrony"]]
    for path in (replaced, damaged):
        assert f"the kept package '{path.name}' was removed" in build.output
    assert "the kept package 'sed-0.1-1.x86_64.rpm' was removed: no index" in amazon.log
