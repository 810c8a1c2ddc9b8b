"""Build images, for the build and image sessions."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.filesize import decimal
from rich.table import Table

from scripts import catalog
from scripts.build import build
from scripts.build.build import Built
from scripts.build.workshop import Workshop
from scripts.options import BuildOptions, Folders, Options, PackageBuild, Sources, Target
from scripts.sessions import arguments
from scripts.sessions.asking import complete_pins
from scripts.stages import artifacts
from scripts.system import errors
from scripts.system.errors import HarnessError
from scripts.system.locks import only_build
from scripts.system.progress import Progress
from scripts.system.terminal import Terminal

SHOWN = (Target, Sources, PackageBuild, BuildOptions, Folders)


def main(argv: Sequence[str]) -> None:
    """Build what argv asks for, or say that all of it is up to date."""
    parser = arguments.parser("build", "Builds the images that are out of date.", SHOWN)
    run(arguments.parse(argv, os.environ, using=parser), Progress())


def run(options: Options, progress: Progress) -> None:
    """Build what options ask for and is out of date; describe and show the result."""
    with only_build(options.folders.work):
        complete_pins(options, os.environ, progress)
        shop = Workshop.prepare(build.dated(options, progress), progress)
        built = build.build(shop)
        describe(shop, built)
        _show(shop, built)


def describe(shop: Workshop, built: Built) -> None:
    """Write bills of materials, provenance and report, unless they exist already.

    Descriptions that exist belong to the artifacts beside them: see `delivery.delivery`.
    """
    if all((shop.options.artifacts / name).exists() for name in artifacts.DESCRIPTIONS):
        return
    # Its libraries take half a second to load; a build with nothing to do skips that.
    from scripts.description import writer  # noqa: PLC0415

    try:
        writer.write(shop, built.records, built.manifest)
    except OSError as error:
        raise HarnessError(f"what was built cannot be described: {error}") from error


def _show(shop: Workshop, built: Built) -> None:
    console = Terminal()
    table = Table("artifact", "size", "seconds", "sha512")
    for stage in built.planned:
        record = built.records.get(stage.name)
        for output in catalog.artifacts(stage.name):
            assert record
            seconds = f"{record.seconds:.0f}" if stage.name in built.reasons else "up to date"
            own = [made for made in record.artifacts if made.output == output]
            digest = own[0].sha512[:16] if len(own) == 1 else f"{len(own)} files"
            table.add_row(output, decimal(sum(made.size for made in own)), seconds, digest)
    if table.row_count:
        console.print(table)
        console.print(f"in {shop.options.artifacts}")
    for name in shop.options.target.images:
        if not catalog.artifacts(name):
            console.print(f"{name} is in {shop.places.stage(name) / name}")
    if not built.reasons:
        console.print("everything is up to date")


if __name__ == "__main__":
    errors.main(main)
