"""Makes repositories that no build may use: one RPM, or the metadata, is not what was signed."""

from __future__ import annotations

import difflib
import shutil
import tempfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from scripts.system.errors import UsageError
from scripts.system.process import run
from tests.lab import keys, repository
from tests.lab.keys import Key
from tests.lab.repository import World

# Takes the place of a package's name: the metadata is tampered with, and all RPMs are genuine.
METADATA = "repomd.xml"


class Tampering(Enum):
    """The ways in which a package or the metadata differs from what Amazon would have signed."""

    UNSIGNED = "unsigned"
    FOREIGN = "signed by another key"
    ALTERED = "altered after it was signed"


def repository_with(world: World, tampering: Tampering, package: str) -> str:
    """Copy the newest release's repository, tamper with package there, and return the copy's guid.

    The package METADATA stands for the metadata. Raises UsageError if that release has no such
    package.
    """
    name = f"{world.releases[0]} {package} {tampering.value}"
    blobs = repository.packages_of(world, world.releases[0])
    if package == METADATA:
        repository.write_repository(world, name, blobs)
        _tamper_with_metadata(world, world.repository(name) / "repodata" / METADATA, tampering)
        return repository.guid(name)
    blob = blob_of(blobs, package)
    with tempfile.TemporaryDirectory(dir=world.www) as scratch:
        copy = Path(shutil.copy(world.base / "blobstore" / blob, scratch))
        _tamper(world, copy, tampering)
        changed = repository.store(world, copy)
    repository.write_repository(
        world, name, [changed, *(other for other in blobs if other != blob)]
    )
    return repository.guid(name)


def spal_with(world: World, tampering: Tampering) -> str:
    """Copy the newest release's SPAL, tamper with its only package, and return the copy's guid."""
    name = f"{world.releases[0]} {tampering.value}"
    [blob] = (world.spal(world.releases[0]) / repository.MARK).read_text().splitlines()[1:]
    with tempfile.TemporaryDirectory(dir=world.www) as scratch:
        copy = Path(shutil.copy(world.base / "blobstore" / blob, scratch))
        _tamper(world, copy, tampering)
        repository.write_spal(world, name, [repository.store(world, copy)])
    return world.spal(name).parent.name


def blob_of(blobs: Sequence[str], package: str) -> str:
    """Return the path in blobs of the package with exactly this name."""
    by_name = {Path(blob).name.rsplit("-", 2)[0]: blob for blob in blobs}
    if package not in by_name:
        near = ", ".join(difflib.get_close_matches(package, by_name))
        hint = f"similar names: {near}" if near else "no package has a similar name"
        raise UsageError(f"the lab has no package '{package}'", hint=hint)
    return by_name[package]


def _tamper(world: World, path: Path, tampering: Tampering) -> None:
    if tampering is Tampering.ALTERED:
        data = bytearray(path.read_bytes())
        data[-100] ^= 1
        path.write_bytes(data)
        return
    run(["rpmsign", "--delsign", path])
    if tampering is Tampering.FOREIGN:
        _somebody_else(world).sign_packages([path])


def _tamper_with_metadata(world: World, path: Path, tampering: Tampering) -> None:
    if tampering is Tampering.ALTERED:
        path.write_text(f"{path.read_text()}<!-- altered -->\n")
    elif tampering is Tampering.FOREIGN:
        _somebody_else(world).sign_detached(path)
    else:
        path.with_name(f"{METADATA}.asc").unlink(missing_ok=True)


def _somebody_else(world: World) -> Key:
    return keys.obtain(world.work / "keys", "Somebody else")
