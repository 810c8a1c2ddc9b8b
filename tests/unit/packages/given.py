"""The options and the place that the tests of packages begin with."""

from __future__ import annotations

from pathlib import Path

from scripts import catalog
from scripts.arch import X86_64
from scripts.catalog import ROOT
from scripts.options import Options
from scripts.sessions import arguments
from scripts.stages import places
from scripts.stages.places import Place
from scripts.system.url import Url


def opts(folder: Path, *argv: str, **environ: str) -> Options:
    """Those of a build in folder, with argv and environ besides."""
    argv = ("--arch", "x86_64", "--work", f"{folder}/work", "--out", f"{folder}/out", *argv)
    return arguments.parse(argv, environ, root=ROOT)


RELEASE = places.release_of(ROOT, catalog.DISTRIBUTIONS["amazonlinux"])


def place(folder: Path, mirror: str | None = None, release: str = RELEASE) -> Place:
    target = folder / "work/amazonlinux/x86_64"
    return Place(
        target,
        catalog.DISTRIBUTIONS["amazonlinux"],
        release,
        X86_64,
        target / "sandbox",
        Url(mirror) if mirror else None,
    )
