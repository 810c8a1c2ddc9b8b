from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.system import process as processes
from scripts.system.process import CommandError

# Says what its child's process is, which sleeps, and waits for it.
PARENT = """\
import sys
from scripts.system import errors
from scripts.system import process as processes
class Log:
    def write(self, data): sys.stdout.buffer.write(data)
    def flush(self): sys.stdout.buffer.flush()
def entry(argv):
    processes.stream(["sh", "-c", argv[0]], log=Log(), on_line=lambda line: sys.stdout.flush())
errors.main(entry)
"""
SLEEPER = "echo pid $$; exec sleep 60"

# Ends 0.3 s after SIGTERM, and says so.
TIDY = "trap 'sleep 0.3; echo tidied up; exit 0' TERM; echo pid $$; while :; do sleep 0.05; done"


def start(checkout: Path, command: str) -> tuple[subprocess.Popen[str], int]:
    """The harness running command, which prints its pid first, and that pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, command],
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("pid "):
            return process, int(line.split()[1])
    raise AssertionError(process.communicate()[1])


def is_gone(pid: int, *, within: float = 5) -> bool:
    """Whether the process ends (or is only there to be waited for) within so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state.startswith("Z"):
            return True
        time.sleep(0.02)
    return False


def test_output_comes_back_as_text() -> None:
    result = processes.run(["sh", "-c", "cat; echo error >&2"], stdin="ä\n")

    assert (result.stdout, result.stderr, result.returncode) == ("ä\n", "error\n", 0)


def test_a_command_that_fails_raises_with_its_words() -> None:
    with pytest.raises(CommandError) as caught:
        processes.run(["sh", "-c", "echo why >&2; exit 7"])

    assert caught.value.returncode == 7
    assert caught.value.output == "why\n"
    assert str(caught.value) == "sh -c 'echo why >&2; exit 7' ended with status 7"


def test_a_command_may_be_allowed_to_fail() -> None:
    assert processes.run(["false"], check=False).returncode == 1


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        processes.run(["no-such-program"])


def test_the_environment_is_added_to_and_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    program = tmp_path / "a program"
    program.write_text('#!/bin/sh\necho "$GREETING $HOME"\n')
    program.chmod(0o755)

    assert processes.run([program], env={"GREETING": "hi"}).stdout == f"hi {os.environ['HOME']}\n"


def test_a_credential_in_the_environment_reaches_no_program_that_does_not_name_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirrors = ("FINCH_MIRROR", "FINCH_THIRD_PARTY_MIRROR")
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "COSIGN_PASSWORD",
        "GITHUB_TOKEN",
        "LD_PRELOAD",
        *mirrors,
    ):
        monkeypatch.setenv(name, "secret")
    for name in ("FINCH_OUTPUT", "https_proxy", "LC_TIME", "SOURCE_DATE_EPOCH"):
        monkeypatch.setenv(name, "allowed")

    everyone = processes.run(["env"]).stdout.splitlines()
    signer = processes.run(["env"], also=r"COSIGN_\w+").stdout.splitlines()

    assert not [line for line in everyone if line.endswith("=secret")]
    assert len([line for line in everyone if line.endswith("=allowed")]) == 4
    assert [line for line in signer if line.endswith("=secret")] == ["COSIGN_PASSWORD=secret"]


def test_a_command_that_takes_too_long_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        processes.run(["sleep", "60"], timeout=0.1)

    assert time.monotonic() - started < 5


def test_a_streamed_command_writes_its_log_and_reports_each_line() -> None:
    log = io.BytesIO()
    lines: list[str] = []
    processes.stream(["printf", r"one\ntwo\n"], log=log, on_line=lines.append)

    assert lines == ["one", "two"]
    assert log.getvalue() == b"+ printf 'one\\ntwo\\n'\none\ntwo\n"


def test_the_error_of_a_streamed_command_holds_its_last_lines() -> None:
    with pytest.raises(CommandError) as caught:
        processes.stream(["sh", "-c", "seq 100; exit 3"], log=io.BytesIO(), keep=2)

    assert caught.value.output == "99\n100"
    assert caught.value.returncode == 3


@pytest.mark.parametrize("line_end", ["n", "r"], ids=["lines", "progress without a line's end"])
def test_memory_stays_small_however_much_is_printed(line_end: str) -> None:
    class Nowhere:
        def __init__(self) -> None:
            self.size = 0

        def write(self, data: bytes) -> None:
            self.size += len(data)

        def flush(self) -> None:
            pass

    log = Nowhere()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    program = f"yes {'x' * 1000} | head --bytes=200M | tr '\\n' '\\{line_end}'"
    processes.stream(["sh", "-c", program], log=log)

    assert log.size > 200_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_a_child_dies_when_the_harness_is_killed(checkout: Path) -> None:
    process, child = start(checkout, SLEEPER)
    process.kill()
    process.communicate()

    assert is_gone(child)


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "ended by SIGTERM"),
        (signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_a_signal_ends_the_command_first_and_lets_it_tidy_up(
    checkout: Path, number: signal.Signals, status: int, words: str
) -> None:
    process, child = start(checkout, TIDY)
    process.send_signal(number)
    _, errors = process.communicate()

    assert process.returncode == status
    assert errors == f"{words}\n"
    assert is_gone(child, within=0.1)


def test_what_a_command_leaves_running_is_ended_with_it() -> None:
    pid = int(processes.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"]).stdout)

    assert is_gone(pid)


def test_a_command_that_does_not_end_when_told_is_killed() -> None:
    process = processes.start(["sh", "-c", "trap '' TERM; echo; sleep 60"], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    processes.terminate(process, grace=0.2)
    process.stdout.close()

    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("end", [processes.terminate, subprocess.Popen.kill])
def test_ending_what_has_ended_is_no_error(
    end: Callable[[subprocess.Popen[bytes]], None],
) -> None:
    process = processes.start(["true"])
    process.wait()

    end(process)
    processes.terminate(process)

    assert process.returncode == 0


@pytest.mark.parametrize(
    ("text", "line"), [("a\n b \n\n", "b"), ("a", "a"), (" \n\t\n", ""), ("", "")]
)
def test_the_last_line_is_the_last_with_something_on_it(text: str, line: str) -> None:
    assert processes.last_line(text) == line
