"""Tests of images for the other architecture, which are built and booted with emulation.

They use the image from `./nox -s "build-3.12(arch='aarch64')" -- --distribution debian`. They also
start a build in which a package's script crashes. This takes two minutes. With --full, they also
build all images of both distributions from nothing and boot them, with the contract too, which takes
an hour.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from scripts import catalog
from scripts.arch import ARCHES, native
from scripts.boot import Subject
from scripts.build.workshop import Workshop
from scripts.emulation import standins
from scripts.formats import disk
from scripts.formats import uki as ukis
from scripts.mkosi.sandbox import Tools
from scripts.options import Options
from scripts.sessions import arguments
from scripts.stages.places import Places
from scripts.system.digests import describe_tree
from scripts.system.progress import Progress
from tests import manifests
from tests.e2e.checkout import DEBIAN, Arg, Copy, amazonlinux, copy
from tests.lab import world
from tests.lab.repository import World
from tests.lab.server import LabServer
from tests.lab.workshop import workshop

FOREIGN = next(arch for arch in ARCHES if not arch.is_native)

# The values of e_machine in the ELF specification, and its place in a file.
MACHINES = {"x86_64": 62, "aarch64": 183}
E_MACHINE = slice(18, 20)

# The parts of .work that save a build the downloads and the tools tree.
WARM = (
    "mkosi",
    "emulators",
    f"tools/*{FOREIGN}*/stages",
    "tools/*/packages",
    f"debian/{FOREIGN}/packages",
)

# The program that scripts of packages such as mawk call; every image has mawk.
ALTERNATIVES = "update-alternatives"


@pytest.fixture(scope="module")
def theirs(checkout: Path) -> Options:
    """The options of a Debian build for the other architecture."""
    return arguments.parse([*DEBIAN, "--arch", FOREIGN.name], os.environ, root=checkout)


@pytest.fixture(scope="module")
def built_there(theirs: Options) -> Subject:
    """The finished Debian image for the other architecture."""
    target = theirs.artifacts
    if not (target / catalog.DISK_IMAGE).exists():
        pytest.fail(
            f"there is no {target / catalog.DISK_IMAGE}: build it with "
            f"./nox -s \"build-3.12(arch='{FOREIGN}')\" -- --distribution debian",
            pytrace=False,
        )
    return Subject("debian", FOREIGN, target / catalog.DISK_IMAGE, target / catalog.DISK_UKI, [])


@pytest.fixture(scope="module")
def foreign_tools(theirs: Options) -> Tools:
    return Workshop.prepare(theirs, Progress()).tools


def machine_of(program: bytes) -> int:
    assert program.startswith(b"\x7fELF")
    return int.from_bytes(program[E_MACHINE], "little")


@pytest.mark.parametrize("path", ["/usr/bin/bash", "/usr/bin/qemu-arm-static"])
def test_the_image_is_of_the_other_architecture_and_so_are_its_emulators(
    built_there: Subject, foreign_tools: Tools, tmp_path: Path, path: str
) -> None:
    program = read_root(foreign_tools, built_there, path, tmp_path)

    assert machine_of(program) == MACHINES[FOREIGN.name]


def read_root(tools: Tools, subject: Subject, path: str, scratch: Path) -> bytes:
    """Return a file of the image's root file system."""
    root = disk.of_type(disk.partitions(subject.disk), subject.arch.root_type)
    assert root
    command = [
        "debugfs",
        "-R",
        f"dump {path} {scratch}/file",
        f"{subject.disk}?offset={root.offset}",
    ]
    subprocess.run(
        tools.command(command, read=[subject.disk], write=[scratch]),
        check=True,
        capture_output=True,
    )
    return (scratch / "file").read_bytes()


def test_the_uki_is_of_the_other_architecture_with_its_console(built_there: Subject) -> None:
    read = ukis.read(built_there.uki)

    assert f"console={FOREIGN.console}" in read.cmdline.split()


def test_nothing_is_left_in_the_image_of_what_it_was_built_with(theirs: Options) -> None:
    tree = Places.prepare(theirs).images.stage("base-with-kernel") / "base-with-kernel"

    assert (tree / "usr/bin/bash").exists()
    assert not (tree / "usr/lib/finch-natively").exists()
    assert not (tree / f"usr/lib/{native().name}-linux-gnu").exists()


def described(tree: Path, folder: str) -> dict[str, str]:
    """Describe a folder of a base without the files that depend on its architecture."""
    found = describe_tree(tree / folder)
    return {
        path: text for path, text in found.items() if "ld.so.c" not in path and "gnu" not in path
    }


@pytest.mark.parametrize("folder", ["etc", "var/lib/systemd"])
def test_what_was_done_natively_is_what_the_packages_do_themselves(
    theirs: Options, opts: Options, built: Subject, folder: str
) -> None:
    assert built.arch is native()
    ours, emulated = (Places.prepare(of).images.stage("base") / "base" for of in (opts, theirs))

    assert described(ours, folder)
    assert described(emulated, folder) == described(ours, folder)


def test_python_is_compiled_as_the_packages_do(theirs: Options, opts: Options) -> None:
    ours, emulated = (Places.prepare(of).images.stage("base") / "base" for of in (opts, theirs))

    def compiled(tree: Path) -> set[str]:
        paths = [path.relative_to(tree).as_posix() for path in tree.rglob("*.pyc")]
        return {path for path in paths if "gnu" not in path}

    assert len(compiled(ours)) > 1000
    assert compiled(emulated) == compiled(ours)


