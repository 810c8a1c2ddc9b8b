"""Choose where mkosi works while it builds: in memory if there is plenty, else on the disk."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from scripts.system.digests import text_digest

MEMORY = Path("/dev/shm")
MEMINFO = Path("/proc/meminfo")

# How many bytes of memory are plenty: four times what building all Debian images, two at a time,
# took.
PLENTY = 6 << 30

# Overlays that are mounted without privileges store their records in user attributes, which tmpfs
# supports since Linux 6.6.
ATTRIBUTE = "user.finch"


def folders(work: Path) -> list[Path]:
    """Return the two folders that a build which is kept in work may use as its workspace.

    The first is in memory, the second on a disk. mkosi passes the path of a workspace through a
    shell without quotes; if a shell would change it, the second folder is in /var/tmp, as mkosi's
    own default is.
    """
    name = f"finch-{text_digest(os.fspath(work))[:16]}"
    on_disk = work / "workspace"
    is_plain = os.fspath(on_disk) == shlex.quote(os.fspath(on_disk))
    return [MEMORY / name, on_disk if is_plain else Path("/var/tmp") / name]


def make(work: Path) -> Path:
    """Make the better one of the two folders, which the caller removes, and return it."""
    in_memory, on_disk = folders(work)
    if _is_plenty():
        in_memory.mkdir(mode=0o700)
        if _takes_attributes(in_memory):
            return in_memory
        in_memory.rmdir()
    on_disk.mkdir()
    return on_disk


def _is_plenty() -> bool:
    """Return whether memory has room for a workspace, and lets programs in it run."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return False
    may_execute = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    return may_execute and min(shutil.disk_usage(MEMORY).free, _available()) >= PLENTY


def _available() -> int:
    """Return the bytes of memory available without swapping, 0 if the kernel does not say."""
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return int(fields.get("MemAvailable", "0 kB").split()[0]) << 10


def _takes_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, ATTRIBUTE, b"")
        os.removexattr(folder, ATTRIBUTE)
    except OSError:
        return False
    return True
