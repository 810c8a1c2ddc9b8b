"""Build images, for the build, image and quickstart sessions."""

from __future__ import annotations

import os
from collections.abc import Sequence

from scripts import options
from scripts.build.build import build
from scripts.system import errors
from scripts.system.locks import only_build
from scripts.system.progress import Progress


def main(argv: Sequence[str]) -> None:
    """Build what argv asks for, or say that all of it is up to date."""
    opts = options.parse(argv, os.environ)
    with only_build(opts.work):
        build(opts, Progress())


if __name__ == "__main__":
    errors.main(main)
