"""Runs the programs of Debian 11, where rpm and e2fsprogs are as old as in Amazon Linux 2023."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from scripts import arch
from tests.lab import debs
from tests.lab.eras import Era

# Debian 11 has rpm 4.16.1 and e2fsprogs 1.46; Amazon Linux 2023 has rpm 4.16.1.3 and 1.46 too.
ERA = Era("oldest", "bullseye")

# The readers, and what looks around in an image.
PACKAGES = ("e2fsprogs", "rpm", "findutils")

# Where the programs see the image or the folder that they are given.
SHOWN = "/shown"

# Shows $2, a folder or an ext4 file system in a file, to the program in the root $1.
ENTER = f"""
set -eu
root=$1 shown=$2
shift 2
mount --bind /dev "$root/dev"
if [ -d "$shown" ]; then
    mount --bind "$shown" "$root{SHOWN}"
else
    mount -t ext4 -o loop "$shown" "$root{SHOWN}"
fi
exec chroot "$root" "$@"
"""

# What Amazon Linux's macros say; Debian's rpm has another kind of database for each user.
RPM = ("--root", SHOWN, "--define", "_dbpath /var/lib/rpm", "--define", "_db_backend sqlite")


@dataclass(frozen=True)
class Debian11:
    """A root file system with Debian 11's packages."""

    root: Path

    def run(
        self, argv: Sequence[str | Path], shown: Path, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run argv with the folder, or the file system in the file, at SHOWN, without a network.

        Needs root. The mounts vanish with the program. Raises CalledProcessError if it fails and
        check is true.
        """
        done = subprocess.run(
            [
                "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child",
                "sh", "-c", ENTER, "sh", self.root, shown, *argv,
            ],
            env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "LC_ALL": "C"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{argv}: {done.stdout}{done.stderr}"
        return done

    def rpm(self, *options: str, shown: Path, program: str = "rpm") -> str:
        """Return what rpm says of the root file system shown.

        Fails if rpm warns of anything. `rpm --verify` has status 1 if files differ.
        """
        done = self.run([program, *RPM, *options], shown, check=False)
        assert done.returncode == 0 or "--verify" in options, done.stdout + done.stderr
        assert done.stderr == "", done.stderr
        return done.stdout


def unpack(checkout: Path) -> Debian11:
    """Return a root with rpm and e2fsprogs, which the checkout keeps for the next run."""
    work = checkout / ".work/lab/debian11"
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / "lock"):
        found = debs.Archive(work / "apt", ERA, arch.native(), print).obtain(PACKAGES)
        root = work / "root"
        shutil.rmtree(root, ignore_errors=True)
        for folder in (root / "dev", root / SHOWN.lstrip("/")):
            folder.mkdir(parents=True)
        for deb in found:
            subprocess.run(["dpkg-deb", "--extract", deb.path, root], check=True)
        # e2fsprogs complains if it cannot see what is mounted.
        (root / "etc/mtab").touch()
    return Debian11(root)
