"""Makes the lab and serves it; the lab session runs this module (`python -m tests.lab`)."""

from __future__ import annotations

import argparse
import shlex
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from scripts import arch as arches
from scripts import catalog
from scripts.system import errors
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Progress
from tests.lab import eras, switches, tampering, world
from tests.lab.repository import World
from tests.lab.server import LabServer
from tests.lab.workshop import Workshop, workshop

AMAZON_LINUX = "amazonlinux"


class _Parser(argparse.ArgumentParser):
    """A parser that raises UsageError for a wrong option."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"`{catalog.command('lab', '--help')}` lists the options")


def main(argv: Sequence[str]) -> None:
    """Make what is missing of the lab, and serve it until Ctrl-C."""
    parser = _parser()
    given = parser.parse_args(argv)
    if len(given.tamper) > 1:
        parser.error("give --tamper once: a list of mirrors can name only one repository")
    progress = Progress()
    made = world.make(
        given.work.absolute(),
        arches.parse(given.arch),
        progress.say,
        era=eras.ERAS[given.era],
    )
    if given.make_only:
        progress.say(f"the lab's files are in {made.www}")
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
            f"the lab cannot listen on port {given.port}: {error.strerror}",
            hint="choose another port with --port N, or any free one with --port 0",
        ) from error
    with (
        server,
        server.broken(*faults),
        nullcontext() if given.without_engine else workshop(made, server.url) as shop,
    ):
        print(usage(made, server, shop, wrong), flush=True)
        threading.Event().wait()


def _exports(shop: Workshop) -> str:
    """Return the shell commands after which `docker` talks to the lab's engine."""
    folders = ":".join(shop.programs.folders)
    lines = [f'export PATH={shlex.quote(folders)}:"$PATH"']
    lines += [
        f"export {name}={shlex.quote(value)}"
        for name, value in shop.environment.items()
        if name != "PATH"
    ]
    return "\n".join(lines) + "\n"


def usage(made: World, server: LabServer, shop: Workshop | None, wrong: Sequence[str]) -> str:
    """Return the text about what the lab serves, its faults, and how to build from it."""
    engine = "a Docker engine is running" if shop else "there is no Docker engine"
    faults = "".join(f"Fault: {each}.\n" for each in wrong)
    boot = catalog.command("boot-test", catalog.flag("distribution"), AMAZON_LINUX)
    return f"""
The lab's copy of Amazon's CDN is at {server.mirror},
next to its copies from GitHub and Fedora; {engine}. Ctrl-C stops the lab.
{faults}In another terminal:

    {build_command(made, server, shop)}
    {boot}
"""


def build_command(made: World, server: LabServer, shop: Workshop | None) -> str:
    """Return the command that builds from the lab, with our own packages if there is an engine."""
    flag = catalog.flag
    options = [
        f"{flag('distribution')} {AMAZON_LINUX}",
        f"{flag('mirror')} {server.mirror} {flag('signing-key')} {made.key_file}",
        f"{flag('third-party-mirror')} {server.third_party}"
        f" {flag('third-party-pins')} {made.pins_file}",
        f"{flag('packages')} {shop.pins}" if shop else flag("without-packages"),
    ]
    command = catalog.command("build", " \\\n        ".join(options), arch=str(made.arch))
    if not shop:
        return command
    environment = made.work / "engine.env"
    environment.write_text(_exports(shop))
    return f"(. {environment} && {command})"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"{catalog.command('lab')} --",
        description="Makes a stand-in for Amazon Linux 2023's repositories out of Debian packages, "
        "and serves it on 127.0.0.1 until Ctrl-C.",
        allow_abbrev=False,
    )
    _add_contents(parser)
    _add_serving(parser)
    _add_faults(parser)
    return parser


def _add_contents(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what the lab consists of."""
    parser.add_argument(
        "--arch",
        metavar="NAME",
        default=arches.native().name,
        help="architecture of the lab's packages (default: this machine's)",
    )
    parser.add_argument(
        "--era",
        choices=[*eras.ERAS],
        default=eras.AMAZON.name,
        help="age of the Debian packages: 'amazon' takes Debian 12's, whose versions are nearly "
        "Amazon Linux's (systemd 252, dnf 4.14, cloud-init 22.4), 'newest' Debian 13's "
        f"(default: {eras.AMAZON.name})",
    )
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        type=Path,
        default=catalog.ROOT / ".work/lab",
        help="folder to keep the lab in (default: .work/lab)",
    )


def _add_serving(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what runs."""
    parser.add_argument(
        "--port",
        metavar="N",
        type=switches.port,
        default=8023,
        help="TCP port to listen on; 0 chooses a free one (default: 8023)",
    )
    parser.add_argument(
        "--without-engine",
        action="store_true",
        help="do not start a Docker engine, which needs root; builds from the lab then leave out "
        "our own packages",
    )
    parser.add_argument(
        "--make-only", action="store_true", help="make the lab, but do not serve it"
    )


def _add_faults(parser: argparse.ArgumentParser) -> None:
    """Add the options that make the lab fail."""
    parser.add_argument(
        "--fault",
        metavar="KIND=REGEX[:TIMES]",
        type=switches.fault,
        action="append",
        default=[],
        help="spoil the answers for paths that contain REGEX, the first TIMES or all of them; KIND "
        f"is one of {', '.join(switches.KINDS)}; may be repeated",
    )
    parser.add_argument(
        "--tamper",
        metavar="KIND=PACKAGE",
        type=switches.tampered,
        action="append",
        default=[],
        help="lead builds to a repository where PACKAGE is not what it should be; KIND is one of "
        f"{', '.join(switches.TAMPERINGS)}; {tampering.METADATA} stands for the metadata",
    )


if __name__ == "__main__":
    errors.main(main)
