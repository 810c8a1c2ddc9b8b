"""Builds the base of Amazon Linux with sshfs from the lab's SPAL. This takes a few minutes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from scripts import arch
from tests import manifests
from tests.e2e.checkout import Arg, Build, Copy, amazonlinux, copy, environ
from tests.lab import tampering
from tests.lab.repository import World
from tests.lab.server import Fault, Kind, LabServer
from tests.lab.tampering import Tampering

ARCH = arch.X86_64
SSHFS = "fuse-sshfs-3.7.3-2.5.spal2023"
LIST = r"/spal/mirrors/.*/mirror\.list$"

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not ARCH.is_native, reason="tried on x86_64 machines only"),
]


@pytest.fixture(scope="module")
def copied(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the checkout with its tools tree, if any, but without builds of Amazon Linux."""
    root = tmp_path_factory.mktemp("spal") / "finch ä images"
    (checkout / ".work").mkdir(exist_ok=True)
    with FileLock(checkout / ".work/lock", timeout=900):
        return copy(checkout, root, checkout / ".work", ["mkosi", "emulators", "tools/*/stages"])


def build_base(copied: Copy, lab: LabServer, made: World, *args: Arg) -> Build:
    """Build the base without our own packages, and return the finished build."""
    target = [*amazonlinux(lab, made), "--without-packages", "--image", "base", *args]
    build = Build([sys.executable, "-m", "scripts.sessions.build", *target], copied.root, environ())
    build.wait(within=600)
    return build


@pytest.fixture(scope="module")
def base(copied: Copy, lab: LabServer, made: World) -> Path:
    """The folder of the manifest of a base that was built without an engine."""
    build = build_base(copied, lab, made)
    assert build.process.returncode == 0, build.output
    assert f"{SSHFS} comes from SPAL" in build.output
    return copied.root / f"out/amazonlinux/{ARCH}"


def sshfs(base: Path) -> list[dict[str, str]]:
    """What manifest.json says of the base's sshfs."""
    manifests.check(base / "manifest.json")
    packages = json.loads((base / "manifest.json").read_text())["images"]["base"]["packages"]
    return [package for package in packages if package["name"] == "fuse-sshfs"]


def test_the_base_has_spals_sshfs_and_every_record_says_so(
    base: Path, copied: Copy, made: World
) -> None:
    [package] = sshfs(base)
    [blob] = (made.spal(made.releases[0]) / ".packages").read_text().splitlines()[1:]
    assert package == {
        "name": "fuse-sshfs",
        "version": "3.7.3-2.5.spal2023",
        "architecture": ARCH.name,
        "sha256": blob.partition("/")[0],
        "repository": "spal",
    }
    manifest = json.loads((base / "manifest.json").read_text())
    assert manifest["additions"]["supplementary"] == {"fuse-sshfs": SSHFS}
    assert manifest["images"]["base"]["inputs"]["supplementary package fuse-sshfs"] == SSHFS
    elsewhere = [one for one in manifest["images"]["base"]["packages"] if "repository" in one]
    assert elsewhere == [package]
    assert (copied.work / f"amazonlinux/{ARCH}/stages/base/base/usr/bin/sshfs").exists()


def test_it_is_kept_for_a_build_without_a_network(
    base: Path, copied: Copy, lab: LabServer, made: World
) -> None:
    before = sshfs(base)
    lab.requests.clear()
    build = build_base(copied, lab, made, "--offline", "--force")
    assert build.process.returncode == 0, build.output
    assert lab.requests == []
    assert sshfs(base) == before


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("wrong", Tampering, ids=lambda wrong: wrong.value)
def test_an_sshfs_that_is_not_what_amazon_signed_is_not_installed(
    copied: Copy, lab: LabServer, made: World, wrong: Tampering
) -> None:
    instead = tampering.spal_with(made, wrong)
    with lab.broken(Fault(Kind.STALE, LIST, instead=instead)):
        build = build_base(copied, lab, made, "--force")
    assert build.process.returncode == 1
    assert "fuse-sshfs" in build.error[0]
    assert "Traceback" not in build.output


@pytest.mark.usefixtures("base")
def test_a_mirror_without_spal_is_told_apart_and_there_is_a_way_on(
    copied: Copy, lab: LabServer, made: World
) -> None:
    with lab.broken(Fault(Kind.NOT_FOUND, LIST)):
        build = build_base(copied, lab, made, "--force")
        assert build.process.returncode == 1
        assert "has no Supplementary Packages (SPAL) of the release" in build.error[0]
        assert "--allow-missing fuse-sshfs" in build.error[1]
        build = build_base(copied, lab, made, "--allow-missing", "fuse-sshfs")
    assert build.process.returncode == 0, build.output
    assert sshfs(copied.root / f"out/amazonlinux/{ARCH}") == []
