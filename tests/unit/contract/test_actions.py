"""Actions of the host, with a guest whose scripts run here."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from scripts.boot import ssh
from scripts.boot.probes import Answer
from scripts.contract import actions, files
from scripts.contract.guest import Guest, StepFailure
from scripts.contract.ntp import TimeServer
from scripts.contract.seeds import Seed
from scripts.contract.services import Shares
from scripts.mkosi.sandbox import Tools
from tests.unit.contract.tools import HostTools


class Monitor:
    """A monitor that writes down what it is told."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def execute(self, command: str) -> None:
        self.said.append(command)


@dataclass
class Running:
    """A machine that is on."""

    monitor: Monitor


class Patient:
    """A watch over a guest that never fails."""

    def until_late(self, reached: object) -> None:
        assert callable(reached)
        while not reached():
            time.sleep(0.02)


@dataclass(frozen=True)
class Place:
    """The port of a machine."""

    port: int = 1


@dataclass
class Fake:
    """What the actions use of a guest. Its scripts run here, as this user."""

    work: Path
    tools: Tools
    accelerator: str = "kvm"
    controls: dict[str, object] = field(default_factory=dict)
    expected: set[str] = field(default_factory=set)
    seed: Seed = field(default_factory=Seed)
    machine: Place = field(default_factory=Place)
    watch: Patient = field(default_factory=Patient)
    running: Running = field(default_factory=lambda: Running(Monitor([])))

    @property
    def key(self) -> ssh.Key:
        return ssh.Key(self.work / "key", "")

    def ssh(self, script: str, *, user: str = "root", seconds: float = 60) -> Answer:
        del user
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", script],
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=seconds, check=False,
        )  # fmt: skip
        return Answer(done.stdout.strip("\n"), done.returncode)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(actions, "SESSIONS", str(tmp_path / "in-the-guest"))
    (tmp_path / "bin").mkdir()
    return Fake(tmp_path, HostTools(tmp_path / "bin", Path("/nowhere")))


def guest(fake: Fake) -> Guest:
    return cast("Guest", fake)


def write_ssh(fake: Fake, text: str) -> None:
    """Have text be the program that plays ssh."""
    program = fake.tools.tree / "ssh"
    program.write_text(f"#!/bin/bash\n{text}\n")
    program.chmod(0o755)


def share(fake: Fake, *, point: str = "shared") -> dict[str, object]:
    """Share a folder whose mount point is point, and return the arguments that name it."""
    folder = fake.work / "shared"
    folder.mkdir(exist_ok=True)
    fake.controls["virtiofs"] = Shares({"tag": folder})
    return {"service": "virtiofs", "tag": "tag", "point": str(fake.work / point)}


def test_files_that_both_sides_see_alike_are_evidence_with_their_rate(fake: Fake) -> None:
    fake.accelerator = "tcg"  # so that a busy machine may be slow
    said = actions.many_files(guest(fake), **share(fake), rate=100, lasting=0.5)  # type: ignore[arg-type]
    assert re.match(r"the guest wrote [1-9]\d* files in \d[.]\d s \(\d+ a second\)", said)
    assert not list((fake.work / "shared").iterdir()), "the files are gone afterwards"


def test_a_mount_that_loses_files_fails(fake: Fake) -> None:
    arguments = share(fake, point="another")
    (fake.work / "another/many files guest").mkdir(parents=True)
    with pytest.raises(StepFailure, match=r"of [1-5] files .* the guest sees [1-5] and the host 0"):
        actions.many_files(guest(fake), **arguments, rate=50, lasting=0.1)  # type: ignore[arg-type]


def test_a_mount_that_loses_files_for_both_sides_fails(fake: Fake) -> None:
    arguments = share(fake)

    def ssh(script: str, **how: float) -> Answer:
        answer = Fake.ssh(fake, script, **how)  # type: ignore[arg-type]
        (fake.work / "shared/many files guest/000000").unlink(missing_ok=True)
        return answer

    fake.ssh = ssh  # type: ignore[method-assign, assignment]
    with pytest.raises(StepFailure, match=r"of 5 files that the guest wrote, the guest sees 4"):
        actions.many_files(guest(fake), **arguments, rate=50, lasting=0.1)  # type: ignore[arg-type]


