"""The boot test as a whole, with programs that play QEMU and the guest."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.arch import ARCHES, native
from scripts.boot import Result, Subject, boot_test, machine, ssh, watch
from scripts.boot import boot as guests
from scripts.boot import rehearsal as under_test
from scripts.boot.firmware import FIRMWARE
from scripts.system.errors import HarnessError, MachineError, UsageError
from scripts.system.progress import Progress
from tests.unit.boot.fakes import FakeTools, make_tools
from tests.unit.formats.test_disk import superblock, write_native_disk
from tests.unit.formats.test_uki import write_uki

Boot = Callable[..., Result]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    uki = write_uki(tmp_path / "os-image.efi", cmdline="fake", uname="fake")
    disk = write_native_disk(tmp_path / "os-image.raw", root=superblock(), at=1024)
    return Subject("debian", native(), disk, uki, emulated=[])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out ä, b" / "boot-test"


@pytest.fixture
def boot(subject: Subject, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    """Boots the subject with a QEMU that acts as told, on a machine that has /dev/kvm."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(machine, "KVM", tmp_path / "kvm")
    monkeypatch.setattr(watch, "TICK", 0.02)
    monkeypatch.setattr(watch, "AFTERMATH_SECONDS", 0.3)
    monkeypatch.setattr(watch.Greeter, "RETRY_SECONDS", 0.1)

    def run(accel: str = "auto", **plays: list[str]) -> Result:
        tools = make_tools(tmp_path / "tree", subject.uki, **plays)
        result = boot_test(subject, tools, out, Progress(live=False), accel=accel)
        assert not (out / ".work").exists()
        assert not tools.qemu_runs
        return result

    return run


def statuses(result: Result) -> dict[str, str]:
    return {check.name: check.status.value for check in result.checks}


def test_kvm_is_used_where_it_works(boot: Boot) -> None:
    result = boot(kvm=["good"])
    assert result.accelerator == "kvm"
    found = statuses(result)
    assert found["first-boot"] == found["second-boot"] == found["other-instance"] == "passed"
    assert found["power-off"] == found["kernel-command-line"] == "passed"
    assert result.qemu == "10.0.0"


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        ("refuse", "could not set up this machine"),
        ("abort", "Assertion failed"),
        ("internal-error", "internal error"),
        ("silent", "no sign of life from the firmware"),
    ],
)
def test_where_kvm_does_not_work_tcg_is_used_and_the_reason_is_kept(
    boot: Boot, play: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "FIRST_SIGN", 1.0)
    result = boot(kvm=[play], tcg=["good"])
    assert result.accelerator == "tcg"
    assert reason in result.accelerator_reason
    assert statuses(result)["second-boot"] == "passed"


def test_a_machine_on_which_no_qemu_starts_is_said_to_be_at_fault(boot: Boot) -> None:
    with pytest.raises(MachineError, match="could not set up this machine"):
        boot(kvm=["refuse"], tcg=["refuse"])


def test_a_panic_under_tcg_gets_one_more_try_and_both_consoles_are_kept(
    boot: Boot, out: Path
) -> None:
    result = boot("tcg", tcg=["panic", "good"])
    assert result.note.startswith("passed on the second boot: ")
    assert "Kernel panic - not syncing: fake" in result.note
    assert "Kernel panic" in (out / "panicked-console.log").read_text()
    assert "login:" in (out / "console.log").read_text()


def test_two_panics_are_a_failure(boot: Boot) -> None:
    result = boot("tcg", tcg=["panic"])
    assert result.note.startswith("failed on the second boot")
    assert "the guest's kernel panicked" in result.reason
    assert "Kernel panic" in result.console_tail


def test_a_guest_that_goes_down_by_itself_is_a_failure(boot: Boot) -> None:
    result = boot("tcg", tcg=["reset"])
    assert "the guest went down by itself" in result.reason
    assert "guest-reset" in result.reason


def test_a_silent_guest_is_given_up(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "SILENCE", 1.0)
    result = boot("tcg", tcg=["silent"])
    assert "no sign of life for 1 s" in result.reason


