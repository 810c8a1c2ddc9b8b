"""The labels of a container image: what it is, and what it was built from.

Their names are those of the OCI image specification, "Pre-Defined Annotation Keys". We set no
licenses, which would be those of everything in the image: the bill of materials has them. Nor do we
name a base image: the images are made of packages.
"""

from __future__ import annotations

from scripts.catalog import Distribution
from scripts.origin import Checkout

PREFIX = "org.opencontainers.image"

SOURCE = "https://github.com/runfinch/finch-core"
VENDOR = "Finch"


def of(image: str, distribution: Distribution, release: str, checkout: Checkout) -> dict[str, str]:
    """Return the labels of image, made of that release of distribution in checkout.

    revision is only there if all files were those of the commit.
    """
    is_clean = checkout.commit and not checkout.modified
    return {
        f"{PREFIX}.title": f"{image} ({distribution.title})",
        f"{PREFIX}.version": release,
        f"{PREFIX}.vendor": VENDOR,
        f"{PREFIX}.source": SOURCE,
        **({f"{PREFIX}.revision": checkout.commit} if is_clean else {}),
    }
