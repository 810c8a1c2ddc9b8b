"""Build the Debian variant for this machine's architecture and boot it, for quickstart."""

from __future__ import annotations

import os
from collections.abc import Sequence

from scripts.sessions import arguments, boot_test, build
from scripts.system import errors
from scripts.system.progress import Progress


def main(argv: Sequence[str]) -> None:
    """Build and boot what argv asks for; the noxfile asks for Debian and this architecture."""
    parser = arguments.parser("quickstart", "Builds images and boots the disk image.")
    options = arguments.parse(argv, os.environ, using=parser)
    progress = Progress()
    build.run(options, progress)
    boot_test.run(options, progress)


if __name__ == "__main__":
    errors.main(main)
