"""Where mkosi works while it builds: in memory if that is plenty, else on the disk."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from scripts.system.digests import text_digest

MEMORY = Path("/dev/shm")
MEMINFO = Path("/proc/meminfo")

# Bytes of memory that are plenty: four times what all images of Debian, two at a time, had there.
PLENTY = 6 << 30

# Overlays that an unprivileged mkosi mounts keep their notes in it; tmpfs has them since Linux 6.6.
ATTRIBUTE = "user.finch"


def folders(work: Path) -> list[Path]:
    """The folders for the workspaces of builds that are kept in work, one of which a build uses.

    The first is in memory, the second on a disk. mkosi passes a workspace's path through a shell
    without quoting it. Where that would go wrong the latter lies in /var/tmp, which is mkosi's own
    choice.
    """
    name = f"finch-{text_digest(os.fspath(work))[:16]}"
    on_disk = work / "workspace"
    is_plain = os.fspath(on_disk) == shlex.quote(os.fspath(on_disk))
    return [MEMORY / name, on_disk if is_plain else Path("/var/tmp") / name]


def make(work: Path) -> Path:
    """Make the better of the folders; what is in it is for the caller to remove."""
    in_memory, on_disk = folders(work)
    if _is_plenty():
        in_memory.mkdir(mode=0o700)
        if _takes_attributes(in_memory):
            return in_memory
        in_memory.rmdir()
    on_disk.mkdir()
    return on_disk


def _is_plenty() -> bool:
    """Whether memory has room for a workspace whose programs can be run."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return False
    may_execute = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    return may_execute and min(shutil.disk_usage(MEMORY).free, _available()) >= PLENTY


def _available() -> int:
    """Bytes that could be had without swapping (0 where the kernel does not say)."""
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return int(fields.get("MemAvailable", "0 kB").split()[0]) << 10


def _takes_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, ATTRIBUTE, b"")
        os.removexattr(folder, ATTRIBUTE)
    except OSError:
        return False
    return True
