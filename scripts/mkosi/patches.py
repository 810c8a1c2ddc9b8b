"""Our patches on mkosi: applied without fuzz, or refused by hunk."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.mkosi.pin import Pin, version_of
from scripts.system.errors import HarnessError
from scripts.system.process import last_line, run


def apply_series(folder: Path, pin: Pin, tree: Path) -> list[Path]:
    """Apply the patches in folder to tree; those that were applied, in order.

    Those that need a full source tree are left out where tree is not one, such as Debian's package.
    Raises HarnessError as `apply_patch` does.
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
    """Apply a git-format patch to tree, without fuzz.

    Raises HarnessError that names each hunk that does not apply and its file;
    the tree is then half patched and of no use.
    """
    result = run(
        ["git", "apply", "--reject", "--verbose", "--whitespace=nowarn", patch.absolute()],
        cwd=tree,
        # Inside a checkout git would take the paths as the checkout's own.
        env={"GIT_CEILING_DIRECTORIES": str(tree.absolute().parent)},
        check=False,
    )
    if result.returncode:
        rejected = _rejected_hunks(result.stderr) or [last_line(result.stderr)]
        raise HarnessError(
            f"{patch.name} does not apply to mkosi {version_of(tree)}: {'; '.join(rejected)}",
            hint=f"refresh {patch.name}, or pin the version that it was made for",
        )


def _rejected_hunks(report: str) -> list[str]:
    """Each hunk that `git apply --reject --verbose` refused, as "hunk 2 of mkosi/config.py"."""
    rejected, name = [], ""
    for line in report.splitlines():
        if match := re.match(r"(?:Applying patch|Checking patch) (\S+?)(?:\.\.\.| with )", line):
            name = match[1]
        elif match := re.match(r"Rejected hunk #(\d+)", line):
            rejected.append(f"hunk {match[1]} of {name}")
        elif match := re.match(r"error: (\S+): (No such file or directory|does not exist.*)", line):
            rejected.append(f"{match[1]} is not there")
    return rejected
