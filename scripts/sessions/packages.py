"""Obtain our own packages and third-party files, for the packages session."""

from __future__ import annotations

import os
from collections.abc import Sequence

from scripts.build import build, ingredients
from scripts.build.workshop import Workshop
from scripts.options import BuildOptions, Folders, PackageBuild, Sources, Target
from scripts.sessions import arguments
from scripts.sessions.asking import complete_pins
from scripts.system import errors
from scripts.system.locks import only_build
from scripts.system.progress import Progress
from scripts.system.text import say

SHOWN = (Target, Sources, PackageBuild, BuildOptions, Folders)


def main(argv: Sequence[str]) -> None:
    """Build and fetch what argv asks for, and print the path of each file."""
    parser = arguments.parser(
        "packages", "Builds our own packages in Docker, and fetches third-party files.", SHOWN
    )
    options = arguments.parse(argv, os.environ, using=parser)
    progress = Progress()
    with only_build(options.folders.work):
        complete_pins(options, os.environ, progress)
        options = build.dated(options, progress)
        added = ingredients.add(Workshop.prepare(options, progress), session="packages")
    for path in (*added.rpms, *added.files.values()):
        say(str(path))
    if not added.rpms:
        say(f"{options.target.distribution} has every wanted package in its own archive")


if __name__ == "__main__":
    errors.main(main)
