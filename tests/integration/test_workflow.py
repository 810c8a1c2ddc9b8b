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


def zizmor(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run zizmor over everything in folder, as strictly as it can be without a network."""
    program = Path(sys.executable).parent / "zizmor"
    return subprocess.run(
        [program, "--offline", "--no-progress", "--persona=pedantic", "--format=plain", "."],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_zizmor_at_its_most_pedantic_finds_nothing(checkout: Path) -> None:
    answer = zizmor(checkout / ".github")
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("permissions: {}\n\nconcurrency", "permissions: write-all\n\nconcurrency"),
        ("persist-credentials: false", "fetch-depth: 1"),
        ("@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0", "@v5"),
        ("${{ needs.plan.outputs.container }} # zizmor", "debian:trixie-slim # "),
        ("run: .ci/step ./nox -s tests\n", "run: echo ${{ github.head_ref }}\n"),
    ],
    ids=["permissions", "credentials", "action", "image", "injection"],
)
def test_a_change_that_weakens_the_workflow_is_found(
    checkout: Path, tmp_path: Path, before: str, after: str
) -> None:
    text = (checkout / WORKFLOW).read_text()
    assert before in text
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / WORKFLOW).write_text(text.replace(before, after, 1))

    assert zizmor(tmp_path).returncode != 0


def test_a_finding_that_is_ignored_has_a_reason(checkout: Path) -> None:
    ignored = re.findall(r"# zizmor: ignore\[([\w-]+)\](.*)", (checkout / WORKFLOW).read_text())

    assert {name for name, _ in ignored} == {"unpinned-images"}
    assert all(len(reason.split()) >= 3 for _, reason in ignored)


def test_every_container_is_the_one_that_is_handed_on_with_its_digest(
    workflow: dict[str, Any],
) -> None:
    """The plan fails if there is no digest: tests/unit/sessions/test_ci_matrix.py."""
    jobs = workflow["jobs"]
    images = {name: job.get("container", {}).get("image") for name, job in jobs.items()}

    assert images.pop("plan") is None
    assert set(images.values()) == {"${{ needs.plan.outputs.container }}"}
    assert all("plan" in jobs[name]["needs"] for name in images)
    [step] = [step for step in jobs["plan"]["steps"] if step.get("id") == "plan"]
    assert "container=$(./nox -s ci-matrix -- --container)" in step["run"].splitlines()


def test_every_session_it_names_exists(
    workflow: dict[str, Any], listed: list[dict[str, Any]]
) -> None:
    known = {name for one in listed for name in (one["name"], one["session"])}
    named = set()
    for _, step in steps(workflow):
        # Each command within $( ) on a line of its own.
        run = re.sub(r"\$\(([^()]*)\)", r"\n\1\n", step.get("run", ""))
        for words in map(shlex.split, run.splitlines()):
            if "-s" in words and any(word.endswith("./nox") for word in words):
                rest = words[words.index("-s") + 1 :]
                named |= set(rest[: rest.index("--")] if "--" in rest else rest)
    assert {
        "lint",
        "typecheck",
        "tests",
        "fuzz",
        "ci-matrix",
        "publish",
        "$SESSION",
        "$BOOT_TEST",
    } == named
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
        assert re.fullmatch(r"[\w-]+(/[\w-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


TOKENS = {"ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL"}

INSTALLING = re.compile(r"apt-get|pip|--prepare|\./nox (?!-R )")


def test_the_publish_job_installs_before_there_are_credentials(workflow: dict[str, Any]) -> None:
    steps = workflow["jobs"]["publish"]["steps"]
    uses = [step.get("uses", "").partition("@")[0] for step in steps]
    credentials = uses.index("aws-actions/configure-aws-credentials")
    before, [last] = steps[:credentials], steps[credentials + 1 :]

    installing = [step["run"].splitlines() for step in before if "run" in step]
    assert [".ci/step ./nox -s publish -- --prepare" in lines for lines in installing] == [
        False,
        True,
    ]
    for first, *_ in installing:
        assert first.split()[0] == "unset"
        assert set(first.split()[1:]) == TOKENS
    assert not any("secrets." in json.dumps(step) for step in before)
    assert last["run"].startswith(".ci/step ./nox -R -s publish -- ")
    assert not INSTALLING.search(last["run"])


def cache_steps(workflow: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The steps that read or write a cache, by what they use."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for _, step in steps(workflow):
        action = step.get("uses", "").partition("@")[0]
        if action.startswith("actions/cache") or "cache" in step.get("with", {}):
            found.setdefault(action, []).append(step)
    return found


def test_caches_are_written_on_main_only(workflow: dict[str, Any]) -> None:
    found = cache_steps(workflow)

    assert set(found) == {"actions/cache/restore", "actions/cache/save"}
    [save] = found["actions/cache/save"]
    assert save["if"] == "github.ref == 'refs/heads/main'"


def test_the_publish_job_reads_and_writes_no_cache(workflow: dict[str, Any]) -> None:
    publish = {"jobs": {"publish": workflow["jobs"]["publish"]}}

    assert cache_steps(publish) == {}
    assert "cache" not in json.dumps(publish)


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
            if "./nox " in line and "ci-matrix" not in line:
                assert re.match(r"\.ci/step \./nox (-R )?-s ", line), line


def test_reports_are_kept_where_a_job_failed(workflow: dict[str, Any]) -> None:
    kept = [
        step["with"]["path"]
        for _, step in steps(workflow)
        if step.get("if") == "always()" and "upload-artifact" in step.get("uses", "")
    ]
    assert len(kept) == 1
    assert {"out/*/*/boot-test/", "out/*/*/*.log"} <= set(kept[0].split())


def test_publishing_gets_the_results_of_boot_tests_with_the_images(
    workflow: dict[str, Any],
) -> None:
    # What booted is known by digests, so only the raw disk can stay behind.
    [kept] = [
        step["with"]["path"].split()
        for name, step in steps(workflow)
        if name == "build" and step.get("with", {}).get("name", "").startswith("images-")
    ]
    assert kept == ["out/", "!out/*/*/os-image.raw"]


def test_nothing_is_published_before_everything_was_tested(workflow: dict[str, Any]) -> None:
    runs = [step.get("run") for _, step in steps(workflow)]
    assert {".ci/step ./nox -s tests", ".ci/step ./nox -s fuzz"} <= {*runs}
    assert set(workflow["jobs"]["publish"]["needs"]) == {"plan", "build", "tests"}


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


def test_a_line_without_end_and_text_that_turns_around_do_not_spoil_the_summary(
    checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "said").write_text("error: " + "A" * 3_000_000 + "\nerror: \x9b31m\u202eevil ä │\n")
    step(checkout, tmp_path / "summary", "sh", "-c", 'cat "$0"; exit 1', str(tmp_path / "said"))
    summary = (tmp_path / "summary").read_text()

    assert len(summary) < 10_000
    assert summary.endswith("    error: 31mevil ä │\n")
