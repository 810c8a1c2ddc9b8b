"""The layout of Amazon's CDN: lists of mirrors, repositories by digest, and the packages once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import Arch
from scripts.system.digests import file_digest, text_digest
from scripts.system.process import run
from tests.lab.keys import Key
from tests.lab.stage import SOURCE_DATE_EPOCH

# What stands in a list of mirrors where the server's own address belongs.
ORIGIN = "@ORIGIN@"

# In a repository's folder: the key and the packages that it was made of.
MARK = ".packages"

KEY_NAME = "RPM-GPG-KEY-amazon-linux-2023"

# Fedora's, on the same server.
FEDORA_KEY_NAME = "RPM-GPG-KEY-fedora-43-primary"
FEDORA_SOURCES = "fedora/releases/43/Everything/source/tree"


@dataclass(frozen=True)
class World:
    """The lab's files of one architecture, below work: its releases, newest first, and the key."""

    work: Path
    arch: Arch
    releases: tuple[str, ...]
    key: Key

    @property
    def www(self) -> Path:
        """The folder that a server shows."""
        return self.work / "www" / self.arch.name

    @property
    def base(self) -> Path:
        """The CDN's folder of this distribution."""
        return self.www / "al2023"

    @property
    def key_file(self) -> Path:
        """The public key that the packages are signed with."""
        return self.www / KEY_NAME

    @property
    def third_party(self) -> Path:
        """The folder of what others release, each file below its own host and path."""
        return self.www / "third-party"

    @property
    def pins_file(self) -> Path:
        """The pins of what others release."""
        return self.www / "third-party-pins.toml"

    def repository(self, release: str) -> Path:
        """The folder of the repository of release."""
        return self.base / f"core/guids/{guid(release)}/{self.arch}"


def guid(name: str) -> str:
    """The name of a repository on the CDN, which tells nothing."""
    return text_digest(f"lab {name}")


def publish(
    work: Path,
    arch: Arch,
    packages: Mapping[str, Sequence[Path]],
    key: Key,
    sources: Sequence[Path] = (),
) -> World:
    """Lay out the packages of each release, newest first, as the CDN does; all have sources."""
    world = World(work, arch, tuple(packages), key)
    world.base.mkdir(parents=True, exist_ok=True)
    world.key_file.write_text(key.public)
    for release, paths in packages.items():
        write_repository(world, release, [store(world, path) for path in paths])
        source_blobs = [store(world, path) for path in sources]
        _write(world, world.repository(release).with_name("SRPMS"), source_blobs)
        _write_mirror_lists(world, release, release)
    _write_mirror_lists(world, "latest", world.releases[0])
    (world.base / "core/releasemd.xml").write_text(_release_list(world.releases))
    return world


def packages_of(world: World, release: str) -> list[str]:
    """The packages of release, as paths in the blob store."""
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
    """Lay out source RPMs, signed with key, as a release of Fedora does."""
    (world.www / FEDORA_KEY_NAME).write_text(key.public)
    _write(world, world.www / FEDORA_SOURCES, [store(world, path) for path in sources])


def fedora_sources(world: World) -> dict[str, str]:
    """The source RPMs that Fedora has there: what `dnf download --source` calls each, by name."""
    blobs = (world.www / FEDORA_SOURCES / MARK).read_text().splitlines()[1:]
    nevras = [Path(blob).name.removesuffix(".src.rpm") for blob in blobs]
    return {nevra.rsplit("-", 2)[0]: nevra for nevra in nevras}


def write_repository(world: World, name: str, blobs: Sequence[str]) -> None:
    """Write the repository called name with blobs, unless that is what it has."""
    target = world.base / f"core/guids/{guid(name)}/{world.arch}"
    _write(world, target, blobs)
    if not target.with_name("SRPMS").exists():
        _write(world, target.with_name("SRPMS"), [])


def _write(world: World, target: Path, blobs: Sequence[str]) -> None:
    listed = "\n".join([world.key.fingerprint, *sorted(blobs)])
    mark = target / MARK
    if mark.exists() and mark.read_text() == listed:
        return
    with tempfile.TemporaryDirectory(dir=world.www) as scratch:
        made = Path(scratch) / "made"
        _createrepo(world, blobs, made, Path(scratch), _blobs_from(world, target))
        (made / MARK).write_text(listed)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        made.rename(target)


def _blobs_from(world: World, target: Path) -> str:
    """The way from the repository in the folder target to the packages."""
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
    world.key.sign_detached(target / "repodata/repomd.xml")


def _release_list(releases: Sequence[str]) -> str:
    """Amazon's list of releases, which names them oldest first."""
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
