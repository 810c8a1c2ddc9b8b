"""Fetches emulators from a real archive, on a machine whose apt knows no Debian archive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scripts import arch
from scripts.mkosi import source
from scripts.system.progress import Progress
from tests.integration import namespaces

AS_UBUNTU = 'mount --bind "$1" /etc/os-release && shift && exec "$@"'

TRIED = "mount --bind /etc/os-release /etc/os-release"

FETCH = """
import sys
from pathlib import Path
from scripts import arch
from scripts.emulation import emulators
from scripts.system.progress import Progress
root, work = map(Path, sys.argv[1:])
found = emulators.download(root, work, arch.native(), Progress())
print(*(found.program(one) for one in found.table.emulated.values()), sep="\\n")
"""


def test_a_machine_that_is_not_debian_has_them_from_the_archive_that_mkosi_takes(
    checkout: Path, tmp_path: Path
) -> None:
    namespaces.require(TRIED, "it takes user namespaces that may mount")
    source.obtain(checkout / "mkosi", tmp_path / "work", Progress(live=False))
    release = tmp_path / "os-release"
    release.write_text("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n")

    fetched = subprocess.run(
        [
            *namespaces.COMMAND,
            "sh", "-c", AS_UBUNTU, "sh", release,
            sys.executable, "-c", FETCH, checkout, tmp_path / "work",
        ],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert fetched.returncode == 0, fetched.stderr
    programs = [Path(line) for line in fetched.stdout.splitlines() if line.startswith("/")]
    assert {program.name for program in programs} >= {f"qemu-{name}" for name in arch.NAMES}
    assert all(os.access(program, os.X_OK) for program in programs)
