"""Run the checks that mkosi's own CI runs, before and after our patches.

A finding counts only if it is not there before the patches: what upstream's tree has already is not
ours to mend. A package such as Debian's has neither upstream's tests nor its settings. Then the
tests of our patches run alone, with the settings that upstream's CODING_STYLE.md and CI name.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.system.process import last_line, run

# Tests that need images, and those that run the tools below once more.
NO_TESTS = ("--ignore=tests/test_linters.py", "-m", "not integration")

# The oldest Python that mkosi supports, and the oldest that mypy can still check for.
PYTHON, PYTHON_OF_MYPY = "3.9", "3.10"

# The folder of mkosi's tests, in its source tree.
TESTS = "tests"

# Otherwise pyright asks the network whether there is a newer one.
VARIABLES = {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

# Where a finding is, which differs before and after a patch: ":12:5" after the name of a file.
POSITION = re.compile(r":\d+(:\d+)?(?=[: ])")


@dataclass(frozen=True)
class Tool:
    """A tool of upstream's CI.

    Attributes:
        name: what the check is called.
        command: the module to run and its arguments, in the tree. A program if is_program.
        finding: matches each line of its output that is a finding.
        settings: the arguments for a tree without upstream's settings.
        is_program: whether it is a program that the machine may have, rather than a module.
        needs_full_tree: whether it says nothing about a package.

    """

    name: str
    command: tuple[str, ...]
    finding: str
    settings: tuple[str, ...] = ()
    is_program: bool = False
    needs_full_tree: bool = False


TOOLS = (
    Tool(
        "ruff check",
        ("ruff", "check", "--no-cache", "--output-format", "concise", "mkosi", TESTS),
        r"\S+\.py:\d+:\d+: .+",
        ("--isolated", "--line-length", "109", "--target-version", "py39", "--select", "E,F,I,UP"),
    ),
    Tool(
        "ruff format",
        ("ruff", "format", "--no-cache", "--check", "--output-format", "concise", "mkosi", TESTS),
        r"\S+\.py:\d+:\d+: .+",
        ("--isolated", "--line-length", "109", "--target-version", "py39"),
    ),
    Tool("codespell", ("codespell_lib", "mkosi", TESTS), r"\S+:\d+: .+ ==> .+"),
    Tool(
        "mypy",
        (
            *("mypy", "--no-pretty", "--cache-dir", os.devnull),
            *("--python-version", PYTHON_OF_MYPY, "mkosi", TESTS),
        ),
        r"\S+\.py:\d+(?::\d+)?: error: .+",
        ("--strict",),
    ),
    Tool(
        "pyright",
        ("pyright", "--pythonpath", sys.executable, "mkosi", TESTS),
        r"\s+\S+\.py:\d+:\d+ - error: .+",
        ("--pythonversion", PYTHON),
    ),
    Tool(
        "tests",
        ("pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE", *NO_TESTS, TESTS),
        r"(?:FAILED|ERROR) .+",
    ),
    Tool("reuse", ("reuse", "lint", "--lines"), r"\S+: .+", is_program=True, needs_full_tree=True),
)


@dataclass(frozen=True)
class Result:
    """What a tool says about the patches.

    Attributes:
        tool: its name.
        added: the findings that the patches add.
        inherited: how many findings there are before the patches already.
        summary: the last line of its output after the patches, such as pytest's counts.
        skipped: why it was not run, "" if it was.

    """

    tool: str
    added: tuple[str, ...] = ()
    inherited: int = 0
    summary: str = ""
    skipped: str = ""


def is_full(tree: Path) -> bool:
    """Whether tree is upstream's whole source tree rather than a package of it."""
    return (tree / "pyproject.toml").exists()


def compare(tool: Tool, before: Path, after: Path) -> Result:
    """Run tool on the tree after, and on the tree before if it finds something there."""
    if reason := _obstacle(tool, after):
        return Result(tool.name, skipped=reason)
    now = _run(tool, after)
    if not now.findings:
        return Result(tool.name, summary=now.summary)
    known = _run(tool, before)
    if now.has_failed and known.has_failed:
        [reason] = now.findings
        return Result(tool.name, skipped=f"it works over neither tree: {reason}")
    added = now.findings - known.findings
    inherited = now.findings.total() - added.total()
    return Result(tool.name, tuple(sorted(added)), inherited, now.summary)


def _obstacle(tool: Tool, tree: Path) -> str:
    """Return why tool cannot run on tree, "" if it can."""
    if tool.needs_full_tree and not is_full(tree):
        return "it needs upstream's whole source tree"
    if tool.is_program and not shutil.which(tool.command[0]):
        return f"{tool.command[0]} is not installed"
    return ""


@dataclass(frozen=True)
class _Run:
    """What a tool says of one tree: its findings, without positions, and its last line.

    A tool that ends with a failure and has no finding that we recognise has failed as a whole: its
    last line is the finding.
    """

    findings: Counter[str]
    summary: str
    has_failed: bool


def _run(tool: Tool, tree: Path) -> _Run:
    # Before the patches, a package has no tests.
    arguments = [arg for arg in tool.command if arg != TESTS or (tree / TESTS).is_dir()]
    done = run(
        [*_beginning(tool), *arguments, *([] if is_full(tree) else tool.settings)],
        cwd=tree,
        env=VARIABLES,
        check=False,
    )
    output = f"{done.stderr}\n{done.stdout}"
    lines = re.findall(rf"^{tool.finding}$", output, re.MULTILINE)
    found = [POSITION.sub("", line.replace(f"{tree}/", "")).strip() for line in lines]
    summary = last_line(output)
    has_failed = done.returncode != 0 and not found
    if has_failed:
        found = [f"it ended with {done.returncode}: {summary}"]
    return _Run(Counter(found), summary, has_failed)


def _beginning(tool: Tool) -> Sequence[str]:
    """Return how the command of tool begins."""
    return [] if tool.is_program else [sys.executable, "-m"]
