"""Checks CI's workflow: its form, its care with credentials, and its match with the noxfile."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

WORKFLOW = ".github/workflows/build-os.yaml"


@pytest.fixture(scope="module")
def workflow(checkout: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(checkout / WORKFLOW)
    return loaded


@pytest.fixture(scope="module")
def listed(checkout: Path) -> list[dict[str, Any]]:
    answer = subprocess.run(
        [sys.executable, "-m", "nox", "--list", "--json"],
        cwd=checkout, capture_output=True, text=True, check=True,
    )  # fmt: skip
    sessions: list[dict[str, Any]] = json.loads(answer.stdout)
    return sessions


def steps(workflow: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, job in workflow["jobs"].items():
        for step in job["steps"]:
            yield name, step


def matrix(checkout: Path, *options: str) -> list[dict[str, str]]:
    command = [sys.executable, "-m", "scripts.sessions.ci_matrix", sys.executable, *options]
    answer = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    jobs: list[dict[str, str]] = json.loads(answer.stdout)["include"]
    return jobs


def test_it_keeps_to_github_s_schema(checkout: Path) -> None:
    subprocess.run(
        [
            sys.executable, "-m", "check_jsonschema",
            "--builtin-schema", "vendor.github-workflows", WORKFLOW,
        ],
        cwd=checkout,
        check=True,
    )  # fmt: skip


def test_zizmor_finds_nothing(checkout: Path) -> None:
    zizmor = Path(sys.executable).parent / "zizmor"
    answer = subprocess.run(
        [zizmor, "--offline", "--no-progress", "--format=plain", WORKFLOW],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_session_it_names_exists(
    workflow: dict[str, Any], listed: list[dict[str, Any]]
) -> None:
    known = {name for one in listed for name in (one["name"], one["session"])}
    named = set()
    for _, step in steps(workflow):
        for words in map(shlex.split, step.get("run", "").splitlines()):
            if "-s" in words and any(word.endswith("./nox") for word in words):
                rest = words[words.index("-s") + 1 :]
                named |= set(rest[: rest.index("--")] if "--" in rest else rest)
    named = {name.rstrip(")") for name in named}

    assert {"lint", "typecheck", "tests", "ci-matrix", "publish", "$SESSION", "$BOOT_TEST"} == named
    assert {name for name in named if not name.startswith("$")} <= known


@pytest.mark.parametrize("options", [(), ("--by-image",)])
def test_every_session_of_the_matrix_exists(
    checkout: Path, listed: list[dict[str, Any]], options: tuple[str, ...]
) -> None:
    known = {one["session"] for one in listed}
    jobs = matrix(checkout, *options)

    assert {job["arch"] for job in jobs} == {"x86_64", "aarch64"}
    assert {job[kind] for job in jobs for kind in ("session", "boot_test")} - {""} <= known


def test_actions_are_pinned_by_commit_and_say_their_version(checkout: Path) -> None:
    uses = re.findall(r"uses: (.+)", (checkout / WORKFLOW).read_text())

    assert len(uses) > 5
    for line in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_credentials_and_their_permission_are_in_the_publish_job_alone(
    workflow: dict[str, Any],
) -> None:
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        secret = "secrets." in json.dumps(job) or "id-token" in job["permissions"]
        assert secret == (name == "publish")
    assert "github.repository == 'runfinch/finch-core'" in workflow["jobs"]["publish"]["if"]


def test_every_harness_command_goes_to_the_summary_where_it_fails(
    workflow: dict[str, Any],
) -> None:
    for _, step in steps(workflow):
        lines = step.get("run", "").splitlines()
        for line in lines:
            if "./nox -s" in line and "ci-matrix" not in line:
                assert line.startswith(".ci/step ./nox -s "), line


def test_reports_are_kept_where_a_job_failed(workflow: dict[str, Any]) -> None:
    kept = [
        step["with"]["path"]
        for _, step in steps(workflow)
        if step.get("if") == "always()" and "upload-artifact" in step.get("uses", "")
    ]
    assert len(kept) == 1
    assert {"out/*/*/boot-test/", "out/*/*/*.log"} <= set(kept[0].split())


def test_nothing_is_published_before_everything_was_tested(workflow: dict[str, Any]) -> None:
    assert ".ci/step ./nox -s tests" in [step.get("run") for _, step in steps(workflow)]
    assert set(workflow["jobs"]["publish"]["needs"]) == {"build", "tests"}


def step(checkout: Path, summary: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / ".ci/step", *command],
        env={**os.environ, "GITHUB_STEP_SUMMARY": str(summary)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_step_that_failed_tells_the_summary_its_command_and_its_error(
    checkout: Path, tmp_path: Path
) -> None:
    script = "echo much; echo 'error: it broke' >&2; echo ' hint: mend it' >&2; exit 3"
    answer = step(checkout, tmp_path / "summary", "sh", "-c", script, "a b")
    summary = (tmp_path / "summary").read_text()

    assert answer.returncode == 3
    assert "much" in answer.stdout
    assert "    error: it broke\n     hint: mend it\n" in summary
    assert "much\n" not in summary.partition("last words")[2]
    [command] = re.findall(r"^    (sh .+)$", summary, re.MULTILINE)
    assert shlex.split(command) == ["sh", "-c", script, "a b"]


def test_a_step_without_an_error_of_ours_tells_its_end(checkout: Path, tmp_path: Path) -> None:
    step(checkout, tmp_path / "summary", "sh", "-c", "seq 100; exit 1")

    assert "\n    100\n" in (tmp_path / "summary").read_text()


def test_a_guest_cannot_give_github_commands_through_a_step(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    script = "echo ::error::fake; echo '##[add-mask]a'; exit 1"
    answers = [step(checkout, tmp_path / "summary", "sh", "-c", script) for _ in range(2)]

    words = []
    for answer in answers:
        first, *printed, end = answer.stdout.split()
        assert printed == ["::error::fake", "##[add-mask]a"]
        words.append(first.removeprefix("::stop-commands::"))
        assert end == f"::{words[-1]}::"
    assert len({*words}) == 2
    assert all(len(word) == 32 for word in words)


def test_what_a_guest_prints_stays_code_in_the_summary(checkout: Path, tmp_path: Path) -> None:
    script = r"printf 'error: \033[2Jx\n```\n# Passed\n\r# Passed\n'; exit 1"
    step(checkout, tmp_path / "summary", "sh", "-c", script)
    summary = (tmp_path / "summary").read_text()

    assert "\x1b" not in summary
    said = summary.partition("last words:")[2].splitlines()
    assert [line for line in said if line and not line.startswith("    ")] == []


def test_a_step_that_went_well_leaves_the_summary_alone(checkout: Path, tmp_path: Path) -> None:
    assert step(checkout, tmp_path / "summary", "true").returncode == 0
    assert not (tmp_path / "summary").exists()
