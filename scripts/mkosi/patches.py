"""Apply our patches to mkosi, or say which hunks do not apply."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.mkosi.pin import Pin, version_of
from scripts.system.errors import HarnessError
from scripts.system.process import last_line, run


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

    Raises HarnessError that names each hunk that does not apply, with its file. The tree is then
    half patched and of no use.
    """
    result = run(
        ["git", "apply", "--reject", "--verbose", "--whitespace=nowarn", patch.absolute()],
        cwd=tree,
        # Inside a checkout, git would read the paths as relative to the checkout.
        env={"GIT_CEILING_DIRECTORIES": str(tree.absolute().parent)},
        check=False,
    )
    if result.returncode:
        rejected = _rejected_hunks(result.stderr) or [last_line(result.stderr)]
        raise HarnessError(
            f"{patch.name} does not apply to mkosi {version_of(tree)}: {'; '.join(rejected)}",
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
