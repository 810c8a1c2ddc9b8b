"""The watch over a boot: what ends it, and the reason that it gives."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from scripts.boot import watch
from scripts.boot.cidata import REPORT_MARK
from scripts.boot.machine import Machine
from scripts.boot.watch import (
    AcceleratorFailure,
    BootFailure,
    Cancelled,
    Greeter,
    Limits,
    Watch,
)

FOREVER = 1e9
BOOTED = "Linux version 6.12\r\nlocalhost login:"


class FakeMachine:
    """A machine that reports events, and that ends when it is told to."""

    def __init__(self, *events: Any, ended: bool = False, complaint: str = "") -> None:
        self.ended = ended
        self.process = SimpleNamespace(returncode=-6)
        self._events: Sequence[Any] = events
        self._complaint = complaint

    def events(self, wait: float) -> Sequence[Any]:
        time.sleep(wait)
        events, self._events = self._events, ()
        return events

    def complaints(self) -> str:
        return self._complaint


Watching = Callable[..., Watch]


@pytest.fixture
def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watching:
    """Watches a machine whose console shows a text."""
    monkeypatch.setattr(watch, "TICK", 0.01)
    monkeypatch.setattr(watch, "AFTERMATH_SECONDS", 0.05)

    def start(
        console: str = "",
        machine: FakeMachine | None = None,
        *,
        limits: tuple[float, float, float] = (FOREVER, FOREVER, FOREVER),
        accelerator: str = "tcg",
        cancelled: threading.Event | None = None,
        cloud_init_off: str = "",
    ) -> Watch:
        (tmp_path / "console.log").write_text(console)
        silence, first_sign, total = limits
        return Watch(
            cast("Machine", machine or FakeMachine()),
            tmp_path / "console.log",
            Limits(silence, first_sign, time.monotonic() + total),
            lambda _step: None,
            accelerator=accelerator,
            cancelled=cancelled or threading.Event(),
            cloud_init_off=cloud_init_off,
        )

    return start


def reason(over: Watch, port: int = 1) -> str:
    """The reason for which it gives the guest up before sshd has answered."""
    with pytest.raises(BootFailure) as caught:
        over.until_sshd(port)
    return caught.value.reason


def test_a_qemu_that_ends_without_a_word_is_reported_with_its_status(watching: Watching) -> None:
    assert reason(watching(machine=FakeMachine(ended=True))) == "QEMU ended with status -6"


def test_what_qemu_complains_of_is_part_of_the_reason(watching: Watching) -> None:
    machine = FakeMachine(ended=True, complaint="Assertion failed")
    assert reason(watching(machine=machine)) == "QEMU ended with status -6: Assertion failed"


def test_under_kvm_a_qemu_that_ends_is_the_accelerators_fault(watching: Watching) -> None:
    over = watching(machine=FakeMachine(ended=True), accelerator="kvm")
    with pytest.raises(AcceleratorFailure, match="status -6"):
        over.tick()


def test_under_kvm_firmware_that_stays_silent_is_the_accelerators_fault(watching: Watching) -> None:
    over = watching(limits=(FOREVER, 0.0, FOREVER), accelerator="kvm")
    with pytest.raises(AcceleratorFailure, match="no sign of life from the firmware"):
        over.tick()


def test_firmware_that_has_said_something_works(watching: Watching) -> None:
    watching("BdsDxe", limits=(FOREVER, 0.0, FOREVER), accelerator="kvm").tick()


def test_a_boot_that_is_no_longer_needed_is_ended(watching: Watching) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        watching(cancelled=cancelled).tick()


def test_a_guest_that_switches_itself_off_is_told_apart(watching: Watching) -> None:
    event = {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-reset"}}
    over = watching("Linux version 6.12\r\n", FakeMachine(event, ended=True))
    assert reason(over) == (
        "the guest went down by itself after the step 'kernel' of the boot (guest-reset)"
    )


def test_a_guest_that_reports_no_sshd_is_given_up_soon(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "NO_SSH_GRACE_SECONDS", 0.0)
    over = watching(f"{BOOTED}\r\n{REPORT_MARK} ssh sshd.service disabled inactive\r\n"
                    f"{REPORT_MARK} end\r\n")  # fmt: skip
    assert reason(over) == ("sshd does not run in the guest: sshd.service is disabled and inactive")


def test_a_guest_whose_sshd_runs_is_given_more_time(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "NO_SSH_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(watch, "SSH_GRACE_SECONDS", 0.3)
    started = time.monotonic()
    over = watching(f"{BOOTED}\r\n{REPORT_MARK} ssh sshd.service enabled active\r\n"
                    f"{REPORT_MARK} end\r\n")  # fmt: skip
    assert "sshd runs in the guest but cannot be reached" in reason(over)
    assert time.monotonic() - started > 0.3


def test_a_guest_without_cloud_init_is_given_up(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "CLOUD_INIT_GRACE_SECONDS", 0.1)
    assert "does not run cloud-init" in reason(watching(BOOTED))


def test_a_guest_whose_image_switches_cloud_init_off_is_given_up_sooner_with_the_reason(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "CLOUD_INIT_OFF_GRACE_SECONDS", 0.1)
    assert reason(watching(BOOTED, cloud_init_off="/etc/x")) == (
        "cloud-init is switched off by /etc/x, so no SSH key was installed"
    )


def test_the_reason_names_the_unit_that_a_silent_guest_has_not_started(watching: Watching) -> None:
    console = "Linux version 6.12\r\n         Starting slow.service - Slow...\r\n"
    assert reason(watching(console, limits=(0.1, FOREVER, FOREVER))) == (
        "no sign of life for 0 s after the step 'kernel' of the boot: "
        "the guest still waits for slow.service - Slow"
    )


def test_a_guest_that_falls_silent_after_sshd_answered_is_not_said_to_lack_it(
    watching: Watching,
) -> None:
    over = watching(BOOTED, limits=(0.1, FOREVER, FOREVER))
    over.tick()
    over.milestone("sshd")
    with pytest.raises(BootFailure, match=r"^no sign of life for 0 s after the step 'sshd' of"):
        over.until(lambda: False)


def test_a_cause_that_the_console_shows_after_the_first_symptom_is_reported(
    watching: Watching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "AFTERMATH_SECONDS", 1.0)
    over = watching("[FAILED] Failed to start a.service.\r\n")

    def go_on() -> None:
        with (tmp_path / "console.log").open("a") as console:
            console.write("a: No space left on device\r\n")

    later = threading.Timer(0.3, go_on)
    later.start()
    with pytest.raises(BootFailure, match=r"^a file system of the guest is full: a: No space"):
        over.until(lambda: False)
    later.join()


@pytest.mark.parametrize(
    "line",
    [
        "[  127.1] systemd-journald[283]: Failed to open system journal: No space left on device",
        "mount: /mnt/data: can't find LABEL=data.",
        "sshd: no hostkeys available -- exiting.",
        "Failed to start a.service: Unit b.service is masked.",
    ],
)
def test_a_line_that_only_explains_a_failure_does_not_end_the_test(
    watching: Watching, line: str
) -> None:
    over = watching(f"{line}\r\n")
    over.tick()
    assert over.scanner.cause
    assert line in over.scanner.reason


def test_lingering_ends_with_the_machine(watching: Watching) -> None:
    began = time.monotonic()
    watching(machine=FakeMachine(ended=True)).linger(lambda: False, 60)
    assert time.monotonic() - began < 30


def test_the_reason_names_the_step_after_which_a_guest_fell_silent(watching: Watching) -> None:
    over = watching("Linux version 6.12\r\n", limits=(0.1, FOREVER, FOREVER))
    assert reason(over) == "no sign of life for 0 s after the step 'kernel' of the boot"


def test_after_the_login_prompt_the_reason_says_why_sshd_does_not_answer(
    watching: Watching,
) -> None:
    cloud_init = "Linux version 6.12\r\ncloud-init[1]: Cloud-init v. 25\r\nlocalhost login:"
    assert reason(watching(cloud_init, limits=(FOREVER, FOREVER, 0.1))) == (
        "the test ran out of time after the login prompt, and sshd never answered; "
        "cloud-init did not finish"
    )


@pytest.mark.parametrize(
    ("line", "flaky"),
    [
        ("Kernel panic - not syncing: Fatal exception", True),
        ("Kernel panic - not syncing: VFS: Unable to mount root fs", False),
        ("Out of memory: Killed process 412", False),
    ],
)
def test_only_a_panic_that_emulation_may_have_caused_is_worth_another_boot(
    watching: Watching, line: str, flaky: bool
) -> None:
    with pytest.raises(BootFailure) as caught:
        watching(f"{line}\r\n").tick()
    assert caught.value.flaky is flaky
    assert line in caught.value.console


def test_a_guest_that_ignores_the_power_button_is_still_up(watching: Watching) -> None:
    assert watching().until_power_off(0.05) == "still up after 0 s"


def test_the_reason_that_qemu_gives_for_its_end_is_returned(watching: Watching) -> None:
    event = {"event": "SHUTDOWN", "data": {"reason": "guest-shutdown"}}
    over = watching(machine=FakeMachine(event, ended=True))
    assert over.until_power_off(5) == "guest-shutdown"


def greeted_by(answer: bytes | None, *, patience: float = 5.0) -> bool:
    """Whether a greeter is content with a server that sends answer, or resets for None."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        greeter = Greeter(server.getsockname()[1])
        with contextlib.closing(greeter):
            greeter.greeted()
            connection, _ = server.accept()
            with connection:
                if answer is None:
                    # SO_LINGER with a time of 0 s makes close() reset the connection.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, *[0] * 7]))
                else:
                    connection.sendall(answer)
            end = time.monotonic() + patience
            while time.monotonic() < end and greeter._connection:
                if greeter.greeted():
                    return True
                time.sleep(0.01)
            return False


def test_a_server_that_greets_as_ssh_does_is_recognised() -> None:
    assert greeted_by(b"SSH-2.0-OpenSSH_10.0\r\n")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b"", None])
def test_a_server_that_says_anything_else_is_not_sshd(answer: bytes | None) -> None:
    assert not greeted_by(answer)


def test_a_connection_on_which_nothing_comes_is_opened_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Greeter, "PATIENCE_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        greeter = Greeter(server.getsockname()[1])
        assert not greeter.greeted()
        assert greeter._connection is not None
        assert not greeter.greeted()
        assert greeter._connection is None


def test_a_port_on_which_nobody_listens_has_no_greeting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    greeter = Greeter(port)
    assert not greeter.greeted()
    assert not greeter._connection


def test_a_guest_that_floods_its_console_is_given_up_and_the_reason_says_so(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "CONSOLE_BYTES", 10_000)
    over = watching("x" * 9_999 + "\n" * 100_000)
    with pytest.raises(BootFailure, match=r"printed more than 10\.0 kB on its console") as caught:
        over.tick()
    assert len(caught.value.console) < 11_000
