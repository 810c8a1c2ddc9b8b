"""Obtain what goes into the base beside the distribution's packages, for the packages session."""

from __future__ import annotations

import os
from collections.abc import Sequence

from scripts import options
from scripts.build import build
from scripts.stages import places
from scripts.system import errors
from scripts.system.locks import only_build
from scripts.system.progress import Progress


def main(argv: Sequence[str]) -> None:
    """Build and fetch what argv asks for, or say that all of it is there."""
    opts = options.parse(argv, os.environ)
    with only_build(opts.work):
        progress = Progress()
        opts = build.with_dated_release(opts, progress)
        added = build.add(opts, progress, places.of(opts), session="packages")
    for path in (*added.rpms, *added.files.values()):
        print(path)
    if not added.rpms:
        print(f"{opts.distribution} has all packages that are wanted in its own archive")


if __name__ == "__main__":
    errors.main(main)
