"""Remove what this checkout has built, and what it keeps to build faster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.catalog import OUT, ROOT, WORK
from scripts.mkosi import workspaces
from scripts.system import errors
from scripts.system.errors import HarnessError, UsageError
from scripts.system.files import remove
from scripts.system.locks import only_build

FOLDERS = (OUT, WORK)


def main(argv: Sequence[str]) -> None:
    """Remove out/ and .work/ of the checkout. Folders named by --out and --work are left alone."""
    if {"-h", "--help"} & set(argv):
        print("usage: ./nox -s clean\n\nRemoves out/ and .work/ of this checkout.")
        return
    if argv:
        raise UsageError(f"clean takes no arguments, such as {' '.join(argv)}")
    if (ROOT / WORK).exists():
        with only_build(ROOT / WORK):
            clean(ROOT)
    else:
        clean(ROOT)


def clean(root: Path) -> None:
    """Remove the folders of builds below root. Raises HarnessError where one cannot be removed."""
    for name in FOLDERS:
        folder = root / name
        if folder.is_symlink():
            raise HarnessError(f"{folder} is a symbolic link", hint="remove its target yourself")
        if folder.exists():
            remove(folder)
            print(f"removed {folder}")
    for folder in workspaces.folders(root / WORK):
        remove(folder)


if __name__ == "__main__":
    errors.main(main)
