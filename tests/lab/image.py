"""The image that packages are built in, in the place of ECR's: a root with dnf, made of the lab."""

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

# What Amazon's own image has, as far as builds need it.
PACKAGES = ("bash", "coreutils", "dnf", "gnupg2-minimal", "system-release")

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

# OCI's names for architectures.
OCI_ARCHES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """An image of one layer, as files in a folder, and the digest of its manifest."""

    folder: Path
    digest: str

    def push(self, registry: Registry) -> str:
        """Give it to registry, and return the reference that names it by its digest."""
        if not registry.has(NAME, self.digest):
            for name in ("layer", "config"):
                path = self.folder / name
                registry.put_blob(NAME, f"sha256:{file_digest(path)}", path)
            registry.put_manifest(NAME, self.digest, (self.folder / "manifest").read_bytes())
        return f"{registry.host}/{NAME}@{self.digest}"


def make(world: World, say: Callable[[str], None]) -> Image:
    """The image of the newest release, made beside the lab's other files unless it is there.

    Raises MachineError where this machine has no dnf, HarnessError where that fails.
    """
    blobs = repository.packages_of(world, world.releases[0])
    key = text_digest("\n".join([Path(__file__).read_text(), *blobs]))
    kept = world.work / "images" / key
    kept.parent.mkdir(exist_ok=True)
    with FileLock(world.work / "images/lock"):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=world.work, prefix="image-") as scratch:
                _make(world, Path(scratch)).rename(kept)
            say("the image to build packages in is made")
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
    # Debian's rpm would keep the database in the home of who runs it.
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
            "the lab needs dnf to make an image to build packages in",
            hint="apt-get install --no-install-recommends dnf",
        ) from None
    except CommandError as error:
        raise HarnessError(f"the image cannot be made: {error.output.strip()}") from error


class _Hashing:
    """A file that is written to, and the sha256 of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


def _write_layer(root: Path, path: Path) -> str:
    """Pack root, and return the sha256 of the tar before it was compressed."""
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
