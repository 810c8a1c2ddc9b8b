"""What stands beside the code: hooks, Dependabot, the README, and where the documents point."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from scripts import catalog
from scripts.publish import s3

HOOKS = ".pre-commit-config.yaml"

# A fenced block of Markdown, with what is in it.
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)

# The requirements that each tool's session installs.
GROUPS = {"ruff": "lint", "codespell": "lint", "zizmor": "test"}


@pytest.fixture(scope="module")
def hooks(checkout: Path) -> dict[str, dict[str, Any]]:
    loaded = YAML(typ="safe").load(checkout / HOOKS)
    return {hook["id"]: hook for repo in loaded["repos"] for hook in repo["hooks"]}


def documents(checkout: Path) -> list[Path]:
    """The project's own Markdown files."""
    folders = [path for path in checkout.iterdir() if path.is_dir() and path.name != "out"]
    visible = [path for path in folders if not path.name.startswith(".")]
    return [*checkout.glob("*.md"), *(file for path in visible for file in path.rglob("*.md"))]


def pinned(checkout: Path, group: str) -> dict[str, str]:
    text = (checkout / f"requirements/{group}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", text, re.MULTILINE))


def test_each_hook_has_the_version_that_the_session_has(
    checkout: Path, hooks: dict[str, dict[str, Any]]
) -> None:
    named = [
        requirement.split("==")
        for hook in hooks.values()
        for requirement in hook.get("additional_dependencies", [])
    ]

    assert {name for name, _ in named} == set(GROUPS)
    for name, version in named:
        assert pinned(checkout, GROUPS[name])[name] == version, name


def test_hooks_need_no_repository_but_this_one(checkout: Path) -> None:
    loaded = YAML(typ="safe").load(checkout / HOOKS)
    assert {repo["repo"] for repo in loaded["repos"]} == {"local"}


def test_a_hook_without_a_version_of_its_own_runs_a_session(
    hooks: dict[str, dict[str, Any]],
) -> None:
    systems = [hook["entry"] for hook in hooks.values() if hook["language"] == "system"]
    assert systems == ["./nox -s typecheck"]


def test_dependabot_s_configuration_keeps_to_its_schema(checkout: Path) -> None:
    subprocess.run(
        [
            sys.executable, "-m", "check_jsonschema",
            "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml",
        ],
        cwd=checkout,
        check=True,
    )  # fmt: skip


def test_dependabot_looks_where_the_pins_are(checkout: Path) -> None:
    loaded = YAML(typ="safe").load(checkout / ".github/dependabot.yml")
    assert {(one["package-ecosystem"], one["directory"]) for one in loaded["updates"]} == {
        ("github-actions", "/"),
        ("pip", "/requirements"),
    }


def test_the_readme_begins_with_exactly_the_two_commands(checkout: Path) -> None:
    first = FENCE.search((checkout / "README.md").read_text())
    assert first
    assert first[1].splitlines() == ["./nox -s quickstart", "./nox -s tests"]


def anchors(path: Path) -> set[str]:
    """The names under which GitHub shows the headings of a Markdown file."""
    text = FENCE.sub("", path.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> Iterator[str]:
    text = re.sub(r"`[^`\n]+`", "", FENCE.sub("", path.read_text()))
    yield from re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    yield from re.findall(r'\b(?:src|srcset)="([^"]+)"', text)


def test_every_link_between_documents_leads_somewhere(checkout: Path) -> None:
    broken = []
    for path in documents(checkout):
        for link in links(path):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{path.relative_to(checkout)}: {link}")

    assert not broken


def test_every_path_that_a_document_names_is_there(checkout: Path) -> None:
    tops = "scripts|tests|docs|third-party|al2023-package-build|requirements"
    named = re.compile(rf"`((?:{tops})/[\w./-]+)`")
    gone = [
        f"{document.relative_to(checkout)}: {match[1]}"
        for document in documents(checkout)
        for match in named.finditer(document.read_text())
        if not (checkout / match[1]).exists()
    ]
    assert gone == []


def shown(part: ast.expr) -> str:
    """A part of an f-string as a user sees it."""
    match part:
        case ast.Constant(value=text):
            return str(text)
        case ast.FormattedValue(
            value=ast.Call(
                func=ast.Attribute(value=ast.Name("catalog"), attr=name),
                args=[ast.Constant(value=first)],
            )
        ):
            return str(getattr(catalog, name)(first))
    return "…"


def sentences(checkout: Path) -> str:
    """Every text in the harness, one on a line, with "…" where a value is filled in.

    Options and commands that come from the catalogue are as a user sees them.
    """
    texts = []
    for path in [checkout / "nox", checkout / "noxfile.py", *(checkout / "scripts").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(map(shown, node.values)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[sd.]+", "…", node.value))
    texts += [path.read_text() for path in (checkout / "scripts").rglob("*.toml")]
    return "\n".join(texts)


def test_the_messages_of_troubleshooting_are_ones_that_the_harness_says(checkout: Path) -> None:
    page = (checkout / "docs/troubleshooting.md").read_text()
    cells = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    said = sentences(checkout)
    unknown = [
        message
        for message in messages
        if not all(part.strip(" ,:()") in said for part in message.split("…"))
    ]

    assert len(messages) > 50
    assert not unknown


def test_the_page_about_releases_lists_every_permission_that_publishing_needs(
    checkout: Path,
) -> None:
    page = (checkout / "docs/release.md").read_text()
    needed = re.findall(r"(?:s3|ecr):\w+", s3.PERMISSIONS)
    assert len(needed) > 5
    assert [one for one in needed if f"`{one}`" not in page] == []


def test_codespell_s_exceptions_are_in_order(checkout: Path) -> None:
    words = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["codespell"]
    listed = words["ignore-words-list"]
    assert listed == sorted(set(listed))
