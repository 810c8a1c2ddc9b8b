"""Adds a sixth image and a third distribution with entries in data and mkosi files only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from filelock import FileLock

from scripts import arch
from scripts.catalog import ROOT
from tests.e2e.checkout import TOOLS, Build, Copy, copy, copy_tree, environ

NATIVE = arch.native().name
WORK = ROOT / ".work"

ENTRIES = """
[distributions.mydebian]
title = "My Debian"
mkosi = "debian"
package-format = "deb"
mirror-layout = "debian"
pinned-by = "Release"
product = "mine"

[images.tiny-rootfs]
arches = ["x86_64", "aarch64"]
artifacts = ["tiny-rootfs.tar.gz"]
"""

# The harness reads these to order the stages; mkosi itself only without the profile `staged`.
DEPENDENCIES = """
[Match]
Profiles=!staged

[Config]
Dependencies=base
"""

IMAGE = """
[Output]
Format=tar
CompressOutput=none
ManifestFormat=json

[Content]
BaseTrees=$FINCH_OUTPUT/base
Bootable=no
RemoveFiles=/usr/share/doc
"""

MINE = ("--distribution", "mydebian", "--image", "tiny-rootfs")


@pytest.fixture(scope="module")
def copied(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the checkout with the two new entries, and with its packages and tools."""
    root = tmp_path_factory.mktemp("catalog") / "finch"
    WORK.mkdir(exist_ok=True)
    with FileLock(WORK / "lock", timeout=900):
        made = copy(checkout, root, WORK, TOOLS)
        packages = WORK / "debian" / NATIVE / "packages"
        if packages.exists():
            copy_tree(packages, root / ".work/mydebian" / NATIVE / "packages")
    with (root / "scripts/catalog.toml").open("a") as catalog:
        catalog.write(ENTRIES)
    shutil.copy(root / "mkosi.conf.d/debian.conf", root / "mkosi.conf.d/mydebian.conf")
    image = root / "mkosi.images/tiny-rootfs"
    (image / "mkosi.conf.d").mkdir(parents=True)
    (image / "mkosi.conf").write_text(IMAGE)
    (image / "mkosi.conf.d/dependencies.conf").write_text(DEPENDENCIES)
    return made


@pytest.fixture(scope="module")
def build(copied: Copy) -> Build:
    """A finished build of the new image from the new distribution."""
    build = copied.build(*MINE, within=600)
    assert build.process.returncode == 0, build.output
    return build


@pytest.fixture(scope="module")
def out(copied: Copy, build: Build) -> Path:
    assert not build.error
    return copied.root / "out/mydebian" / NATIVE


def nox(copied: Copy, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "nox", *args],
        cwd=copied.root, env=environ(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_the_image_is_a_session_of_each_architecture(copied: Copy) -> None:
    listed = {entry["session"] for entry in json.loads(nox(copied, "--list", "--json"))}
    assert {f"image-3.12(arch='{name}', image='tiny-rootfs')" for name in arch.NAMES} <= listed


def test_ci_has_a_job_for_the_image(copied: Copy) -> None:
    matrix = json.loads(nox(copied, "-s", "ci-matrix", "--", "--by-image").splitlines()[-1])
    assert NATIVE in {job["arch"] for job in matrix["include"] if job["image"] == "tiny-rootfs"}


def test_what_the_image_is_made_from_is_planned_and_built_first(build: Build) -> None:
    marked = [line.partition(" will be built")[0] for line in build.lines if "will be" in line]
    planned = [line.split()[-1] for line in marked]
    assert planned[-2:] == ["base", "tiny-rootfs"]
    assert not {"os-image", "base-with-kernel"} & {*planned}


def test_the_artifact_holds_the_root_file_system(out: Path) -> None:
    with tarfile.open(out / "tiny-rootfs.tar.gz") as tar:
        names = tar.getnames()
    assert "usr/bin/bash" in names
    assert not [name for name in names if name.startswith("usr/share/doc/")]


def test_the_build_is_described(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["distribution"], manifest["release"]) == ("mydebian", "trixie")
    assert {*manifest["images"]} >= {"base", "tiny-rootfs"}
    assert [entry["name"] for entry in manifest["artifacts"]] == ["tiny-rootfs.tar.gz"]
    bill = json.loads((out / "tiny-rootfs.sbom.cdx.json").read_text())
    assert "bash" in {component["name"] for component in bill["components"]}
    assert (out / "report.html").is_file()


def test_it_is_up_to_date_afterwards(copied: Copy, out: Path) -> None:
    assert out.is_dir()
    assert "everything is up to date" in copied.build(*MINE).output
