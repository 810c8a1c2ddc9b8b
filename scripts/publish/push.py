"""Pushes the container images of a release.

The tag comes last, so an image is never published in part.
"""

from __future__ import annotations

from scripts import catalog
from scripts.publish import s3
from scripts.publish.registry import Registry
from scripts.publish.release import Image
from scripts.system.errors import HarnessError


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
    confirm(place, image)


def confirm(place: Registry, image: Image) -> None:
    """Raise HarnessError unless the tag of image now refers to image."""
    there = place.digest(image.tag)
    if there != image.digest:
        raise HarnessError(
            f"{place.repository}:{image.tag} is {there or 'not there'} instead of {image.digest}",
            hint="somebody else may have moved the tag; make tags immutable in the registry",
        )
