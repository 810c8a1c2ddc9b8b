"""Register emulators on this machine, or remove them, for the binfmt session."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.arch import ARCHES
from scripts.catalog import ROOT, WORK, command
from scripts.emulation.binfmt import setup, teardown
from scripts.system import errors
from scripts.system.errors import UsageError
from scripts.system.files import make_private
from scripts.system.progress import Progress
from scripts.system.text import say

USAGE = """\
usage: ./nox -s binfmt -- {setup,teardown}

setup registers emulators, so that this machine runs programs of other architectures until its next
start; teardown removes them."""


def main(argv: Sequence[str]) -> None:
    """Set up or tear down the emulators of the other architectures, as argv says."""
    if {"-h", "--help"} & set(argv):
        say(USAGE)
        return
    if len(argv) != 1 or argv[0] not in ("setup", "teardown"):
        raise UsageError(
            f"binfmt takes setup or teardown, not {' '.join(argv)!r}",
            hint=command("binfmt", "setup"),
        )
    make_private(ROOT / WORK)
    progress = Progress()
    foreign = [arch for arch in ARCHES if not arch.is_native]
    for arch in foreign:
        if argv[0] == "setup":
            setup(arch, ROOT, ROOT / WORK, progress)
        else:
            teardown(arch, progress)


if __name__ == "__main__":
    errors.main(main)
