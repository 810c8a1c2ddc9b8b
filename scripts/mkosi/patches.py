"""Apply our patches to mkosi, or say which hunks do not apply."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from scripts.mkosi.pin import Pin, version_of
from scripts.system import git
from scripts.system.digests import describe
from scripts.system.errors import HarnessError
from scripts.system.process import last_line


def apply_series(folder: Path, pin: Pin, tree: Path) -> list[Path]:
    """Apply the patches in folder to tree, and return those that were applied, in order.

    Patches that need a full source tree are skipped if tree is a package, such as Debian's. Raises
    HarnessError as `apply_patch` does.
    """
    is_full = (tree / "pyproject.toml").exists()
    series = [
        patch
        for patch in sorted(folder.glob("*.patch"))
        if is_full or patch.name not in pin.full_tree
    ]
    for patch in series:
        apply_patch(patch, tree)
    return series


def apply_patch(patch: Path, tree: Path) -> None:
    """Apply a patch in git's format to tree, without fuzz.

    Raises HarnessError that names each hunk that does not apply, with its file, or a file that the
    patch did not change although git reported no failure. The tree is then of no use.
    """
    names = _touched(patch, tree)
    before = {name: _state(tree / name) for name in names}
    result = git.run_outside(
        tree, "apply", "--reject", "--verbose", "--whitespace=nowarn", patch.absolute()
    )
    if result.returncode:
        raise _refused(patch, tree, _rejected_hunks(result.stderr) or [last_line(result.stderr)])
    same = [name for name in names if _state(tree / name) == before[name]]
    if skipped := same + re.findall(r"Skipped patch '(.+)'", result.stderr):
        raise _refused(patch, tree, [f"git left {name} unchanged" for name in skipped])


def revert_series(folder: Path, names: Sequence[str], tree: Path) -> None:
    """Take the patches in folder called names, which were applied in that order, out of tree.

    Raises HarnessError if tree does not have one of them.
    """
    for name in reversed(names):
        patch = (folder / name).absolute()
        result = git.run_outside(tree, "apply", "--reverse", "--whitespace=nowarn", patch)
        if result.returncode:
            raise _refused(patch, tree, [last_line(result.stderr)])


def _touched(patch: Path, tree: Path) -> list[str]:
    """Return the files of tree that patch changes. Raises HarnessError if it is not a patch."""
    result = git.run_outside(tree, "apply", "--numstat", "-z", patch.absolute())
    # Each entry: lines added, lines removed, and the name.
    names = [entry.split("\t", 2)[2] for entry in result.stdout.split("\0") if entry]
    if result.returncode or not names:
        raise _refused(patch, tree, [last_line(result.stderr) or "it changes no file"])
    return names


def _state(path: Path) -> str:
    """Return a description of the file at path that changes with the file, "" if there is none."""
    return describe(path) if path.is_symlink() or path.is_file() else ""


def _refused(patch: Path, tree: Path, reasons: list[str]) -> HarnessError:
    """Return the error of a patch that tree does not take."""
    return HarnessError(
        f"{patch.name} does not apply to mkosi {version_of(tree)}: {'; '.join(reasons)}",
        hint=f"refresh {patch.name}, or pin the mkosi that it was made for",
    )


def _rejected_hunks(report: str) -> list[str]:
    """Return what `git apply --reject --verbose` refused, such as "hunk 2 of mkosi/config.py"."""
    rejected, name = [], ""
    for line in report.splitlines():
        if match := re.match(r"(?:Applying patch|Checking patch) (\S+?)(?:\.\.\.| with )", line):
            name = match[1]
        elif match := re.match(r"Rejected hunk #(\d+)", line):
            rejected.append(f"hunk {match[1]} of {name}")
        elif match := re.match(r"error: (\S+): (No such file or directory|does not exist.*)", line):
            rejected.append(f"{match[1]} is not there")
    return rejected
