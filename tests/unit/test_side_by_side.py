"""Two processes share the tests by files."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tests import conftest

FILES = ("tests/unit/emulation/test_elf.py", "tests/unit/emulation/test_entries.py")

# What the noxfile has pytest do; Nox is not installed where pytest is.
OPTIONS = re.compile(r"^SIDE_BY_SIDE = \((.*)\)$", re.MULTILINE)


def test_all_tests_of_a_file_run_in_one_process(checkout: Path) -> None:
    found = OPTIONS.search((checkout / "noxfile.py").read_text())
    assert found
    options = re.findall(r'"([^"]+)"', found[1])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", *options, *FILES],
        cwd=checkout, capture_output=True, text=True, check=True,
    )  # fmt: skip

    processes = defaultdict(set)
    for process, file in re.findall(r"\[(gw\d+)\].* PASSED (\S+?)::", done.stdout):
        processes[file].add(process)
    assert [len(processes[file]) for file in FILES] == [1, 1]
    assert len(set.union(*processes.values())) == 2


def test_every_file_that_shares_something_exists(checkout: Path) -> None:
    assert [name for name in conftest.SHARED if not (checkout / "tests" / name).is_file()] == []
