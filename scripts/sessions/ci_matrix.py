"""Print CI's jobs, made from the sessions that Nox lists, for the ci-matrix session."""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts import catalog
from scripts.catalog import ROOT
from scripts.sessions.arguments import Parser
from scripts.system import errors
from scripts.system.errors import HarnessError
from scripts.system.process import CommandError, run
from scripts.system.text import say

CONTAINER = Path(__file__).with_name("container.toml")

# What update-pins calls it.
PIN = "ci-container"

DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)

RUNNERS = Path(__file__).with_name("runners.toml")

# Stands for the image in a job that builds all of them.
ALL = "all"


def main(argv: Sequence[str]) -> None:
    """Print the matrix; argv begins with the Python that Nox runs in."""
    parser = Parser(
        "ci-matrix",
        'Prints what GitHub Actions takes for strategy.matrix: {"include": [{"arch", '
        '"image", "session", "boot_test", "runner"}, …]}. One job builds all images of an '
        "architecture, which share most of the work and are described and published together.",
    )
    parser.add_argument("python", help=argparse.SUPPRESS)
    parser.add_argument(
        "--by-image",
        action="store_true",
        help="print a job for each image instead, to spread the work",
    )
    parser.add_argument(
        "--container",
        action="store_true",
        help="print the container image of the jobs, with its digest, and nothing else",
    )
    given = parser.parse_args(argv)
    if given.container:
        say(container(tomllib.loads(CONTAINER.read_text())["container"]))
        return
    try:
        listed = run([given.python, "-m", "nox", "--list", "--json"], cwd=ROOT).stdout
    except CommandError as error:
        raise HarnessError(f"Nox cannot list its sessions: {error.output.strip()}") from error
    runners = tomllib.loads(RUNNERS.read_text())
    matrix = {"include": jobs(json.loads(listed), runners, by_image=given.by_image)}
    say(json.dumps(matrix))


def container(pin: Mapping[str, str]) -> str:
    """The container image of the jobs, by its digest. Raises HarnessError if pin has none.

    A tag can be moved, so its owner would decide what a job runs.
    """
    if not DIGEST.fullmatch(pin["digest"]):
        raise HarnessError(
            f"{CONTAINER.name} has no digest of {pin['name']}:{pin['tag']}",
            hint=f"`{catalog.command('update-pins', PIN)}` adds it, with access to the internet",
        )
    return f"{pin['name']}:{pin['tag']}@{pin['digest']}"


def jobs(
    listed: Iterable[Mapping[str, Any]], runners: Mapping[str, str], *, by_image: bool
) -> list[dict[str, str]]:
    """A job for each session that builds; listed is what `nox --list --json` prints.

    Raises HarnessError for an architecture without a runner.
    """
    sessions = list(listed)
    boots = {
        one["call_spec"]["arch"]: one["session"] for one in sessions if one["name"] == "boot-test"
    }
    found = []
    for session in sessions:
        arch = session["call_spec"].get("arch", "")
        image = session["call_spec"].get("image", ALL)
        wanted = bool(catalog.artifacts(image)) if by_image else session["name"] == "build"
        if not wanted:
            continue
        if arch not in runners:
            raise HarnessError(f"{RUNNERS.name} names no runner for {arch}")
        bootable = image in {ALL, catalog.DISK}
        found.append(
            {
                "arch": arch,
                "image": image,
                "session": session["session"],
                "boot_test": boots[arch] if bootable else "",
                "runner": runners[arch],
            }
        )
    return found


if __name__ == "__main__":
    errors.main(main)
