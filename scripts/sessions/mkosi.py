"""Run plain mkosi with the project's configuration, for the mkosi session.

This does without stages: mkosi itself builds an image and everything the image is made from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scripts.build import build, ingredients, isolation
from scripts.build.workshop import Workshop
from scripts.emulation import binfmt
from scripts.mkosi import workspaces
from scripts.options import Options
from scripts.sessions import arguments
from scripts.system import errors
from scripts.system.errors import UsageError
from scripts.system.locks import only_build
from scripts.system.process import Arg, environment
from scripts.system.progress import Progress

# mkosi's other names for options of ours.
OWN_NAMES = {
    ("--architecture",): "arch",
    ("-d",): "distribution",
    ("-r",): "release",
    ("-m",): "mirror",
}

# mkosi needs no programs for these.
WITHOUT_TOOLS = {"summary", "cat-config", "documentation", "help", "--help", "-h", "--version"}

# mkosi's verbs that act on the checkout, or on this machine's devices, network or services, rather
# than build. A build that one of these starts is not confined either.
WITH_MACHINE = {
    *(
        "boot",
        "box",
        "bump",
        "burn",
        "coredumpctl",
        "genkey",
        "init",
        "journalctl",
        "qemu",
        "sandbox",
        "serve",
        "shell",
    ),
    *("ssh", "storagetm", "sysupdate", "vm", "vmspawn"),
}


def main(argv: Sequence[str]) -> None:
    """Run mkosi with argv after the arguments that every build of ours has."""
    options, words = split(argv)
    with only_build(options.folders.work):
        progress = Progress()
        shop = Workshop.prepare(build.dated(options, progress), progress)
        place = shop.places.images
        output = place.folder / "plain"
        shop.install_mkosi()
        tools: list[Arg] = []
        if WITHOUT_TOOLS.isdisjoint(words):
            binfmt.require(place.arch, options.folders.root, options.folders.work, shop.progress)
            ingredients.write_emulators(ingredients.obtain_emulators(shop), shop)
            build.build_tools_tree(shop)
            ingredients.add(shop, session="mkosi")
            tools = ["--tools-tree", shop.places.tools_tree]
        workspace = workspaces.folders(output)[-1]
        for path in (output / "output", output / "cache", output / "packages", workspace):
            path.mkdir(parents=True, exist_ok=True)
    common, variables = shop.places.plain(output / "output")
    command: Sequence[Arg] = shop.mkosi.command(
        *common,
        "--cache-directory", output / "cache",
        "--workspace-directory", workspace,
        "--package-cache-dir", output / "packages",
        *tools,
        *words,
    )  # fmt: skip
    if WITH_MACHINE.isdisjoint(words):
        folders = [output, workspace]
        command = _confined(command, shop, read=[shop.places.tools.sandbox_tree], write=folders)
    os.chdir(options.folders.root)
    given = [os.fspath(arg) for arg in command]
    os.execve(given[0], given, {**environment(), **variables})


def _confined(
    command: Sequence[Arg], shop: Workshop, *, read: Sequence[Path], write: Sequence[Path]
) -> Sequence[Arg]:
    """Return command, which runs mkosi, in a confinement where packages cannot see this machine."""
    place = shop.places.images
    temporary = place.folder / "plain/tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    confinement = isolation.around(
        place,
        shop.places.configuration,
        shop.tools,
        read=read,
        write=write,
        temporary=temporary,
    )
    return confinement.command(command)


def split(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """Our options in argv, and the words that mkosi gets.

    Some of ours mean something to mkosi too: it gets those in its own words. Raises UsageError.
    """
    parser = arguments.parser("mkosi", "Runs mkosi.", add_help=False)
    for names, dest in OWN_NAMES.items():
        parser.add_argument(*names, dest=dest)
    argv = list(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    given, rest = parser.parse_known_args(argv[:end])
    if len(given.image) > 1:
        raise UsageError("mkosi builds one image at a time", hint="give --image once")
    options = arguments.options_of(given, os.environ)
    words = [
        *(["--image-id", given.image[0]] if given.image else []),
        # mkosi counts: the second one also removes its caches.
        *(["--force"] * argv[:end].count("--force")),
        *(["--cache-only", "always"] if options.sources.offline else []),
    ]
    return options, [*words, *rest, *argv[end:]]


if __name__ == "__main__":
    errors.main(main)