def test_a_guest_that_says_more_than_the_time_is_no_defect_of_ours(
    fake: Fake, clock: TimeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    del clock
    write_date(fake, monkeypatch, "echo sudo: unable to resolve host; exec /bin/date +%s.%N")
    with pytest.raises(StepFailure, match="the guest does not tell the time"):
        actions.shift_clock(guest(fake), hours=8, within=0.2)


def test_a_guest_that_says_more_than_the_answer_is_no_defect_of_ours(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake.tools.tree / "python3"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.tools.tree}:{os.environ['PATH']}")
    with pytest.raises(StepFailure, match="more than the answer") as failure:
        actions.many_files(guest(fake), **share(fake), rate=10, lasting=0.1)  # type: ignore[arg-type]
    assert failure.value.evidence == "hello"


def test_a_mount_that_is_not_there_fails_with_python_s_last_line(fake: Fake) -> None:
    arguments = share(fake, point="nowhere")
    with pytest.raises(StepFailure, match="No such file or directory"):
        actions.many_files(guest(fake), **arguments, rate=10, lasting=0.1)  # type: ignore[arg-type]


def test_a_rate_that_is_not_kept_up_fails_and_says_which_one_is(fake: Fake) -> None:
    with pytest.raises(StepFailure, match=r"does not write 9.5e[+]06 files a second") as failure:
        actions.many_files(guest(fake), **share(fake), rate=1e7, lasting=0.2)  # type: ignore[arg-type]
    assert "a second)" in failure.value.evidence


def test_under_emulation_a_lower_rate_is_enough_and_the_host_keeps_to_it(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, write = [], files.write

    def slow_write(folder: str, salt: str, rate: float, seconds: float) -> tuple[int, float]:
        rates.append(rate)
        return write(folder, salt, rate, seconds)

    monkeypatch.setattr(files, "write", slow_write)
    fake.accelerator = "tcg"
    actions.many_files(guest(fake), **share(fake), rate=1e6, lasting=0.2, slowly=10)  # type: ignore[arg-type]
    assert rates == [10]


@pytest.mark.parametrize("multiplexed", [False, True])
def test_sessions_that_are_all_open_at_once_succeed(fake: Fake, multiplexed: bool) -> None:
    # The last argument is what sshd would run; a master and its end have an address there.
    write_ssh(fake, 'case ${!#} in *@*) exit;; esac; exec bash -c "${!#}"')
    said = actions.parallel_sessions(guest(fake), count=8, within=20, multiplexed=multiplexed)
    assert said.startswith("8 sessions were open at the same time")


def test_sessions_that_sshd_refuses_fail_with_ssh_s_words(fake: Fake) -> None:
    write_ssh(
        fake,
        'if mkdir "$0.first" 2>/dev/null; then echo "Connection reset by peer"; exit 255; fi\n'
        'exec bash -c "${!#}"',
    )
    with pytest.raises(StepFailure, match=r"of 3 sessions succeeded: .*Connection reset by peer"):
        actions.parallel_sessions(guest(fake), count=3, within=2)


def test_sessions_that_only_come_one_after_the_other_fail(fake: Fake) -> None:
    write_ssh(fake, 'exec flock "$0" timeout 1 bash -c "${!#}"')
    with pytest.raises(StepFailure, match=r"[01] of 2 sessions succeeded"):
        actions.parallel_sessions(guest(fake), count=2, within=4)


@pytest.fixture
def clock(fake: Fake) -> Iterator[TimeServer]:
    with contextlib.closing(TimeServer()) as server:
        fake.controls["time"] = server
        yield server


def write_date(fake: Fake, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have the guest's `date` be the script text."""
    monkeypatch.setenv("PATH", f"{fake.tools.tree}:{os.environ['PATH']}")
    for name in ("date", "chronyc"):
        (fake.tools.tree / name).write_text(f"#!/bin/bash\n{text}\n")
        (fake.tools.tree / name).chmod(0o755)


@pytest.mark.parametrize("hours", [8, -8])
def test_a_guest_that_follows_the_host_s_clock_passes(
    fake: Fake, clock: TimeServer, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    # It is one look late, as a guest whose chronyd has yet to ask.
    once = 'if mkdir "$0.first" 2>/dev/null; then h=0; fi'
    write_date(fake, monkeypatch, f'h={hours}; {once}; exec /bin/date -d "$h hours" "$@"')
    said = actions.shift_clock(guest(fake), hours=hours)
    assert f"the host's, {hours:+d} h from true" in said
    assert clock.offset == hours * 3600
    assert fake.running.monitor.said == ["stop", "cont"], "it stood still in the meantime"


@pytest.mark.parametrize(("hours", "late"), [(8, "-2880"), (-8, "[+]2880")])
def test_a_guest_that_stays_where_it_was_fails(
    fake: Fake,
    clock: TimeServer,
    monkeypatch: pytest.MonkeyPatch,
    hours: int,
    late: str,
) -> None:
    del clock
    write_date(fake, monkeypatch, 'exec /bin/date "$@"')
    with pytest.raises(StepFailure, match=rf"the guest's clock is still {late}[0-9] s from"):
        actions.shift_clock(guest(fake), hours=hours, within=0.2)


@pytest.fixture
def journalctl(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program that plays journalctl."""
    monkeypatch.setenv("PATH", f"{fake.tools.tree}:{os.environ['PATH']}")
    return fake.tools.tree / "journalctl"


def write_journal(journalctl: Path, *messages: str) -> None:
    lines = [f'{{"SYSLOG_IDENTIFIER": "systemd", "MESSAGE": "{message}"}}' for message in messages]
    text = "\n".join(lines)
    journalctl.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    journalctl.chmod(0o755)


MISSING = "ctx=0x5 path=/lib/modules/6.12/kernel/x.ko.xz error=No such file or directory"


def test_a_journal_with_expected_errors_passes_with_their_reasons(
    fake: Fake, journalctl: Path
) -> None:
    write_journal(journalctl, MISSING, MISSING)
    said = actions.check_journal(guest(fake))
    assert said.startswith("2 errors, all of them expected")
    assert "a choice of the kernel's modules" in said
    assert len(fake.expected) == 1


def test_a_journal_with_another_error_fails_with_it(fake: Fake, journalctl: Path) -> None:
    write_journal(journalctl, MISSING, "Failed to start x.service")
    with pytest.raises(
        StepFailure, match=r"1 unexpected errors?, such as systemd: Failed to start"
    ):
        actions.check_journal(guest(fake))


def test_a_journal_that_is_not_json_fails(fake: Fake, journalctl: Path) -> None:
    write_journal(journalctl, 'a quote " too many')
    with pytest.raises(StepFailure, match="the journal cannot be read: "):
        actions.check_journal(guest(fake))


def test_a_busy_host_s_delays_are_known() -> None:
    cpu = next(iter(os.sched_getaffinity(0)))
    spin = (
        f"import os, time\nos.sched_setaffinity(0, {{{cpu}}})\n"
        "end = time.monotonic() + 2\nwhile time.monotonic() < end: pass\n"
    )
    sandboxed = ["sh", "-c", '"$@"; :', "sh", sys.executable, "-c", spin]
    spinning = [subprocess.Popen(sandboxed, start_new_session=True) for _ in range(3)]
    try:
        time.sleep(1.5)
        assert max(wait for one in spinning for wait in actions._waits(one.pid).values()) > 0.3
    finally:
        for one in spinning:
            os.killpg(one.pid, signal.SIGKILL)
            one.wait()
    assert not actions._waits(spinning[0].pid)


def test_a_thread_that_waited_longer_before_hides_no_other_one() -> None:
    assert actions._starved({"1": 100.0, "2": 1.0}, {"1": 100.5, "2": 5.0, "3": 2.0}) == 4.0
    assert actions._starved({"1": 100.0}, {}) == 0.0