def test_a_test_that_takes_too_long_is_ended(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "TOTAL", {"tcg": 1.0})
    result = boot("tcg", tcg=["silent"])
    assert "the test ran out of time" in result.reason


def test_the_answers_that_people_read_are_kept(boot: Boot, out: Path) -> None:
    result = boot("tcg", tcg=["good"])
    assert result.guest == {"os": "fake", "kernel": "fake", "time": "fake", "blame": "fake"}
    assert (out / "journal.txt").read_text() == "fake\n"
    assert "<svg " in (out / "boot.svg").read_text()


def test_a_chart_that_a_guest_drew_with_a_script_is_kept_without_it(boot: Boot, out: Path) -> None:
    boot("tcg", tcg=["good"], plot=["<svg><text>a</text><script>alert(1)</script></svg>"])
    text = (out / "boot.svg").read_text()
    assert "<text>a</text>" in text
    assert "script" not in text


def test_a_chart_that_is_none_is_left_out_and_said_so(
    boot: Boot, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot("tcg", tcg=["good"], plot=["It is not yet\\x1b finished"])
    assert not (out / "boot.svg").exists()
    assert "boot.svg of the guest is left out: it cannot be read" in capsys.readouterr().err


def test_a_guest_that_says_too_much_over_ssh_fails_and_the_result_says_why(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "OUTPUT_BYTES", 100_000)
    result = boot("tcg", tcg=["good"], plot=["endless"])
    assert "the guest sent more than 100.0 kB over SSH, and the rest was cut off" in result.reason


def test_a_disk_that_cannot_boot_is_not_booted(boot: Boot, subject: Subject) -> None:
    write_native_disk(subject.disk, root=b"XFSB", at=0)
    result = boot("tcg", tcg=["good"])
    assert result.reason == "the root file system is xfs, not ext4"
    assert result.accelerator == "none"
    assert statuses(result)["first-boot"] == "skipped"


def test_a_disk_without_partitions_is_left_to_the_firmware(boot: Boot, subject: Subject) -> None:
    subject.disk.write_bytes(bytes(1 << 20))
    found = statuses(boot("tcg", tcg=["good"]))
    assert found["partitions"] == found["uki-on-esp"] == "skipped"
    assert found["first-boot"] == "passed"


def test_a_uki_that_cannot_be_read_is_to_be_built_again(subject: Subject, tmp_path: Path) -> None:
    tools = make_tools(tmp_path / "tree", subject.uki, tcg=["good"])
    subject.uki.write_bytes(b"rubbish")
    with pytest.raises(HarnessError, match="is not a PE file") as caught:
        boot_test(subject, tools, tmp_path / "out", Progress(live=False))
    assert caught.value.hint == "build the os-image again with -- --force"


def test_an_accelerator_that_does_not_exist_is_wrong_usage(boot: Boot) -> None:
    with pytest.raises(UsageError, match="unknown accelerator 'hvf'"):
        boot("hvf", tcg=["good"])


def test_a_tools_tree_without_qemu_is_the_machines_lack(subject: Subject, tmp_path: Path) -> None:
    tools = make_tools(tmp_path / "tree", subject.uki, tcg=["good"])
    (tools.bin / f"qemu-system-{subject.arch}").unlink()
    with pytest.raises(MachineError, match="the tools tree has no qemu-system"):
        boot_test(subject, tools, tmp_path / "out", Progress(live=False), accel="tcg")


def test_a_tools_tree_without_firmware_is_the_machines_lack(
    subject: Subject, tmp_path: Path
) -> None:
    tools = make_tools(tmp_path / "tree", subject.uki, tcg=["good"])
    for firmware in FIRMWARE[subject.arch]:
        (tools.tree / firmware.code.relative_to("/")).unlink(missing_ok=True)
    with pytest.raises(MachineError, match="has no UEFI firmware for"):
        boot_test(subject, tools, tmp_path / "out", Progress(live=False), accel="tcg")


def test_the_boot_test_never_looks_at_the_checkout(checkout: Path) -> None:
    """The subject brings along what the checkout's tables say of it."""
    sources = [path.read_text() for path in (checkout / "scripts/boot").rglob("*.py")]
    reached = re.compile(r"\bROOT\b|scripts\.options|import options|emulation\.emulators")
    assert not [text for text in sources if reached.search(text)]


def test_a_guest_that_refuses_ssh_at_first_is_asked_again(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "SSH_RETRY_SECONDS", 0.1)
    result = boot("tcg", tcg=["good"], ssh=["refused", "refused", "good"])
    assert statuses(result)["first-boot"] == "passed"
    assert result.guest["kernel"] == "fake"


def test_a_guest_that_refuses_ssh_since_it_has_no_cloud_init_is_given_up(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "SSH_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(watch, "CLOUD_INIT_GRACE_SECONDS", 1.0)
    result = boot("tcg", tcg=["good"], ssh=["refused"])
    assert result.reason == (
        "first boot: the guest does not run cloud-init, so no SSH key was installed"
    )


def test_a_guest_in_which_a_unit_fails_is_asked_over_ssh_for_its_last_lines(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "SSH_RETRY_SECONDS", 0.1)
    result = boot("tcg", tcg=["failing"], ssh=["refused", "refused", "good"])
    assert result.reason == "first boot: wrong.service failed (exit-code 3): it is so"


def test_a_failed_unit_that_nobody_explains_is_reported_as_the_console_shows_it(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "SSH_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(guests, "EXPLAIN_SECONDS", 1.0)
    result = boot("tcg", tcg=["failing"], ssh=["refused"])
    assert result.reason == ("first boot: a unit failed: [FAILED] Failed to start wrong.service.")


def test_a_line_that_only_explains_is_the_cause_of_a_silence(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "SILENCE", 1.0)
    assert boot("tcg", tcg=["full"]).reason == (
        "first boot: a file system of the guest is full: a: No space left on device; "
        "then no sign of life for 1 s after the step 'kernel' of the boot"
    )


def test_a_guest_that_falls_silent_after_sshd_is_asked_what_it_waits_for(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "SILENCE", 2.0)
    result = boot("tcg", tcg=["hanging"], ssh=["stuck"])
    assert result.reason == (
        "first boot: no sign of life for 2 s after the step 'sshd' of the boot: the guest still "
        "waits for wrong.service; wrong.service failed (exit-code 3): it is so"
    )


@pytest.mark.parametrize(("play", "status"), [("good", "passed"), ("open", "failed")])
def test_logins_without_a_key_are_tried_in_the_first_boot(
    boot: Boot, play: str, status: str
) -> None:
    assert statuses(boot("tcg", tcg=["good"], login=[play]))["ssh-needs-a-key"] == status


def test_an_esp_that_cannot_be_listed_is_not_judged(boot: Boot) -> None:
    assert statuses(boot("tcg", tcg=["good"], mdir=["odd"]))["no-seeds"] == "skipped"


def test_a_guest_that_breaks_off_the_questions_is_a_failure(boot: Boot) -> None:
    result = boot("tcg", tcg=["good"], ssh=["broken"])
    assert "could not be asked over SSH: sudo: a password is required" in result.reason


@pytest.mark.parametrize(
    ("plays", "status"), [(["silent", "good"], "passed"), (["silent"], "failed")]
)
def test_an_sshd_that_presents_no_host_key_is_asked_a_few_times(
    boot: Boot, plays: list[str], status: str
) -> None:
    assert statuses(boot("tcg", tcg=["good"], keyscan=plays))["sshd"] == status


def test_an_esp_without_the_uki_is_reported_with_mtools_complaint(boot: Boot) -> None:
    result = boot("tcg", tcg=["good"], mcopy=["missing"])
    [check] = [check for check in result.checks if check.name == "uki-on-esp"]
    assert "the UKI is missing on the ESP" in check.reason
    assert "mcopy: File not found" in check.evidence


@pytest.mark.parametrize(
    ("accel", "exists", "may_open", "expected"),
    [
        ("auto", True, True, (["kvm", "tcg"], "KVM works")),
        ("auto", True, False, (["tcg"], "this user may not open KVM")),
        ("auto", False, True, (["tcg"], "there is no KVM")),
        ("kvm", False, True, (["kvm"], "asked for")),
        ("tcg", True, True, (["tcg"], "asked for")),
    ],
)
def test_the_choice_of_an_accelerator_has_a_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accel: str,
    exists: bool,
    may_open: bool,
    expected: tuple[list[str], str],
) -> None:
    kvm = tmp_path / "kvm"
    monkeypatch.setattr(machine, "KVM", kvm)
    monkeypatch.setattr(os, "access", lambda *_: may_open)
    if exists:
        kvm.touch()
    accelerators, reason = machine.accelerators(native(), accel)
    assert (accelerators, reason.replace(str(kvm), "KVM")) == expected


def test_a_guest_of_another_architecture_is_emulated() -> None:
    foreign = next(arch for arch in ARCHES if not arch.is_native)
    assert machine.accelerators(foreign, "auto") == (
        ["tcg"],
        f"{foreign} is not this machine's architecture",
    )


def test_reports_are_written_for_a_failed_test_in_place_of_older_ones(
    boot: Boot, out: Path
) -> None:
    out.mkdir(parents=True)
    (out / "panicked-console.log").write_text("of an older test")
    result = boot("tcg", tcg=["reset"])
    assert json.loads((out / "result.json").read_text())["reason"] == result.reason
    assert "guest-reset" in (out / "junit.xml").read_text()
    assert not (out / "panicked-console.log").exists()


def test_an_image_that_is_not_there_is_wrong_usage(subject: Subject, tmp_path: Path) -> None:
    subject.disk.unlink()
    tools = FakeTools(tmp_path, tmp_path)
    with pytest.raises(UsageError, match="there is no"):
        boot_test(subject, tools, tmp_path / "out", Progress(live=False))


def test_a_second_test_of_the_same_image_is_refused(
    subject: Subject, tmp_path: Path, out: Path
) -> None:
    out.mkdir(parents=True)
    lock = os.open(out, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(HarnessError, match="another boot test"):
        boot_test(subject, FakeTools(tmp_path, tmp_path), out, Progress(live=False))
    os.close(lock)


def test_what_a_killed_test_left_is_removed(boot: Boot, out: Path) -> None:
    (out / ".work/first").mkdir(parents=True)
    assert boot("tcg", tcg=["reset"]).failures


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 30) -> None:
    """Wait until process has made a file. Fails if it ends first, or does not do it in time."""
    end = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None:
            pytest.fail(f"it ended with {process.returncode}: {process.communicate()[1]}")
        if time.monotonic() > end:
            pytest.fail(f"no {path.name} after {seconds} s")
        time.sleep(0.05)


def test_waiting_for_a_program_that_has_died_comes_to_an_end(tmp_path: Path) -> None:
    fails = [sys.executable, "-c", "raise SystemExit('no tools')"]
    with (
        subprocess.Popen(fails, stderr=subprocess.PIPE, text=True) as process,
        pytest.raises(pytest.fail.Exception, match="it ended with 1: no tools"),
    ):
        wait_for(tmp_path / "never", process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_qemu_and_no_files(
    subject: Subject, tmp_path: Path, out: Path, number: signal.Signals, checkout: Path
) -> None:
    tools = make_tools(tmp_path / "tree", subject.uki, tcg=["silent"])
    program = f"""
from pathlib import Path
from scripts import arch
from scripts.system import errors
from scripts.boot import Subject, boot_test
from scripts.system.progress import Progress
from tests.unit.boot.fakes import FakeTools
disk, uki = Path({str(subject.disk)!r}), Path({str(subject.uki)!r})
subject = Subject("debian", arch.native(), disk, uki, emulated=[])
tools = FakeTools(Path({str(tools.tree)!r}), Path("/nowhere"))
out = Path({str(out)!r})
errors.main(lambda _: boot_test(subject, tools, out, Progress(live=False), accel="tcg"))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=checkout, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for(tools.bin / "qemu.pid", process)
            time.sleep(0.5)
            process.send_signal(number)
            _, complaints = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 128 + number, complaints
    assert "Traceback" not in complaints
    assert not tools.qemu_runs
    assert not (out / ".work").exists()
