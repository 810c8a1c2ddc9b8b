"""Files that come whole, and folders that go whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from scripts.system.errors import HarnessError
from scripts.system.process import CommandError, run


def nearest(path: Path) -> Path:
    """The folder path, or what is there of the way to it."""
    path = path.absolute()
    while not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where it may not look
        path = path.parent
    return path


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


def write_text(path: Path, text: str) -> None:
    """Write text to path by way of a temporary name; an equal file is left as it is."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
