"""User namespaces, in which a test is root of a machine that it cannot change."""

from __future__ import annotations

import os
import subprocess

import pytest

COMMAND = ("unshare", "--user", "--map-root-user", "--mount", "--")


def require(shell: str, lacking: str) -> None:
    """Skip the test with the words lacking unless a shell command succeeds in a namespace.

    Where the variable CI is set the test fails instead, so that nothing is left out unseen.
    """
    done = subprocess.run(
        [*COMMAND, "sh", "-c", shell], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = f"{lacking}: {done.stderr.strip()}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
