"""The scanner on the lines that real boots print."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from scripts.boot.cidata import REPORT, REPORT_MARK
from scripts.boot.console import (
    LINE_CHARS,
    TAIL_LINES,
    UNITS,
    Scanner,
    knowledge,
    plain,
    why_no_ssh,
)


def scan(text: str) -> Scanner:
    scanner = Scanner()
    scanner.feed(text.encode(), at=1.0)
    return scanner


def test_only_a_degraded_guest_may_have_failed_units() -> None:
    failed = b"[FAILED] Failed to start cloud-init-local.service - Cloud-init: Local Stage.\n"
    strict, degraded = Scanner(), Scanner(degraded=True)
    for scanner in (strict, degraded):
        scanner.feed(failed, at=1.0)
    assert (strict.has_failed, degraded.has_failed) == (True, False)
    degraded.feed(b"[    2.1] Kernel panic - not syncing: Fatal exception in interrupt\n", at=2.0)
    assert degraded.has_failed


# Excerpts of the consoles of Debian images that were broken and booted.
CONSOLES = Path(__file__).with_name("consoles")


def excerpt(name: str) -> list[str]:
    """The lines of a real console."""
    return (CONSOLES / f"{name}.txt").read_text().splitlines()


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
    [finding] = scan(line + "\r\n").findings.values()
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
    assert scan(line + "\r\n").findings == {}


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


@pytest.mark.parametrize(
    "line", ["EFI stub: Loaded initrd", "Linux version 6.12.90", "[    7.006995] mip6: Mobile IPv6"]
)
def test_any_line_of_the_kernel_shows_that_it_runs(line: str) -> None:
    """A virtio console that nobody reads in time loses the first lines."""
    assert "kernel" in scan(f"BdsDxe: starting Boot0001\r\n{line}\r\n").milestones


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
    assert list(scanner.findings) == ["panic"]


def test_the_tail_holds_the_last_lines_and_the_unfinished_one() -> None:
    scanner = scan("".join(f"line {n}\n" for n in range(100)) + "finch login: ")
    assert scanner.tail.splitlines()[-2:] == ["line 99", "finch login:"]
    assert len(scanner.tail.splitlines()) < 30


def test_terminal_escapes_are_taken_out() -> None:
    assert plain("\x1b[!p\x1b]104\x07\x1b[?7h\x1b[6n[\x1b[0;32m  OK  \x1b[0m] x\r") == "[  OK  ] x"


def test_a_guest_that_reports_a_disabled_sshd_is_understood() -> None:
    scanner = scan(
        f"{REPORT_MARK} ssh ssh.service disabled inactive\r\n"
        "[  60.0] some message of the kernel\r\n"
        f"{REPORT_MARK} ssh ssh.socket disabled inactive\r\n"
        f"{REPORT_MARK} end\r\n"
    )
    assert scanner.reported_at == 1.0
    assert not scanner.sshd_runs
    assert why_no_ssh(scanner) == (
        "sshd does not run in the guest: "
        "ssh.service is disabled and inactive, ssh.socket is disabled and inactive"
    )


def test_a_guest_whose_sshd_runs_but_does_not_answer_is_told_apart() -> None:
    scanner = scan(f"{REPORT_MARK} ssh sshd.service enabled active\r\n{REPORT_MARK} end\r\n")
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


def test_a_guest_that_names_a_thousand_units_is_not_kept_whole() -> None:
    verbs = ("ssh", "masked", "starting", "failed")
    scanner = scan("".join(
        f"{REPORT_MARK} {verb} unit{n} x y\r\n         Starting unit{n}.service...\r\n"
        for n in range(1000) for verb in verbs
    ))  # fmt: skip
    kept = (scanner.units, scanner.masked, scanner.jobs, scanner.failed)
    assert [len(units) for units in kept] == [UNITS] * 4


def test_what_a_console_shows_of_a_hostile_unit_acts_on_no_terminal() -> None:
    line = "[\x1b[0;1;31mFAILED\x1b[0m] Failed to start a\x9b2J\u202e\ufffe\x1b]0;owned\x07.service"
    [finding] = scan(line + "\r\n").findings.values()
    assert finding.reason.isprintable()
    assert r"a\x9b2J\u202e\ufffe.service" in finding.reason


@pytest.mark.parametrize("step", [1, -1], ids=["as printed", "last line first"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("full-disk",
         r"a file system of the guest is full: .*: No space left on device; "
         r"then \[FAILED\] Failed to start systemd-random-see.*"),
        ("missing-device",
         r"a device that the guest waits for never came: .*/dev/disk/by-label/data\.; "
         r"then \[DEPEND\] Dependency failed for .*"),
    ],
)  # fmt: skip
def test_a_known_cause_wins_over_the_units_that_fail_for_it_whatever_came_first(
    name: str, reason: str, step: int
) -> None:
    scanner = scan("\r\n".join(excerpt(name)[::step]) + "\r\n")
    assert re.fullmatch(reason, scanner.reason)
    assert scanner.is_explained


def test_every_symptom_stands_behind_all_causes() -> None:
    symptoms = [failure.symptom for failure in knowledge().failures]
    assert symptoms == sorted(symptoms)
    assert 0 < sum(symptoms) < len(symptoms)


def test_a_cloud_init_that_the_image_switches_off_is_the_cause_of_a_failed_sshd() -> None:
    scanner = Scanner(cloud_init_off="/etc/cloud/cloud-init.disabled")
    scanner.feed("\r\n".join([*excerpt("cloud-init-off"), ""]).encode(), at=1.0)
    assert scanner.is_hopeless
    assert scanner.reason == (
        "cloud-init is switched off by /etc/cloud/cloud-init.disabled, so no SSH key was installed;"
        " then [FAILED] Failed to start ssh.service - OpenBSD Secure Shell server."
    )


def test_a_unit_that_hangs_is_named_though_systemd_does_not_say_that_it_waits() -> None:
    lines = excerpt("hang")
    assert not [line for line in lines if knowledge().waiting.search(plain(line))]
    scanner = scan("\r\n".join([*lines, ""]))
    assert scanner.waiting == "the guest still waits for wait-forever.service - Waits forever"


def test_jobs_of_the_initrd_are_forgotten_in_the_new_root() -> None:
    begun = "         Starting initrd-switch-root.service - Switch Root...\r\n"
    assert scan(begun).waiting
    assert not scan(f"{begun}Welcome to Debian GNU/Linux 13 (trixie)!\r\n").waiting


@pytest.mark.parametrize(
    ("begun", "ended"),
    [
        ("kmod-static-nodes.service…eate List of Static Device Nodes...",
         "[  OK  ] Finished kmod-static-nodes.service…Create List of Static Device Nodes."),
        ("boot-efi.mount - /boot/efi...", "[FAILED] Failed to mount boot-efi.mount - /boot/efi."),
        ("a.service - A...", "[ TIME ] Timed out starting a.service - A."),
        ("a.service - A...", "[DEPEND] Dependency failed for a.service - A."),
        ("Network Time...", "[  OK  ] Finished Network Time."),
    ],
)  # fmt: skip
def test_a_job_that_has_ended_is_not_waited_for(begun: str, ended: str) -> None:
    scanner = scan(f"         Starting {begun}\r\n         Starting b.service - B...\r\n")
    scanner.feed(f"{ended}\r\n".encode(), at=2.0)
    assert scanner.jobs == ["b.service - B"]


def test_a_long_list_of_jobs_is_cut_short() -> None:
    scanner = scan("".join(f"         Starting {name}.service...\r\n" for name in "abcde"))
    assert scanner.waiting == (
        "the guest still waits for a.service, b.service, c.service and 2 more"
    )


FAILED_SSHD = (
    "[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mssh.service\x1b[0m - sshd.\r\n"
)


def report(*lines: str) -> str:
    return "".join(f"{REPORT_MARK} {line}\r\n" for line in [*lines, "end"])


def test_a_failed_unit_is_reported_with_its_result_and_its_last_lines() -> None:
    scanner = scan(FAILED_SSHD)
    assert not scanner.is_explained
    scanner.hear(
        report(
            "failed ssh.service exit-code 255",
            "said ssh.service one",
            "said ssh.service /etc/ssh/sshd_config: line 1: Bad configuration option: X",
            "said ssh.service /etc/ssh/sshd_config: terminating",
        ),
        at=2.0,
    )
    assert scanner.is_explained
    assert scanner.reason == (
        "ssh.service failed (exit-code 255): /etc/ssh/sshd_config: line 1: Bad configuration"
        " option: X / /etc/ssh/sshd_config: terminating"
    )


def test_a_cause_among_the_last_lines_of_a_unit_comes_before_the_unit() -> None:
    scanner = scan(
        FAILED_SSHD + report(
            "failed other.service exit-code 1",
            "said other.service why not",
            "failed ssh.service exit-code 1",
            "said ssh.service sshd: no hostkeys available -- exiting.",
        )
    )  # fmt: skip
    assert scanner.reason == (
        "sshd has no host key: "
        "ssh.service failed (exit-code 1): sshd: no hostkeys available -- exiting."
    )


def test_a_device_that_the_guest_reports_as_awaited_is_the_cause() -> None:
    lines = ["starting dev-vdb.device", "failed init.service exit-code 1", "said init.service x"]
    scanner = scan(FAILED_SSHD + report(*lines))
    assert scanner.reason == (
        "a device that the guest waits for never came: dev-vdb.device; "
        "then init.service failed (exit-code 1): x"
    )


def test_a_masked_unit_that_sshd_needs_is_named() -> None:
    scanner = scan(
        report("ssh ssh.service enabled inactive", "masked ssh.service tailor.service")
    )  # fmt: skip
    assert why_no_ssh(scanner) == (
        "sshd cannot run in the guest: ssh.service needs tailor.service, which is masked"
    )


# systemctl and journalctl of a guest as the shell sees them, for a machine without systemd.
GUEST = """
systemctl() {
  case "$*" in
    *LoadState*ssh.service) echo loaded ;;
    *LoadState*tailor.service) echo masked ;;
    *LoadState*) echo not-found ;;
    is-enabled*) echo enabled ;;
    is-active*) echo inactive ;;
    *Requires*) echo sysinit.target tailor.service ;;
    list-jobs*) echo "7 slow.service start running"; echo "8 late.service start waiting" ;;
    --failed*) echo "wrong.service loaded failed failed Goes wrong"
               echo "mnt.mount loaded failed failed /mnt" ;;
    *ExecMainStatus*wrong.service) echo 3 ;;
    *Result*wrong.service) echo exit-code ;;
    *Result*mnt.mount) echo timeout ;;
  esac
}
journalctl() {
  case "$*" in
    *_SYSTEMD_UNIT=wrong.service) printf 'one\\ntwo\\nthe answer is  42 \\\\o/\\n' ;;
    *"-u mnt.mount") echo "Mounting timed out." ;;
  esac
}
"""


def test_the_report_of_a_guest_is_read_as_it_was_written() -> None:
    said = subprocess.run(
        ["sh", "-s"], input=GUEST + REPORT, text=True, stdout=subprocess.PIPE, check=True
    ).stdout
    scanner = scan(said)
    assert scanner.units == {"ssh.service": "enabled inactive"}
    assert scanner.masked == {"ssh.service": "tailor.service"}
    assert scanner.jobs == ["slow.service"]
    assert [str(unit) for unit in scanner.failed.values()] == [
        r"wrong.service failed (exit-code 3): two / the answer is  42 \o/",
        "mnt.mount failed (timeout): Mounting timed out.",
    ]
