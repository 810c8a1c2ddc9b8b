"""Folders that builds leave behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from scripts.errors import HarnessError
from scripts.run import CommandError, run


def remove(folder: Path) -> None:
    """Remove folder, if it is there, and all in it.

    What a user's build gave to subordinate UIDs is removed as well. Raises HarnessError.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except PermissionError as error:
        if os.geteuid() == 0:
            raise HarnessError(f"{folder} cannot be removed: {error}") from error
        try:
            run(["unshare", "--map-root-user", "--map-auto", "--", "rm", "-rf", "--", folder])
        except (CommandError, FileNotFoundError) as failure:
            raise HarnessError(
                f"{folder} cannot be removed: {error}", hint=f"sudo rm -rf '{folder}'"
            ) from failure
