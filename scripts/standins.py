"""Stand-ins: what maintainer scripts of foreign packages call, and is done natively afterwards.

A maintainer script is a program of the image, and so are all that it calls: emulated, each start
takes 50 ms, and byte-compiling Python minutes. What does the same for any architecture is left out
there by means of a program that does nothing, of this machine's architecture and first on the PATH
of the scripts, and done by mkosi.images/base/debian-natively.sh instead.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from scripts import elf
from scripts.arch import native

# Where stand-ins are in an image while it is built, on dpkg's PATH (`sources.APT_CONF`).
FOLDER = "usr/lib/finch-natively"

PROGRAMS = ("depmod", "py3compile", "update-ca-certificates")


def write_tree(tree: Path) -> None:
    """Write to tree the stand-ins, for images that this machine does not run natively."""
    shutil.rmtree(tree, ignore_errors=True)
    folder = tree / FOLDER
    folder.mkdir(parents=True)
    for name in PROGRAMS:
        (folder / name).write_bytes(elf.says(native(), ""))
        (folder / name).chmod(0o755)
