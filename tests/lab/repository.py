"""Lays out packages as Amazon's CDN does: lists of mirrors, repositories, and one blob store."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import Arch
from scripts.distributions import amazonlinux
from scripts.system.digests import file_digest, text_digest
from scripts.system.process import run
from tests.lab.eras import AMAZON, Era
from tests.lab.keys import Key
from tests.lab.stage import SOURCE_DATE_EPOCH

# A list of mirrors has this in place of the server's address, which the server fills in.
ORIGIN = "@ORIGIN@"

# The file in a repository's folder that lists its key and packages.
MARK = ".packages"

KEY_NAME = "RPM-GPG-KEY-amazon-linux-2023"

# Fedora's key and source RPMs are on the same server.
FEDORA_KEY_NAME = "RPM-GPG-KEY-fedora-43-primary"
FEDORA_SOURCES = "fedora/releases/43/Everything/source/tree"


@dataclass(frozen=True)
class World:
    """One architecture's lab: its files below work, its releases, newest first, its key and era."""

    work: Path
    arch: Arch
    releases: tuple[str, ...]
    key: Key
    era: Era = AMAZON

    @property
    def www(self) -> Path:
        """The folder that the server serves."""
        return self.work / "www" / self.era.name / self.arch.name

    @property
    def base(self) -> Path:
        """The CDN's folder for Amazon Linux 2023."""
        return self.www / "al2023"

    @property
    def key_file(self) -> Path:
        """The path of the public key that verifies the packages."""
        return self.www / KEY_NAME

    @property
    def third_party(self) -> Path:
        """The folder of third-party releases, each file below the host and path of its address."""
        return self.www / "third-party"

    @property
    def pins_file(self) -> Path:
        """The path of the third-party releases' pins."""
        return self.www / "third-party-pins.toml"

    def repository(self, name: str) -> Path:
        """Return the folder of the repository called name; a release's has the release's name."""
        return self.base / f"core/guids/{guid(name)}/{self.arch}"

    def spal(self, name: str) -> Path:
        """Return the folder of the repository of Supplementary Packages called name."""
        return self.base / f"spal/guids/{guid(f'spal {name}')}/{self.arch}"


def guid(name: str) -> str:
    """Return the meaningless identifier under which the CDN has the repository called name."""
    return text_digest(f"lab {name}")


def publish(
    work: Path,
    arch: Arch,
    packages: Mapping[str, Sequence[Path]],
    key: Key,
    sources: Sequence[Path] = (),
    *,
    era: Era = AMAZON,
) -> World:
    """Lay out packages by release, newest first, as the CDN does; every release gets sources.

    Like Amazon's, releases before `amazonlinux.FIRST_SIGNED` have unsigned metadata.
    """
    world = World(work, arch, tuple(packages), key, era)
    world.base.mkdir(parents=True, exist_ok=True)
    world.key_file.write_text(key.public)
    for release, paths in packages.items():
        signed = amazonlinux.signs_metadata(release)
        blobs = [store(world, path) for path in paths]
        source_blobs = [store(world, path) for path in sources]
        _write(world, world.repository(release).with_name("SRPMS"), source_blobs, signed=signed)
        write_repository(world, release, blobs, signed=signed)
        _write_mirror_lists(world, release, release)
    _write_mirror_lists(world, "latest", world.releases[0])
    (world.base / "core/releasemd.xml").write_text(_release_list(world.releases))
    return world


def publish_spal(world: World, paths: Sequence[Path]) -> None:
    """Lay out paths as Amazon's Supplementary Packages, for each release that has them.

    The layout is the core repository's: `amazonlinux.spal_list` says what is known of it.
    """
    blobs = [store(world, path) for path in paths]
    for release in world.releases:
        if amazonlinux.has_spal(release):
            write_spal(world, release, blobs, signed=amazonlinux.signs_metadata(release))
            _write_spal_list(world, release, release)
    _write_spal_list(world, amazonlinux.LATEST, world.releases[0])


def write_spal(world: World, name: str, blobs: Sequence[str], *, signed: bool = True) -> None:
    """Write the repository of Supplementary Packages called name; a release's has its name."""
    _write(world, world.spal(name), blobs, signed=signed)


