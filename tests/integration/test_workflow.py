"""Checks the workflows of CI: form, care with credentials, and their match with the noxfile."""

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

from scripts.catalog import ROOT
from scripts.publish import deps

WORKFLOW = ".github/workflows/build-os.yaml"
DOCS = ".github/workflows/check-docs.yaml"

# Finch accepts a signature of a workflow of this name only:
# pkg/osimage in runfinch/finch, CosignIdentity.
MANIFEST = ".github/workflows/publish-os-image-manifest.yaml"

WORKFLOWS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(".github/workflows/*"))

every_workflow = pytest.mark.parametrize("path", WORKFLOWS)
publishing = pytest.mark.parametrize("path", [WORKFLOW, MANIFEST])


def load(checkout: Path, path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(checkout / path)
    return loaded


@pytest.fixture(scope="module")
def workflow(checkout: Path) -> dict[str, Any]:
    return load(checkout, WORKFLOW)


@pytest.fixture(scope="module")
def manifest(checkout: Path) -> dict[str, Any]:
    return load(checkout, MANIFEST)


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


@every_workflow
def test_it_keeps_to_github_s_schema(checkout: Path, path: str) -> None:
    subprocess.run(
        [
            sys.executable, "-m", "check_jsonschema",
            "--builtin-schema", "vendor.github-workflows", path,
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


@every_workflow
def test_a_finding_that_is_ignored_has_a_reason(checkout: Path, path: str) -> None:
    ignored = re.findall(r"# zizmor: ignore\[([\w-]+)\](.*)", (checkout / path).read_text())

    assert {name for name, _ in ignored} <= {"unpinned-images", "superfluous-actions"}
    assert all(len(reason.split()) >= 3 for _, reason in ignored)


# Jobs on the runner itself: they install no package of Debian.
ON_THE_RUNNER = {"plan", "deps", "docs"}


@every_workflow
def test_every_container_is_the_one_that_is_handed_on_with_its_digest(
    checkout: Path, path: str
) -> None:
    """The plan fails if there is no digest: tests/unit/sessions/test_ci_matrix.py."""
    jobs = load(checkout, path)["jobs"]
    images = {
        name: job.get("container", {}).get("image")
        for name, job in jobs.items()
        if name not in ON_THE_RUNNER
    }
    assert not any("container" in jobs[name] for name in ON_THE_RUNNER & {*jobs})
    assert {*images.values()} <= {"${{ needs.plan.outputs.container }}"}
    assert all("plan" in jobs[name]["needs"] for name in images)
    plans = [step["run"].splitlines() for name, step in steps({"jobs": jobs})
             if name == "plan" and step.get("id") == "plan"]  # fmt: skip
    assert all("container=$(./nox -s ci-matrix -- --container)" in lines for lines in plans)
    assert len(plans) == bool(images)


def named_sessions(workflow: Mapping[str, Any]) -> set[str]:
    """The sessions that a workflow's commands run."""
    named = set()
    for _, step in steps(workflow):
        # Each command within $( ) on a line of its own.
        run = re.sub(r"\$\(([^()]*)\)", r"\n\1\n", step.get("run", "")).replace("${RUN:-", "")
        for words in map(shlex.split, run.replace("\n}", "\n").splitlines()):
            if "-s" in words and any(word.endswith("./nox") for word in words):
                rest = words[words.index("-s") + 1 :]
                named |= set(rest[: rest.index("--")] if "--" in rest else rest)
    return named


def test_every_session_that_a_workflow_names_exists(
    checkout: Path, listed: list[dict[str, Any]]
) -> None:
    known = {name for one in listed for name in (one["name"], one["session"])}
    named = {path: named_sessions(load(checkout, path)) for path in WORKFLOWS}

    assert named == {
        WORKFLOW: {"lint", "typecheck", "tests", "fuzz", "ci-matrix", "publish", "deps",
                   "$SESSION", "$BOOT_TEST"},
        DOCS: {"lint", "tests"},
        MANIFEST: {"ci-matrix", "deps", "publish", "clean-registry"},
    }  # fmt: skip
    assert {one for all_ in named.values() for one in all_ if not one.startswith("$")} <= known


@pytest.mark.parametrize("options", [(), ("--by-image",)])
def test_every_session_of_the_matrix_exists(
    checkout: Path, listed: list[dict[str, Any]], options: tuple[str, ...]
) -> None:
    known = {one["session"] for one in listed}
    jobs = matrix(checkout, *options)

    assert {job["arch"] for job in jobs} == {"x86_64", "aarch64"}
    assert {job[kind] for job in jobs for kind in ("session", "boot_test")} - {""} <= known


@every_workflow
def test_actions_are_pinned_by_commit_and_say_their_version(checkout: Path, path: str) -> None:
    uses = re.findall(r"uses: (.+)", (checkout / path).read_text())

    assert uses
    for line in uses:
        assert re.fullmatch(r"[\w-]+(/[\w-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


TOKENS = {"ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL"}

INSTALLING = re.compile(r"apt-get|pip|--prepare|\./nox (?!-R )")


@publishing
def test_the_publish_job_installs_before_there_are_credentials(checkout: Path, path: str) -> None:
    steps = load(checkout, path)["jobs"]["publish"]["steps"]
    uses = [step.get("uses", "").partition("@")[0] for step in steps]
    credentials = uses.index("aws-actions/configure-aws-credentials")
    before, after = steps[:credentials], steps[credentials + 1 :]

    installing = [step["run"].splitlines() for step in before if "run" in step]
    prepared = {words for lines in installing for words in lines if words.endswith("--prepare")}
    for first, *_ in installing:
        assert first.split()[0] == "unset"
        assert set(first.split()[1:]) == TOKENS
    assert not any("secrets." in json.dumps(step) for step in before)
    assert after
    for step in after:
        assert step["run"].startswith(".ci/step ./nox -R -s ")
        assert not INSTALLING.search(step["run"])
        session = step["run"].split()[4]
        assert f".ci/step ./nox -s {session} -- --prepare" in prepared


@every_workflow
def test_a_second_attempt_may_upload_what_the_first_one_has_uploaded(
    checkout: Path, path: str
) -> None:
    """Artifacts of all attempts of a run share their names (README of upload-artifact)."""
    for _, step in steps(load(checkout, path)):
        if step.get("uses", "").startswith("actions/upload-artifact@"):
            assert step["with"]["overwrite"] is True, step["name"]


def test_an_old_run_that_is_started_again_sees_what_deps_name_now(workflow: dict[str, Any]) -> None:
    """By default, it would see them as they were then, and take Finch back to its own release."""
    checkout = workflow["jobs"]["deps"]["steps"][0]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"]["ref"] == "${{ github.ref }}"


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


@publishing
def test_the_publish_job_reads_and_writes_no_cache(checkout: Path, path: str) -> None:
    publish = {"jobs": {"publish": load(checkout, path)["jobs"]["publish"]}}

    assert cache_steps(publish) == {}
    assert "cache" not in json.dumps(publish)


@every_workflow
def test_credentials_and_their_permission_are_in_the_publish_job_alone(
    checkout: Path, path: str
) -> None:
    workflow = load(checkout, path)
    assert workflow["permissions"] == {}
    allowed = {"publish": {"contents": "read", "id-token": "write"},
               "deps": {"contents": "write", "pull-requests": "write"}}  # fmt: skip
    for name, job in workflow["jobs"].items():
        assert job["permissions"] == allowed.get(name, {"contents": "read"})
        text = json.dumps(job)
        assert ("secrets." in text or "environment" in job) == (name == "publish")
        assert "github.token" not in text
    if "publish" in workflow["jobs"]:
        condition = workflow["jobs"]["publish"]["if"]
        assert "github.repository == 'runfinch/finch-core'" in condition
        assert "github.ref == 'refs/heads/main'" in condition


def test_the_job_that_writes_to_the_repository_follows_what_was_published(
    workflow: dict[str, Any],
) -> None:
    job = workflow["jobs"]["deps"]
    assert job["needs"] == "publish"
    assert "always()" not in job["if"]
    assert "distribution != 'debian'" in job["if"]
    *_, making, opening = job["steps"]
    assert '-s deps -- --run-id "$GITHUB_RUN_ID"' in making["run"]
    assert opening["uses"].startswith("peter-evans/create-pull-request@")
    given = opening["with"]
    assert given["add-paths"].split() == [f"deps/{name}" for name in deps.FILES.values()]
    assert given["signoff"] is True
    assert given["labels"].split()


def test_only_a_merge_of_the_two_files_makes_a_release_the_latest(
    workflow: dict[str, Any], manifest: dict[str, Any]
) -> None:
    # YAML 1.1 reads the key `on` as true, YAML 1.2 as text.
    started = manifest["on"]
    assert started["push"] == {
        "branches": ["main"],
        "paths": [f"deps/{name}" for name in deps.FILES.values()],
    }
    assert {*started} == {"push", "workflow_dispatch"}
    assert "--latest" not in json.dumps(workflow)
    _, _, *steps = manifest["jobs"]["publish"]["steps"]
    runs = [step.get("run", "") for step in steps]
    check, publish, clean = (
        next(number for number, run in enumerate(runs) if words in run)
        for words in ("-s deps -- --check", "-s publish -- --latest", "-s clean-registry -- --rep")
    )
    assert check < publish < clean


def pattern(glob: str) -> re.Pattern[str]:
    """A filter of paths as GitHub reads it: * stays within a folder, ** does not."""
    parts = re.split(r"(\*\*|\*)", glob)
    return re.compile("".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part))
                              for part in parts))  # fmt: skip


def test_only_pages_and_what_a_merge_publishes_start_no_build(
    checkout: Path, workflow: dict[str, Any]
) -> None:
    ignored = workflow["on"]["pull_request"]["paths-ignore"]
    assert workflow["on"]["push"]["paths-ignore"] == ignored
    listed = subprocess.run(
        ["git", "ls-files"], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    quiet = {path for path in listed if any(pattern(glob).fullmatch(path) for glob in ignored)}

    assert quiet
    assert {path for path in quiet if not path.endswith((".md", ".svg"))} == {DOCS}
    assert pattern("deps/*.conf").fullmatch("deps/full-os.conf")
    watched = load(checkout, DOCS)["on"]["pull_request"]["paths"]
    assert quiet == {path for path in listed
                     if any(pattern(glob).fullmatch(path) for glob in watched)}  # fmt: skip


def test_a_build_starts_each_day(workflow: dict[str, Any]) -> None:
    [schedule] = workflow["on"]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", schedule["cron"])


@every_workflow
def test_runs_of_the_same_branch_do_not_overtake_each_other(checkout: Path, path: str) -> None:
    concurrency = load(checkout, path)["concurrency"]
    assert concurrency["group"]
    # What publishes is never cut short.
    assert concurrency["cancel-in-progress"] == {
        WORKFLOW: "${{ github.event_name == 'pull_request' }}", DOCS: True, MANIFEST: False,
    }[path]  # fmt: skip


@every_workflow
def test_every_harness_command_goes_to_the_summary_where_it_fails(
    checkout: Path, path: str
) -> None:
    for _, step in steps(load(checkout, path)):
        lines = step.get("run", "").splitlines()
        for line in lines:
            if "./nox " in line and "$(./nox" not in line:
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
