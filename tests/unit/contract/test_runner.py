"""Whole runs of the contract, with programs that play QEMU, and scripts that run here."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.arch import native
from scripts.boot import Result, Subject, machine, watch
from scripts.contract import guest as guests
from scripts.contract import runner, scenario
from scripts.contract.actions import ACTIONS
from scripts.contract.runner import Contract
from scripts.contract.services import Host, Offer
from scripts.distributions import debian
from scripts.system.errors import HarnessError, MachineError, UsageError
from scripts.system.progress import Progress
from tests.unit.boot.fakes import make_tools
from tests.unit.formats.test_disk import superblock, write_native_disk
from tests.unit.formats.test_uki import write_uki

HEAD = 'title = "A guest"\ndevices = "vz"\nnetwork = "offline"\n'
BOOT = 'do = "boot"'

Try = Callable[..., Result]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out ä, b" / "contract"


@pytest.fixture
def attempt(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Try:
    """Tries scenarios of the given steps, on a machine that has no /dev/kvm."""
    monkeypatch.setattr(machine, "KVM", tmp_path / "kvm")
    monkeypatch.setattr(watch, "TICK", 0.02)
    monkeypatch.setattr(watch, "AFTERMATH_SECONDS", 0.3)
    monkeypatch.setattr(watch.Greeter, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(guests, "RETRY", 0.05)
    uki = write_uki(tmp_path / "os-image.efi", cmdline="fake", uname="fake")
    disk = write_native_disk(tmp_path / "os-image.raw", root=superblock(), at=1024)
    subject = Subject("debian", native(), disk, uki, emulated=[])

    def read(name: str, head: str, *steps: str) -> scenario.Scenario:
        made = [
            f'[[step]]\nname = "s{number}"\ntitle = "t"\nclient = "c"\nreason = "r"\n{step}\n'
            for number, step in enumerate(steps)
        ]
        path = tmp_path / f"{name}.toml"
        path.write_text(head + "".join(made))
        return scenario.read(path, tuple(ACTIONS))

    def run(
        *steps: str, head: str = HEAD, accel: str = "tcg", beside: str = "", **plays: list[str]
    ) -> Result:
        tools = make_tools(tmp_path / "tree", uki, **{"ssh": ["shell"], **plays})
        scenarios = [read("one", head, *steps)]
        scenarios += [read("beside", HEAD, BOOT, beside)] if beside else []
        contract = Contract(subject, scenarios, tools, tmp_path / "kept", Progress(live=False))
        result = contract.run(out, accel=accel)
        assert not tools.qemu_runs
        assert not (out / ".work").exists()
        return result

    return run


def statuses(result: Result) -> list[str]:
    return [check.status.value for check in result.checks]


def test_steps_run_in_order_in_a_machine_that_is_switched_off_at_the_end(attempt: Try) -> None:
    result = attempt(BOOT, "run = 'echo good morning'", 'do = "power-off"')
    assert result.passed, result.reason
    assert result.checks[1].evidence == "good morning"
    assert "off after" in result.checks[2].evidence


def test_a_step_that_fails_gives_its_last_line_and_the_next_ones_are_tried(attempt: Try) -> None:
    result = attempt(BOOT, "run = 'echo some; echo no mount; false; echo not reached'", "run = ':'")
    assert statuses(result) == ["passed", "failed", "passed"]
    assert result.reason == "s1: no mount"
    assert result.checks[1].evidence == "some\nno mount"


def test_a_script_ends_at_the_first_command_of_a_pipe_that_fails(attempt: Try) -> None:
    assert statuses(attempt(BOOT, "run = 'false | cat; echo on'"))[1] == "failed"


def test_a_guest_may_be_silent_while_a_script_runs(
    attempt: Try, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "SILENCE", 1.0)
    assert attempt(BOOT, "run = 'sleep 2'").passed


def test_a_script_that_takes_too_long_is_ended(attempt: Try) -> None:
    result = attempt(BOOT, "run = 'echo waiting; sleep 60'\nseconds = 0.3")
    assert result.checks[1].reason.endswith("not done within 0.3 s")
    assert "waiting" in result.checks[1].evidence


def test_steps_after_the_guest_is_lost_are_skipped_with_the_reason(attempt: Try) -> None:
    result = attempt(BOOT, "run = ':'", tcg=["reset"])
    assert statuses(result) == ["failed", "skipped"]
    assert "guest-reset" in result.checks[1].reason


def test_a_machine_that_is_on_is_not_started_again(attempt: Try) -> None:
    result = attempt(BOOT, BOOT, "run = ':'")
    assert statuses(result) == ["passed", "failed", "passed"]
    assert result.reason == "the machine is on already"


def test_a_script_for_a_machine_that_is_off_fails_the_step(attempt: Try) -> None:
    result = attempt(BOOT, 'do = "power-off"', "run = ':'")
    assert result.reason == "the machine is off"


def test_a_guest_that_ignores_the_power_button_fails_the_step(attempt: Try) -> None:
    result = attempt(BOOT, 'do = "power-off"\nwithin = 0.3', tcg=["stubborn"])
    assert result.reason.startswith("the guest is still up after 0.")


@pytest.mark.parametrize(
    ("play", "end"), [("restless", "guest-reset"), ("dying", "QEMU has ended")]
)
def test_a_guest_that_ends_otherwise_than_by_the_power_button_fails_the_step(
    attempt: Try, play: str, end: str
) -> None:
    result = attempt(BOOT, 'do = "power-off"', tcg=[play])
    assert result.reason == f"the guest did not switch itself off: {end}"


def test_a_step_that_does_not_apply_says_why_and_fails_nothing(attempt: Try) -> None:
    otherwise = "only-if = 'false'\notherwise = 'the image has no mkfs.xfs'"
    result = attempt(BOOT, f"run = 'false'\n{otherwise}")
    assert statuses(result)[1] == "not applicable"
    assert result.checks[1].reason == "the image has no mkfs.xfs"
    assert result.passed


def test_a_step_is_not_left_out_because_the_guest_cannot_be_asked(
    attempt: Try, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "LOGINS", 2)
    result = attempt(BOOT, "run = ':'\nonly-if = 'true'\notherwise = 'o'", ssh=["refused"])
    assert result.reason.startswith("the guest cannot be asked: ssh: connect to host")


def test_a_qemu_that_ends_while_it_is_told_something_fails_the_step(attempt: Try) -> None:
    clock = HEAD + 'services = ["time"]\n'
    result = attempt(BOOT, 'do = "shift-clock"\nhours = 8', head=clock, tcg=["dying"])
    assert result.reason.startswith("QEMU does not answer: ")


def test_a_login_that_fails_is_tried_again(attempt: Try) -> None:
    assert attempt(BOOT, "run = ':'", ssh=["refused", "refused", "shell"]).passed


def test_a_guest_that_lets_nobody_in_fails_the_step(
    attempt: Try, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "LOGINS", 3)
    assert "Connection refused" in attempt(BOOT, "run = ':'", ssh=["refused"]).reason


def test_a_panic_under_tcg_gets_one_more_attempt_and_both_consoles_are_kept(
    attempt: Try, out: Path
) -> None:
    result = attempt(BOOT, tcg=["panic", "good"])
    assert result.passed
    assert "one: second attempt after" in result.note
    assert "Kernel panic" in (out / "panicked-console-one-1.log").read_text()
    assert "login:" in (out / "console-one-1.log").read_text()


def test_two_panics_are_a_failure(attempt: Try) -> None:
    assert "panic" in attempt(BOOT, tcg=["panic"]).reason


def test_where_kvm_does_not_work_tcg_is_used(attempt: Try, tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    result = attempt(BOOT, accel="auto", kvm=["refuse"], tcg=["good"])
    assert (result.accelerator, result.passed) == ("tcg", True)
    assert "could not set up this machine" in result.accelerator_reason


def test_a_machine_on_which_no_qemu_starts_is_said_to_be_at_fault(attempt: Try) -> None:
    with pytest.raises(MachineError, match="could not set up this machine"):
        attempt(BOOT, tcg=["refuse"])


def test_an_image_that_has_not_been_built_is_refused(attempt: Try, tmp_path: Path) -> None:
    (tmp_path / "os-image.raw").unlink()
    with pytest.raises(UsageError, match=r"there is no .*os-image\.raw"):
        attempt(BOOT)


def test_an_error_of_one_scenario_ends_the_others(
    attempt: Try, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"

    @contextlib.contextmanager
    def missing(_host: Host) -> Iterator[Offer]:
        while not started.exists():
            time.sleep(0.02)
        raise HarnessError("there is no server")
        yield

    monkeypatch.setattr(runner, "SERVICES", {"dns": missing})
    head, waiting = HEAD + 'services = ["dns"]\n', f"run = 'touch {started}; exec sleep 300'"
    began = time.monotonic()
    with pytest.raises(HarnessError, match="there is no server"):
        attempt(BOOT, head=head, beside=f"{waiting}\nseconds = 300")
    assert time.monotonic() - began < 60
    assert not (out / ".work").exists()


def test_an_image_that_no_scenario_is_for_is_refused(attempt: Try) -> None:
    with pytest.raises(HarnessError, match="no scenario is for debian"):
        attempt(BOOT, head=HEAD + 'distributions = ["amazonlinux"]\n')


def test_results_and_consoles_are_kept(attempt: Try, out: Path) -> None:
    attempt(BOOT)
    assert json.loads((out / "result.json").read_text())["passed"] is True
    assert "testcase" in (out / "junit.xml").read_text()
    assert "Linux version" in (out / "console-one-1.log").read_text()


def test_what_one_scenario_lacks_on_this_machine_does_not_lose_what_others_found(
    attempt: Try, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "find", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(MachineError, match="dnsmasq is not installed"):
        attempt(BOOT, head=HEAD + 'services = ["dns"]\n', beside="run = ':'")
    found = json.loads((out / "result.json").read_text())
    assert (found["passed"], found["reason"]) == (False, "dnsmasq is not installed")
    assert [(check["name"], check["status"], check["reason"]) for check in found["checks"]] == [
        ("one.s0", "skipped", "dnsmasq is not installed"),
        ("beside.s0", "passed", ""),
        ("beside.s1", "passed", ""),
    ]


@pytest.mark.parametrize(("outcome", "says"), [("true", True), ("false", False)])
def test_errors_that_are_expected_in_vain_are_told_only_if_all_was_tried(
    attempt: Try, outcome: str, says: bool
) -> None:
    result = attempt(BOOT, f"run = '{outcome}'")
    assert ("no journal has the expected error" in result.note) is says
