"""User namespaces, in which a test is root but cannot change the machine."""

from __future__ import annotations

import os
import subprocess

import pytest

COMMAND = ("unshare", "--user", "--map-root-user", "--mount", "--")


def require(shell: str, lacking: str) -> None:
    """Skip the test with the reason lacking if the command shell fails in a namespace.

    If the variable CI is set, the test fails instead, so CI cannot leave it out unnoticed.
    """
    done = subprocess.run(
        [*COMMAND, "sh", "-c", shell], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = f"{lacking}: {done.stderr.strip()}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
