"""Pushes the container images of a release, each under a tag of its own and under a moving one.

The tag comes last, so an image is never published in part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from scripts import catalog
from scripts.arch import Arch
from scripts.publish import release, s3
from scripts.publish.registry import ImmutableError, Registry
from scripts.publish.release import Image
from scripts.system.errors import HarnessError


def settle(place: Registry, image: Image, run: str, named: Iterable[str]) -> Image:
    """Return image with the tag that run gave it on an earlier day, if there is one.

    named are further tags to look among: those in the release manifest, which stays the same even
    if the registry has lost the image.
    """
    there = release.first_tag([*place.tags(), *named], image.arch, run)
    return replace(image, tag=there or image.tag)


def check(place: Registry, image: Image) -> bool:
    """Whether image is there already. Raises HarnessError if its tag is another image's."""
    there = place.digest(image.tag)
    if there and there != image.digest:
        raise HarnessError(
            f"{place.repository}:{image.tag} is already there, but it is another image: {there}",
            hint=s3.OTHER_RUN,
        )
    return bool(there)


def push(place: Registry, image: Image) -> None:
    """Push image, unless it is there already. Raises HarnessError."""
    place.copy(image.layout, catalog.CONTAINER, image.tag)
    confirm(place, image.tag, image.digest)


def confirm(place: Registry, tag: str, digest: str) -> None:
    """Raise HarnessError unless tag now refers to the image with digest."""
    there = place.digest(tag)
    if there != digest:
        raise HarnessError(
            f"{place.repository}:{tag} is {there or 'not there'} instead of {digest}",
            hint="somebody else may have moved the tag; make tags immutable in the registry",
        )


def moves(place: Registry, arch: Arch, digest: str, run: str) -> bool:
    """Whether the moving tag of arch must be moved to the image with digest, which run made.

    Raises HarnessError if it names the image of a newer run.
    """
    tag = moving(arch)
    there = place.digest(tag)
    if there and there != digest:
        newer = release.runs_after(place.tags(), arch, run)
        for other, number in newer.items():
            if place.digest(other) == there:
                raise HarnessError(
                    f"{place.repository}:{tag} belongs to run {number}, which is newer than {run}",
                    hint=f"publish without {catalog.flag('latest')}, or with a larger "
                    f"{catalog.flag('run-id')}",
                )
    return there != digest


def move(place: Registry, arch: Arch, digest: str) -> None:
    """Move the moving tag of arch to the image with digest, which is in place already.

    Where tags are immutable, the tag is removed first: then it names nothing for a moment.
    """
    tag = moving(arch)
    try:
        place.name_image(digest, tag)
    except ImmutableError:
        place.delete(tag)
        place.name_image(digest, tag)
    confirm(place, tag, digest)


def moving(arch: Arch) -> str:
    """Return the tag that always names the newest image for arch."""
    return release.MOVING_TAG.format(arch=arch.mkosi)
