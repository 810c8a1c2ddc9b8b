"""Run plain mkosi with the project's configuration, for the mkosi session.

Unlike a build this knows no stages: mkosi itself builds an image and all that it stands on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from scripts import options
from scripts.build import build
from scripts.emulation import binfmt
from scripts.mkosi import source, workspaces
from scripts.stages import places
from scripts.system import errors
from scripts.system.locks import only_build
from scripts.system.progress import Progress

# What mkosi does without any tools.
WITHOUT_TOOLS = {"summary", "cat-config", "documentation", "help", "--help", "-h", "--version"}

# What mkosi does not know: where third-party files and packages of our own come from.
OURS_ALONE = (
    "--allow-missing", "--layer-cache", "--packages", "--third-party-mirror", "--third-party-pins",
)  # fmt: skip
OUR_FLAGS = ("--without-packages",)

# mkosi's own name for an option of ours; both reach mkosi in any case.
OURS = {"--distribution": "--distribution", "--release": "--release", "--architecture": "--arch"}


def main(argv: Sequence[str]) -> None:
    """Run mkosi with argv after the arguments that every build of ours has."""
    alone, argv = split(argv)
    opts = options.parse([*_ours(argv), *alone], os.environ)
    with only_build(opts.work):
        at = places.of(opts)
        place = at.images
        output = place.folder / "plain"
        using = build.obtain(opts, Progress())
        source.install(using)
        tools: list[str] = []
        if WITHOUT_TOOLS.isdisjoint(argv):
            binfmt.require(opts.arch, opts.root, opts.work)
            build.write_trees(build.obtain_emulators(opts, Progress()), at)
            build.build_tools_tree(opts, Progress(), using, at)
            build.add(opts, Progress(), at, session="mkosi")
            tools = ["--tools-tree", os.fspath(at.tools_tree)]
        workspace = workspaces.folders(place.folder / "plain")[-1]
        for path in (output / "output", output / "cache", workspace):
            path.mkdir(parents=True, exist_ok=True)
    arguments, environment = at.plain(output / "output")
    command = using.command(
        *arguments,
        "--cache-directory", output / "cache",
        "--workspace-directory", workspace,
        "--package-cache-dir", place.folder / "packages",
        *tools,
        *argv,
    )  # fmt: skip
    os.chdir(opts.root)
    os.environ |= environment
    os.execv(sys.executable, [os.fspath(arg) for arg in command])


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of argv what is for us alone, and what is for mkosi."""
    alone: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, mark, _ = word.partition("=")
        if word in OUR_FLAGS:
            alone.append(word)
            continue
        if name not in OURS_ALONE:
            rest.append(word)
            continue
        alone += [word] if mark else [word, *(value for value in [next(words, None)] if value)]
    return alone, rest


def _ours(argv: Sequence[str]) -> list[str]:
    """What of mkosi's argv decides the sandbox tree and folders, in our own words."""
    words = [word for arg in argv for word in arg.split("=", 1)]
    return [
        part
        for name, ours in OURS.items()
        if name in words[:-1]
        for part in (ours, words[words.index(name) + 1])
    ]


if __name__ == "__main__":
    errors.main(main)
