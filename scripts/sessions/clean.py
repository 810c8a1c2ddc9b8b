"""Remove what this checkout has built, and what it keeps to build faster, for the clean session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.catalog import OUT, ROOT, WORK
from scripts.mkosi import workspaces
from scripts.sessions.arguments import Parser
from scripts.system import errors
from scripts.system.errors import HarnessError
from scripts.system.files import remove
from scripts.system.locks import only_build
from scripts.system.text import say


def main(argv: Sequence[str]) -> None:
    """Remove out/ and .work/ of the checkout, but no folders that --out and --work have named."""
    Parser(
        "clean",
        f"Removes {OUT}/ and {WORK}/ of this checkout. Folders given with --out and --work stay.",
    ).parse_args(argv)
    if (ROOT / WORK).exists():
        with only_build(ROOT / WORK):
            clean(ROOT)
    else:
        clean(ROOT)


def clean(root: Path) -> None:
    """Remove the folders of builds below root. Raises HarnessError if one cannot be removed."""
    for name in (OUT, WORK):
        folder = root / name
        if folder.is_symlink():
            raise HarnessError(f"{folder} is a symbolic link", hint="remove its target yourself")
        if folder.exists():
            remove(folder)
            say(f"removed {folder}")
    for folder in workspaces.folders(root / WORK):
        remove(folder)


if __name__ == "__main__":
    errors.main(main)
