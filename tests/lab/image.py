"""Makes the lab's stand-in for ECR's image, in which packages are built: a root with dnf."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from scripts.catalog import ROOT
from scripts.emulation import binfmt
from scripts.system.digests import file_digest, text_digest
from scripts.system.errors import HarnessError, MachineError
from scripts.system.process import CommandError, run
from scripts.system.progress import Progress
from tests.lab import repository
from tests.lab.engine import Registry
from tests.lab.repository import World
from tests.lab.stage import SOURCE_DATE_EPOCH

NAME = "amazonlinux/amazonlinux"

# The packages of Amazon's own image that builds need.
PACKAGES = ("bash", "coreutils", "dnf", "gnupg2-minimal", "system-release")

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

# OCI's names for architectures.
OCI_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """A container image with one layer: the folder of its files, and its manifest's digest."""

    folder: Path
    digest: str

    def push(self, registry: Registry) -> str:
        """Push the image to registry, and return its reference with the digest."""
        if not registry.has(NAME, self.digest):
            for name in ("layer", "config"):
                path = self.folder / name
                registry.put_blob(NAME, f"sha256:{file_digest(path)}", path)
            registry.put_manifest(NAME, self.digest, (self.folder / "manifest").read_bytes())
        return f"{registry.host}/{NAME}@{self.digest}"


def make(world: World, say: Callable[[str], None]) -> Image:
    """Return the image of the newest release, after making it if it is missing.

    Raises MachineError if this machine has no dnf, and HarnessError if dnf fails.
    """
    blobs = repository.packages_of(world, world.releases[0])
    key = text_digest("\n".join([Path(__file__).read_text(), *blobs]))
    kept = world.work / "images" / key
    kept.parent.mkdir(exist_ok=True)
    with FileLock(world.work / "images/lock"):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=world.work, prefix="image-") as scratch:
                _make(world, Path(scratch)).rename(kept)
            say("the image for package builds is ready")
    return Image(kept, f"sha256:{file_digest(kept / 'manifest')}")


def _make(world: World, scratch: Path) -> Path:
    made, root = scratch / "made", scratch / "root"
    made.mkdir()
    with binfmt.emulated(world.arch, ROOT, ROOT / ".work", Progress()):
        _install(world, scratch, root)
    for path in ("var/cache/dnf", "var/log", "run"):
        shutil.rmtree(root / path, ignore_errors=True)
        (root / path).mkdir()
    plain = _write_layer(root, made / "layer")
    config = {
        "architecture": OCI_ARCHES[world.arch.name],
        "os": "linux",
        "config": {"Env": ["PATH=/usr/sbin:/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain}"]},
    }
    (made / "config").write_text(json.dumps(config))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _described(made / "config", CONFIG),
        "layers": [_described(made / "layer", LAYER)],
    }
    (made / "manifest").write_text(json.dumps(manifest))
    return made


def _install(world: World, scratch: Path, root: Path) -> None:
    repos = scratch / "repos"
    repos.mkdir()
    url = world.repository(world.releases[0]).absolute().as_uri()
    (repos / "lab.repo").write_text(
        f"[lab]\nname=lab\nbaseurl={url}\ngpgcheck=1\ngpgkey={world.key_file.absolute().as_uri()}\n"
    )
    # Debian's rpm keeps its database in the user's home folder unless told otherwise.
    (scratch / ".rpmmacros").write_text("%_dbpath /var/lib/rpm\n")
    try:
        run(
            [
                "dnf", "--assumeyes", "--quiet", "--installroot", root,
                "--releasever", world.releases[0], "--forcearch", world.arch.name,
                f"--setopt=reposdir={repos}", f"--setopt=cachedir={scratch}/cache",
                "--setopt=install_weak_deps=0",
                "install", *PACKAGES,
            ],
            env={"HOME": os.fspath(scratch)},
        )  # fmt: skip
    except FileNotFoundError:
        raise MachineError(
            "the lab needs dnf to make the image for package builds",
            hint="apt-get install --no-install-recommends dnf",
        ) from None
    except CommandError as error:
        raise HarnessError(
            f"dnf cannot make the image for package builds: {error.output.strip()}"
        ) from error


class _Hashing:
    """A writable file that computes the sha256 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


def _write_layer(root: Path, path: Path) -> str:
    """Pack root into a gzipped tar at path, and return the sha256 of the uncompressed tar."""
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        plain = _Hashing(packed)  # type: ignore[arg-type]
        with tarfile.open(fileobj=plain, mode="w|") as archive:  # type: ignore[call-overload]
            archive.add(root, ".", filter=_clamped)
    return plain.digest.hexdigest()


def _clamped(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = min(member.mtime, SOURCE_DATE_EPOCH)
    return member


def _described(path: Path, media_type: str) -> dict[str, object]:
    return {
        "mediaType": media_type,
        "size": path.stat().st_size,
        "digest": f"sha256:{file_digest(path)}",
    }
