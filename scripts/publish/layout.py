"""Takes a private copy of a container image, so that nobody changes what is being pushed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scripts import catalog
from scripts.publish import sources
from scripts.publish.release import Build, Image, only_digest
from scripts.publish.sources import AGAIN
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError

# Where an OCI layout keeps its blobs, each under its digest in hex.
BLOBS = "blobs/sha256"


def copy(build: Build, image: Image, folder: Path) -> Image:
    """Copy the layout of image, which build made, into folder, and return the copied image.

    The copy has only files that the manifest of the build lists. Raises HarnessError unless each
    has the digest that it had when it was built, and the layout still holds the same image.
    """
    for name, sha512 in build.sha512.items():
        if name.startswith(f"{catalog.CONTAINER}/"):
            sources.copy(build.out, name, folder / name, sha512)
    copied = folder / catalog.CONTAINER
    if only_digest(copied) != image.digest:
        raise sources.changed(image.layout)
    _check_blobs(copied, image)
    return replace(image, layout=copied)


def _check_blobs(copied: Path, image: Image) -> None:
    """Raise HarnessError if a blob is not what its name says, or if the image itself is missing."""
    found = {path.name: file_digest(path) for path in (copied / BLOBS).iterdir()}
    wrong = [name for name, digest in found.items() if name != digest]
    if wrong or image.digest.removeprefix("sha256:") not in found:
        raise HarnessError(f"{image.layout} is not the image that it claims to be", hint=AGAIN)