@pytest.fixture
def copied(checkout: Path, tmp_path: Path) -> Copy:
    """A copy of the checkout, with its tools and packages if it has any."""
    (checkout / ".work").mkdir(exist_ok=True)
    with FileLock(checkout / ".work/lock", timeout=900):
        return copy(checkout, tmp_path / "finch ä images", checkout / ".work", WARM)


def test_a_package_script_that_crashes_is_named_with_its_last_words(copied: Copy) -> None:
    # It comes first on the PATH of the scripts, and kills the script that calls it.
    crasher = copied.root / "mkosi.images/base/mkosi.skeleton" / standins.FOLDER / ALTERNATIVES
    crasher.parent.mkdir(parents=True)
    crasher.write_text("#!/bin/sh\necho the last words of a script\nkill -SEGV $PPID\n")
    crasher.chmod(0o755)

    failed = copied.build("--arch", FOREIGN.name, "--image", "base", within=600)

    assert failed.process.returncode == 1, failed.output
    assert re.match(
        r"error: building base failed: package \S+, --configure: installed \S+ package "
        r"post-installation script subprocess .*: "
        r"qemu: uncaught target signal 11 \(Segmentation fault\)",
        failed.error[0],
    )
    assert "the last words of a script" in failed.output
    assert failed.error[-1].strip().startswith("log: ")
    assert copied.leftovers(within=5) == []


def build_and_boot(copied: Copy, distribution: str, *args: Arg) -> set[str]:
    """Build all images with args, and boot the disk with its checks and with the contract.

    Returns the names of the checks that passed.
    """
    build = copied.nox(f"build-3.12(arch='{FOREIGN}')", *args)
    assert build.wait(within=1800) == 0, build.output
    assert copied.leftovers(within=5) == []

    boot = copied.nox(f"boot-test(arch='{FOREIGN}')", "--distribution", distribution)
    assert boot.wait(within=1200) == 0, boot.output
    contract = copied.nox(
        f"boot-test(arch='{FOREIGN}')", "--distribution", distribution, "--contract"
    )
    assert contract.wait(within=3600) == 0, contract.output

    path = copied.root / f"out/{distribution}/{FOREIGN}/boot-test/result.json"
    outcomes = {check["name"]: check["status"] for check in json.loads(path.read_text())["checks"]}
    assert set(outcomes.values()) == {"passed"}
    return {*outcomes}


@pytest.mark.full
def test_from_nothing_all_images_are_built_and_the_disk_boots(copied: Copy) -> None:
    passed = build_and_boot(copied, "debian", *DEBIAN)

    assert {"emulators", "foreign-program"} <= passed


@pytest.fixture(scope="module")
def made(checkout: Path) -> World:
    """The lab's files for the other architecture, which the checkout keeps for the next run."""
    world.provide()
    return world.make(checkout / ".work/lab", FOREIGN, print)


def amazon_manifest(copied: Copy) -> Any:
    path = copied.root / f"out/amazonlinux/{FOREIGN}/manifest.json"
    manifests.check(path)
    return json.loads(path.read_text())


@pytest.mark.full
def test_the_base_of_amazon_linux_is_built_from_the_lab(made: World, copied: Copy) -> None:
    with LabServer(made.www) as lab:
        build = copied.nox(
            f"image-3.12(arch='{FOREIGN}', image='base')",
            *amazonlinux(lab, made),
            "--without-packages",
        )
        assert build.wait(within=900) == 0, build.output
    assert copied.leftovers(within=5) == []

    tree = copied.work / f"amazonlinux/{FOREIGN}/stages/base/base"
    assert 'ID="amzn"' in (tree / "etc/os-release").read_text()
    for path in ("bash", "cosign", "docker-credential-pass", "qemu-arm-static"):
        assert machine_of((tree / "usr/bin" / path).read_bytes()) == MACHINES[FOREIGN.name], path
    packages = amazon_manifest(copied)["images"]["base"]["packages"]
    named = {package["architecture"] for package in packages if package["name"] != "gpg-pubkey"}
    assert named == {FOREIGN.name, "noarch"}
    # An emulated scriptlet has written this file.
    assert (tree / "etc/ld.so.cache").stat().st_size > 0


@pytest.mark.full
def test_amazon_linux_with_packages_of_our_own_is_built_and_boots(
    made: World, copied: Copy
) -> None:
    with (
        LabServer(made.www) as lab,
        workshop(made, lab.url) as shop,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in shop.environment.items():
            patch.setenv(name, value)
        passed = build_and_boot(
            copied, "amazonlinux", *amazonlinux(lab, made), "--packages", shop.pins
        )

    assert {"emulators", "foreign-program", "mounts", "sshfs", "rpm-knows"} <= passed
    packages = amazon_manifest(copied)["images"]["base"]["packages"]
    own = [package for package in packages if ".finch1" in package["version"]]
    names = {package["name"] for package in own}
    assert names == {"cloud-init", "cloud-init-cfg-onprem", "fuse-sshfs"}
    assert {package["architecture"] for package in own} == {FOREIGN.name}
