"""The scanner on the lines that real boots print."""

from __future__ import annotations

import time

import pytest

from scripts.boot.cidata import REPORT_MARK
from scripts.boot.console import LINE_CHARS, TAIL_LINES, Scanner, plain, why_no_ssh


def scan(text: str) -> Scanner:
    scanner = Scanner()
    scanner.feed(text.encode(), at=1.0)
    return scanner


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("BdsDxe: No bootable option or device was found.", "no bootable disk"),
        ("[    2.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
         "init ended"),
        ("[    2.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
         "panic"),
        ("[    2.1] Kernel panic - not syncing: Fatal exception in interrupt", "panic"),
        ("[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
         "no root"),
        ("[   30.1] Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI", "oops"),
        ("[   30.1] BUG: unable to handle page fault for address: ffff8881", "oops"),
        ('You are in emergency mode. After logging in, type "journalctl -xb"', "emergency shell"),
        ("[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39memergency.target\x1b[0m"
         " - Emergency Mode.", "emergency shell"),
        ("[   12.0] EXT4-fs error (device vda2): ext4_lookup:1855: inode #2: comm init: deleted",
         "file system"),
        ("[   12.0] EXT4-fs (vda2): VFS: Can't find ext4 filesystem", "file system"),
        ("[   90.0] Out of memory: Killed process 412 (python3) total-vm:1kB", "out of memory"),
        ("[   90.0] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),task=python3,pid=412",
         "out of memory"),
        ("[   20.0] systemd[1]: sockets.target: Found ordering cycle on a.socket/start",
         "ordering cycle"),
        ("[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mchrony.service\x1b[0m"
         " - chrony, an NTP client.", "failed unit"),
        ("[ \x1b[0;1;31mTIME\x1b[0m ] Timed out waiting for device \x1b[0;1;39mdev-vda9.device",
         "device missing"),
        ("[    9.0] systemd[1]: Freezing execution.", "systemd stopped"),
    ],
)  # fmt: skip
def test_a_line_that_ends_the_test_is_recognised(line: str, kind: str) -> None:
    [finding] = scan(line + "\r\n").findings
    assert finding.failure.kind == kind
    assert plain(line).strip() in finding.reason


@pytest.mark.parametrize(
    "line",
    [
        "[    1.0] EXT4-fs (vda2): mounted filesystem 473b24c8 r/w with ordered data mode.",
        "[    1.0] EXT4-fs (vda1): re-mounted. Opts: errors=remount-ro",
        "[    1.0] printk: legacy console [ttyS0] enabled",
        "[   90.0] dd invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=-998",
        "[   90.0] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task=dd,pid=1944,uid=0",
        "[   90.0] Memory cgroup out of memory: Killed process 1944 (dd) total-vm:104704kB",
        "[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mssh.service\x1b[0m - OpenBSD Secure Shell.",
        "[    1.0] ata1: SATA link down (SStatus 0 SControl 300)",
        "[    1.0] random: crng init done",
        "[   50.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]",
        'BdsDxe: failed to load Boot0001 "UEFI QEMU DVD-ROM" from PciRoot(0x0): Not Found',
    ],
)
def test_a_line_of_a_good_boot_is_left_alone(line: str) -> None:
    assert scan(line + "\r\n").findings == []


def test_milestones_are_passed_in_the_order_of_a_boot() -> None:
    scanner = scan(
        'BdsDxe: starting Boot0001 "UEFI Misc Device"\r\n'
        "EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path\r\n"
        "[    9.1] systemd[1]: Running in initrd.\r\n"
        "[   20.1] systemd[1]: Switching root.\r\n"
        "[   36.7] cloud-init[364]: Cloud-init v. 25.1.4 running 'init-local'\r\n"
        "\r\nlocalhost login: "
    )
    assert list(scanner.milestones) == [
        "firmware", "kernel", "initrd", "root", "cloud-init", "login",
    ]  # fmt: skip
    assert scanner.step == "login"


# As systemd 257 prints it, again and again in the same place.
WAITING = (
    "\r\x1b[K[\x1b[0;31m*\x1b[0m\x1b[0;1;31m*\x1b[0m\x1b[0;31m*\x1b[0m    ] "
    "Job \x1b[0;1;39mdev-vda2.device/start\x1b[0m running (1min 2s / no limit)\r"
)


def test_a_guest_that_only_says_what_it_waits_for_shows_no_sign_of_life() -> None:
    scanner = Scanner()
    assert scanner.feed(b"[  OK  ] Reached target sysinit.target.\r\n", at=1.0)
    assert not scanner.feed(WAITING.encode() * 3, at=2.0)
    assert scanner.waiting_for == "Job dev-vda2.device/start running (1min 2s / no limit)"
    assert "Job" not in scanner.tail.splitlines()[0]
    assert scanner.feed(WAITING.encode() + b"\n[  OK  ] Found device vda2.\r\n", at=3.0)
    assert not scanner.waiting_for