def _write_spal_list(world: World, release: str, of: str) -> None:
    path = world.base / f"spal/mirrors/{release}/{world.arch}/mirror.list"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{ORIGIN}/al2023/{world.spal(of).relative_to(world.base)}/\n")


def packages_of(world: World, release: str) -> list[str]:
    """Return the packages of release as paths in the blob store."""
    return (world.repository(release) / MARK).read_text().splitlines()[1:]


def store(world: World, path: Path) -> str:
    """Put a package into the blob store, and return its path there."""
    blob = f"{file_digest(path)}/{path.name}"
    target = world.base / "blobstore" / blob
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(path)
    return blob


def publish_fedora(world: World, sources: Sequence[Path], key: Key) -> None:
    """Lay out sources, which are signed with key, as a release of Fedora does.

    Fedora does not sign metadata.
    """
    (world.www / FEDORA_KEY_NAME).write_text(key.public)
    blobs = [store(world, path) for path in sources]
    _write(world, world.www / FEDORA_SOURCES, blobs, signed=False)


def fedora_sources(world: World) -> dict[str, str]:
    """Map each of Fedora's source packages to its name in `dnf download --source`."""
    blobs = (world.www / FEDORA_SOURCES / MARK).read_text().splitlines()[1:]
    nevras = [Path(blob).name.removesuffix(".src.rpm") for blob in blobs]
    return {nevra.rsplit("-", 2)[0]: nevra for nevra in nevras}


def write_repository(world: World, name: str, blobs: Sequence[str], *, signed: bool = True) -> None:
    """Write the repository called name with blobs, unless it holds exactly these already."""
    target = world.repository(name)
    _write(world, target, blobs, signed=signed)
    if not target.with_name("SRPMS").exists():
        _write(world, target.with_name("SRPMS"), [])


def _write(world: World, target: Path, blobs: Sequence[str], *, signed: bool = True) -> None:
    signature = world.key.fingerprint if signed else f"{world.key.fingerprint}, metadata unsigned"
    listed = "\n".join([signature, *sorted(blobs)])
    mark = target / MARK
    if mark.exists() and mark.read_text() == listed:
        return
    with tempfile.TemporaryDirectory(dir=world.www) as scratch:
        made = Path(scratch) / "made"
        _createrepo(world, blobs, made, Path(scratch), _blobs_from(world, target))
        if signed:
            world.key.sign_detached(made / "repodata/repomd.xml")
        (made / MARK).write_text(listed)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)


def _blobs_from(world: World, target: Path) -> str:
    """Return the relative path from the repository in target to the blob store."""
    return f"{os.path.relpath(world.base / 'blobstore', target)}/"


def _createrepo(
    world: World, blobs: Sequence[str], target: Path, scratch: Path, prefix: str
) -> None:
    target.mkdir(parents=True)
    list_ = scratch / "packages.list"
    list_.write_text("".join(f"{blob}\n" for blob in sorted(blobs)))
    run(
        [
            "createrepo_c", "--quiet", "--no-database", "--pkglist", list_,
            "--location-prefix", prefix, "--outputdir", target,
            "--cachedir", world.work / "checksums",
            "--revision", str(SOURCE_DATE_EPOCH), "--set-timestamp-to-revision",
            world.base / "blobstore",
        ]
    )  # fmt: skip
    list_.unlink()


def _release_list(releases: Sequence[str]) -> str:
    """Return Amazon's list of releases, which starts with the oldest."""
    listed = "".join(f'    <release version="{name}"/>\n' for name in reversed(releases))
    return f'<?xml version="1.0"?>\n<root>\n  <releases>\n{listed}  </releases>\n</root>\n'


def _write_mirror_lists(world: World, release: str, of: str) -> None:
    for folder, part in (
        (str(world.arch), str(world.arch)),
        ("SRPMS", "SRPMS"),
        (f"debuginfo/{world.arch}", "SRPMS"),
    ):
        path = world.base / f"core/mirrors/{release}/{folder}/mirror.list"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{ORIGIN}/al2023/core/guids/{guid(of)}/{part}/\n")
