"""Make the lab and serve it: `python -m tests.lab`, which the lab session runs."""

from __future__ import annotations

import argparse
import shlex
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from scripts import arch as arches
from scripts import errors
from scripts.errors import HarnessError, UsageError
from scripts.options import ROOT
from scripts.progress import Progress
from tests.lab import world
from tests.lab.repository import World
from tests.lab.server import LabServer
from tests.lab.workshop import Workshop, workshop


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint="`./nox -s lab -- --help` lists the options")


def main(argv: Sequence[str]) -> None:
    """Make the lab, unless it is there, and serve it until Ctrl-C."""
    given = _parser().parse_args(argv)
    progress = Progress()
    made = world.make(given.work.absolute(), arches.parse(given.arch), progress.say)
    if given.make_only:
        progress.say(f"the lab is in {made.www}")
        return
    try:
        server = LabServer(made.www, given.port)
    except OSError as error:
        raise HarnessError(
            f"the lab cannot be served on port {given.port}: {error.strerror}",
            hint="--port 0 takes one that is free",
        ) from error
    with server, workshop(made, server.url) as shop:
        environment = made.work / "engine.env"
        environment.write_text(_exports(shop))
        print(_usage(made, server, shop, environment), flush=True)
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


def _usage(made: World, server: LabServer, shop: Workshop, environment: Path) -> str:
    return f"""
Amazon's CDN is played on {server.mirror}, GitHub and Fedora beside it, and a
Docker Engine runs, until Ctrl-C; in another terminal:

    (. {environment} && ./nox -s "build-3.12(arch='{made.arch}')" -- --distribution amazonlinux \\
        --mirror {server.mirror} --signing-key {made.key_file} \\
        --third-party-mirror {server.third_party} --third-party-pins {made.pins_file} \\
        --packages {shop.pins})
    ./nox -s boot-test -- --distribution amazonlinux
"""


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
