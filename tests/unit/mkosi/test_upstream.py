"""What counts as a finding that our patches add, with small trees and real programs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts.mkosi import upstream
from scripts.mkosi.upstream import Tool

[TESTS] = [tool for tool in upstream.TOOLS if tool.name == "tests"]

# A linter in the tree itself, which Python finds there: it dislikes each line that says bad.
LINTER = """\
import pathlib
import sys
found = [
    f"{path}:{number}: {line}"
    for path in sorted(pathlib.Path("mkosi").rglob("*.txt"))
    for number, line in enumerate(path.read_text().splitlines(), 1)
    if "bad" in line
]
print(*found, sep="\\n")
print(f"{len(found)} problems, told {sys.argv[1:]}")
sys.exit(bool(found))
"""
LINT = Tool("lint", ("linter",), r"\S+:\d+: .+", settings=("--ours",))

PASSING = "def test_one() -> None:\n    pass\n"
FAILING = "def test_two() -> None:\n    raise AssertionError\n"


def tree(folder: Path, files: Mapping[str, str] | None = None) -> Path:
    """A tree with files, besides the linter."""
    for name, text in {"linter.py": LINTER, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "mkosi").mkdir(exist_ok=True)
    return folder


def test_a_finding_that_the_patches_add_is_one_wherever_the_others_have_moved(
    tmp_path: Path,
) -> None:
    before = tree(tmp_path / "before", {"mkosi/a.txt": "a bad line\n"})
    after = tree(tmp_path / "after", {"mkosi/a.txt": "new\na bad line\nanother bad line\n"})

    result = upstream.compare(LINT, before, after)

    assert result.added == ("mkosi/a.txt: another bad line",)
    assert result.inherited == 1


def test_the_same_finding_twice_is_one_that_the_patches_add(tmp_path: Path) -> None:
    before = tree(tmp_path / "before", {"mkosi/a.txt": "bad\n"})
    after = tree(tmp_path / "after", {"mkosi/a.txt": "bad\nbad\n"})

    assert upstream.compare(LINT, before, after).added == ("mkosi/a.txt: bad",)


def test_what_was_found_before_is_not_ours(tmp_path: Path) -> None:
    trees = [tree(tmp_path / name, {"mkosi/a.txt": "bad\n"}) for name in ("before", "after")]
    result = upstream.compare(LINT, *trees)

    assert (result.added, result.inherited) == ((), 1)


def test_upstream_s_settings_count_where_there_are_any(tmp_path: Path) -> None:
    package = tree(tmp_path / "package")
    full = tree(tmp_path / "full", {"pyproject.toml": ""})

    assert upstream.compare(LINT, package, package).summary == "0 problems, told ['--ours']"
    assert upstream.compare(LINT, full, full).summary == "0 problems, told []"


def test_a_tool_that_breaks_down_over_the_patched_tree_is_a_finding(tmp_path: Path) -> None:
    before, after = tree(tmp_path / "before"), tree(tmp_path / "after")
    (after / "linter.py").write_text("raise SystemExit('no such option')")

    [finding] = upstream.compare(LINT, before, after).added
    assert finding == "it ended with 1: no such option"


@pytest.mark.parametrize("message", ["no network", "failed in {tree}, at {time}"])
def test_a_tool_that_works_over_neither_tree_does_not_pass(tmp_path: Path, message: str) -> None:
    trees = [tree(tmp_path / name) for name in ("before", "after")]
    for folder in trees:
        text = message.format(tree=folder, time=folder.name)
        (folder / "linter.py").write_text(f"raise SystemExit({text!r})")

    result = upstream.compare(LINT, *trees)

    assert result.added == ()
    assert result.skipped.startswith("it works over neither tree: it ended with 1: ")


def test_a_module_that_is_not_there_does_not_pass(tmp_path: Path) -> None:
    trees = [tree(tmp_path / name) for name in ("before", "after")]
    result = upstream.compare(Tool("other", ("no_such_linter",), r"\S+: .+!"), *trees)
    assert "No module named no_such_linter" in result.skipped


def test_a_test_that_fails_since_the_patches_is_named_and_one_that_failed_before_is_not(
    tmp_path: Path,
) -> None:
    files = {"tests/test_a.py": FAILING, "tests/test_b.py": PASSING}
    before = tree(tmp_path / "before", files)
    after = tmp_path / "after"
    shutil.copytree(before, after)
    assert upstream.compare(TESTS, before, after).added == ()

    (after / "tests/test_b.py").write_text(PASSING + FAILING)
    result = upstream.compare(TESTS, before, after)

    assert [finding.split(" - ")[0] for finding in result.added] == [
        "FAILED tests/test_b.py::test_two"
    ]
    assert result.inherited == 1


def test_a_package_has_only_the_tests_that_the_patches_bring(tmp_path: Path) -> None:
    before = tree(tmp_path / "before")
    after = tree(tmp_path / "after", {"tests/test_a.py": PASSING})

    result = upstream.compare(TESTS, before, after)

    assert result.added == ()
    assert result.summary.startswith("1 passed")


def test_a_check_that_cannot_run_says_so_and_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tree(tmp_path / "package")
    full = tree(tmp_path / "full", {"pyproject.toml": ""})
    [reuse] = [tool for tool in upstream.TOOLS if tool.name == "reuse"]
    monkeypatch.setenv("PATH", str(tmp_path))

    assert "whole source tree" in upstream.compare(reuse, package, package).skipped
    assert upstream.compare(reuse, full, full).skipped == "reuse is not installed"
