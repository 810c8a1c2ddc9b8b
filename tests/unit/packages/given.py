"""The options that the tests of packages begin with."""

from __future__ import annotations

from pathlib import Path

from scripts.catalog import ROOT
from scripts.options import Options
from scripts.sessions import arguments


def opts(folder: Path, *argv: str, **environ: str) -> Options:
    """Those of a build in folder, with argv and environ besides."""
    argv = ("--arch", "x86_64", "--work", f"{folder}/work", "--out", f"{folder}/out", *argv)
    return arguments.parse([*argv, "--allow-missing", "base-image"], environ, root=ROOT)