STALLED = (
    "[   48.123456] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [(udev-worker):187]\r\n"
    "[   48.123789] Modules linked in: ext4 crc16 mbcache jbd2\r\n"
    "[   48.124000]  smp_call_function_many_cond+0x10c/0x3e0\r\n"
)


def test_a_guest_whose_kernel_only_says_that_it_is_stalled_shows_no_sign_of_life() -> None:
    scanner = Scanner()
    for at in range(1, 10):
        assert not scanner.feed(STALLED.encode(), at=at)
    assert scanner.waiting_for.startswith("watchdog: BUG: soft lockup - CPU#1 stuck for 22s!")


def test_a_guest_that_goes_on_after_it_was_stalled_is_alive() -> None:
    scanner = Scanner()
    scanner.feed(STALLED.encode(), at=1.0)
    assert scanner.feed(b"[  OK  ] Reached target sysinit.target.\r\n", at=2.0)
    assert scanner.feed(b"[   70.000001] EXT4-fs (vda2): mounted filesystem\r\n", at=3.0)
    assert not scanner.waiting_for


def test_a_line_that_comes_in_pieces_is_read_whole() -> None:
    scanner = Scanner()
    for byte in "…\r\n[ 1.0] Kernel panic - not syncing: oops\r\n".encode():
        scanner.feed(bytes([byte]), at=1.0)
    assert [finding.failure.kind for finding in scanner.findings] == ["panic"]


def test_the_tail_holds_the_last_lines_and_the_unfinished_one() -> None:
    scanner = scan("".join(f"line {n}\n" for n in range(100)) + "finch login: ")
    assert scanner.tail.splitlines()[-2:] == ["line 99", "finch login:"]
    assert len(scanner.tail.splitlines()) < 30


def test_terminal_escapes_are_taken_out() -> None:
    assert plain("\x1b[!p\x1b]104\x07\x1b[?7h\x1b[6n[\x1b[0;32m  OK  \x1b[0m] x\r") == "[  OK  ] x"


def test_a_guest_that_reports_a_disabled_sshd_is_understood() -> None:
    scanner = scan(
        f"{REPORT_MARK} ssh.service disabled inactive\r\n"
        "[  60.0] some message of the kernel\r\n"
        f"{REPORT_MARK} ssh.socket disabled inactive\r\n"
        f"{REPORT_MARK} end\r\n"
    )
    assert scanner.reported_at == 1.0
    assert not scanner.sshd_runs
    assert why_no_ssh(scanner) == (
        "sshd does not run in the guest: "
        "ssh.service is disabled and inactive, ssh.socket is disabled and inactive"
    )


def test_a_guest_whose_sshd_runs_but_does_not_answer_is_told_apart() -> None:
    scanner = scan(f"{REPORT_MARK} sshd.service enabled active\r\n{REPORT_MARK} end\r\n")
    assert why_no_ssh(scanner).startswith("sshd runs in the guest but cannot be reached")


def test_a_guest_without_any_sshd_is_told_apart() -> None:
    assert "has no sshd" in why_no_ssh(scan(f"{REPORT_MARK} end\r\n"))


def test_a_guest_without_cloud_init_is_told_apart() -> None:
    assert "does not run cloud-init" in why_no_ssh(scan("localhost login: "))


def test_a_cloud_init_that_started_and_never_reported_did_not_finish() -> None:
    scanner = scan("cloud-init[364]: Cloud-init v. 25.1.4 running\r\nlocalhost login: ")
    assert why_no_ssh(scanner) == "cloud-init did not finish"


def test_a_gigabyte_without_an_end_of_line_takes_little_memory_and_time() -> None:
    scanner, chunk = Scanner(), b"EXT4-fs (" * 7_000
    began = time.process_time()
    for _ in range(1 << 30 >> 26):  # 16 pieces of 64 kB: each is scanned as it comes
        scanner.feed(chunk, at=1.0)
    assert time.process_time() - began < 60
    assert len(scanner.tail) <= (TAIL_LINES + 1) * (LINE_CHARS + 1)


def test_a_console_of_failures_only_keeps_a_hundred() -> None:
    scanner = scan("Kernel panic - not syncing: x\r\n" * 1000)
    assert len(scanner.findings) == 100


def test_a_report_of_a_thousand_units_keeps_as_many_as_were_asked_for() -> None:
    scanner = scan("".join(f"{REPORT_MARK} unit{n} enabled active\r\n" for n in range(1000)))
    assert len(scanner.units) == 4


def test_what_a_console_shows_of_a_hostile_unit_acts_on_no_terminal() -> None:
    line = "[\x1b[0;1;31mFAILED\x1b[0m] Failed to start a\x9b2J\u202e\ufffe\x1b]0;owned\x07.service"
    [finding] = scan(line + "\r\n").findings
    assert finding.reason.isprintable()
    assert r"a\x9b2J\u202e\ufffe.service" in finding.reason
