"""Make the lab and serve it: `python -m tests.lab`, which the lab session runs."""

from __future__ import annotations

import argparse
import shlex
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from scripts import arch as arches
from scripts.catalog import ROOT
from scripts.system import errors
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Progress
from tests.lab import switches, world
from tests.lab.repository import World
from tests.lab.server import LabServer
from tests.lab.workshop import Workshop, workshop


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="`./nox -s lab -- --help` lists the options")


def main(argv: Sequence[str]) -> None:
    """Make the lab, unless it is there, and serve it until Ctrl-C."""
    parser = _parser()
    given = parser.parse_args(argv)
    if len(given.tamper) > 1:
        parser.error("--tamper may be given once: the list of mirrors names one repository")
    progress = Progress()
    made = world.make(given.work.absolute(), arches.parse(given.arch), progress.say)
    if given.make_only:
        progress.say(f"the lab is in {made.www}")
        return
    faults = [*given.fault, *(switches.leading_to(made, *each) for each in given.tamper)]
    wrong = [
        *(switches.describe(each) for each in given.fault),
        *(f"{package} is {kind.value}" for kind, package in given.tamper),
    ]
    try:
        server = LabServer(made.www, given.port)
    except OSError as error:
        raise HarnessError(
            f"the lab cannot be served on port {given.port}: {error.strerror}",
            hint="--port 0 takes one that is free",
        ) from error
    with (
        server,
        server.broken(*faults),
        nullcontext() if given.without_engine else workshop(made, server.url) as shop,
    ):
        print(usage(made, server, shop, wrong), flush=True)
        threading.Event().wait()


def _exports(shop: Workshop) -> str:
    """What leads a shell's `docker` to the engine."""
    folders = ":".join(shop.programs.folders)
    lines = [f'export PATH={shlex.quote(folders)}:"$PATH"']
    lines += [
        f"export {name}={shlex.quote(value)}"
        for name, value in shop.environment.items()
        if name != "PATH"
    ]
    return "\n".join(lines) + "\n"


def usage(made: World, server: LabServer, shop: Workshop | None, wrong: Sequence[str]) -> str:
    """What is served, what of it goes wrong, and how to build from it."""
    engine = "a Docker Engine runs" if shop else "no Docker Engine"
    faults = "".join(f"It fails as told: {each}.\n" for each in wrong)
    return f"""
Amazon's CDN is played on {server.mirror}, GitHub and Fedora beside it, and
{engine}, until Ctrl-C.
{faults}In another terminal:

    {build_command(made, server, shop)}
    ./nox -s boot-test -- --distribution amazonlinux
"""


def build_command(made: World, server: LabServer, shop: Workshop | None) -> str:
    """The command that builds from the lab, with packages of our own where there is an engine."""
    command = f"""./nox -s "build-3.12(arch='{made.arch}')" -- --distribution amazonlinux \\
        --mirror {server.mirror} --signing-key {made.key_file} \\
        --third-party-mirror {server.third_party} --third-party-pins {made.pins_file} \\
        """
    if not shop:
        return f"{command}--without-packages"
    environment = made.work / "engine.env"
    environment.write_text(_exports(shop))
    return f"(. {environment} && {command}--packages {shop.pins})"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="./nox -s lab --",
        description="Makes a world in the shape of Amazon Linux 2023's out of Debian packages and "
        "serves it on 127.0.0.1.",
        allow_abbrev=False,
    )
    parser.add_argument("--arch", metavar="NAME", default="x86_64", help="default: x86_64")
    parser.add_argument(
        "--port", metavar="N", type=int, default=8023, help="to serve on (default: 8023)"
    )
    parser.add_argument(
        "--without-engine",
        action="store_true",
        help="run no Docker Engine, which takes root; builds from the lab then have no packages of "
        "our own",
    )
    parser.add_argument(
        "--fault",
        metavar="KIND=REGEX[:TIMES]",
        type=switches.fault,
        action="append",
        default=[],
        help="spoil the answers for paths in which REGEX is found, the first TIMES or all: "
        f"{', '.join(switches.KINDS)}; may be repeated",
    )
    parser.add_argument(
        "--tamper",
        metavar="KIND=PACKAGE",
        type=switches.tampered,
        action="append",
        default=[],
        help="have the list of mirrors name a repository in which PACKAGE is: "
        f"{', '.join(switches.TAMPERINGS)}",
    )
    parser.add_argument(
        "--make-only", action="store_true", help="make the lab, and do not serve it"
    )
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        type=Path,
        default=ROOT / ".work/lab",
        help="where it is kept (default: .work/lab)",
    )
    return parser


if __name__ == "__main__":
    errors.main(main)
