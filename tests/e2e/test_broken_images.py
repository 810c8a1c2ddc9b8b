"""An image that cannot boot fails the boot test in time, with a reason that names the cause."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest

from scripts.boot import Result, Subject, boot_test
from scripts.mkosi.sandbox import Tools
from scripts.system.progress import Progress
from tests.e2e.surgery import Patient, copy

# Seconds. The inspection finds a disk that cannot boot without booting it. If the guest
# stops early or lacks sshd, the test must end before the time limits of a boot.
INSPECTION_LIMIT = 30
BOOT_LIMIT = 600
TEST_LIMIT = 900  # for all boots, of an image in which everything starts

# The boots at a time. One boot under TCG keeps 1.3 of two cores busy, and some wait for a timeout.
AT_A_TIME = 2

# What identifies the machine that built the image.
MARK = "/builds/of/finch"

Test = TypeVar("Test", bound=Callable[..., None])
Break = Callable[[Patient], None]


@dataclass(frozen=True)
class Operation:
    """A copy of the built image, and what is needed to boot it after it was broken."""

    patient: Patient
    subject: Subject
    tools: Tools
    out: Path

    def boot(self, limit: float, *, silence: float | None = None) -> Result:
        """Boot the broken image, and check that the boot test fails within limit seconds."""
        started = time.monotonic()
        result = boot_test(
            self.subject, self.tools, self.out, Progress(live=False), silence=silence
        )
        assert time.monotonic() - started < limit
        assert not result.passed
        assert (self.out / "junit.xml").exists()
        assert (self.out / "result.json").exists()
        return result


@dataclass(frozen=True)
class Case:
    """How a test breaks the image, and boots it."""

    breaks: Break
    limit: float
    silence: float | None


CASES: dict[str, Case] = {}


def boots(
    breaks: Break, *, limit: float = BOOT_LIMIT, silence: float | None = None
) -> Callable[[Test], Test]:
    """Give the decorated test as `result` the boot of an image that breaks has broken."""

    def register(test: Test) -> Test:
        CASES[test.__name__] = Case(breaks, limit, silence)
        return test

    return register


def operate(built: Subject, tools: Tools, folder: Path) -> Operation:
    """Copy the built image to folder."""
    patient = copy(built.disk, folder / "os-image.raw", built.arch, tools)
    subject = replace(built, disk=patient.image, marks=(MARK,))
    return Operation(patient, subject, tools, folder / "boot-test")


@pytest.fixture
def operation(built: Subject, tools: Tools, tmp_path: Path) -> Iterator[Operation]:
    prepared = operate(built, tools, tmp_path)
    yield prepared
    prepared.patient.image.unlink()


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest,
    built: Subject,
    tools: Tools,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Future[Result]]]:
    """The boots of the tests that were chosen, several at a time."""

    def boot(case: Case, folder: Path) -> Result:
        operation = operate(built, tools, folder)
        try:
            case.breaks(operation.patient)
            return operation.boot(case.limit, silence=case.silence)
        finally:
            operation.patient.image.unlink()

    names = [item.name for item in request.session.items if item.path == request.path]
    # Made here, since pytest's factory is not for several threads.
    chosen = {name: tmp_path_factory.mktemp(name[:30]) for name in names if name in CASES}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {name: pool.submit(boot, CASES[name], folder) for name, folder in chosen.items()}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def result(request: pytest.FixtureRequest, results: dict[str, Future[Result]]) -> Result:
    """The result of the boot of the image that was broken for this test."""
    return results[request.node.name].result()


@pytest.fixture(scope="module")
def mkfs_xfs() -> str:
    """The path of mkfs.xfs, which only these tests need."""
    if not shutil.which("mkfs.xfs"):
        if os.geteuid() or not shutil.which("apt-get"):
            pytest.fail("install xfsprogs, for mkfs.xfs", pytrace=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "xfsprogs"], check=True)
    return shutil.which("mkfs.xfs") or "/sbin/mkfs.xfs"


def test_a_uki_deleted_from_the_esp(operation: Operation) -> None:
    operation.patient.delete_from_esp(operation.subject.arch.boot_file)
    result = operation.boot(INSPECTION_LIMIT)
    assert "the UKI is missing on the ESP" in result.reason
    assert [check.name for check in result.failures] == ["uki-on-esp"]


def test_a_root_partition_of_zeros(operation: Operation) -> None:
    operation.patient.zero_root()
    result = operation.boot(INSPECTION_LIMIT)
    assert result.reason == "the root partition holds no file system"


def test_an_xfs_root(operation: Operation, tmp_path: Path, mkfs_xfs: str) -> None:
    xfs = tmp_path / "xfs"
    with xfs.open("wb") as file:
        file.truncate(operation.patient.root.size)
    subprocess.run([mkfs_xfs, "-q", xfs], check=True)
    operation.patient.write_root(xfs)
    result = operation.boot(INSPECTION_LIMIT)
    assert result.reason == "the root file system is xfs, not ext4"


def test_an_orphan_file_root(operation: Operation) -> None:
    operation.patient.add_feature("orphan_file")
    result = operation.boot(INSPECTION_LIMIT)
    assert "the root file system has the feature orphan_file" in result.reason


def open_up(patient: Patient) -> None:
    """Let somebody in or up in each of several ways, each of which lets the guest boot."""
    texts = {
        "/etc/ssh/sshd_config.d/00-open.conf": "PasswordAuthentication yes\nX11Forwarding yes\n",
        "/root/.ssh/authorized_keys": "ssh-ed25519 AAAA somebody\n",
        "/var/lib/systemd/random-seed": "4",
        "/etc/left-over.conf": f"root = {MARK}/x\n",
    }
    if ".ssh" not in patient.list_root("/root"):
        patient.edit_root("mkdir /root/.ssh")
    for path, text in texts.items():
        patient.write(path, text)
    patient.edit_root(
        "set_inode_field /srv mode 040777",
        "set_inode_field /usr/bin/env mode 0104755",
        "set_inode_field /usr/bin/chage mode 0100755",
    )


@boots(open_up, limit=TEST_LIMIT)
def test_an_image_that_was_opened_up_fails_with_each_way_in_named(result: Result) -> None:
    reasons = {check.name: check.reason for check in result.failures}
    assert "sshd also accepts logins by password" in reasons["ssh-needs-a-key"]
    assert "passwordauthentication is yes, not no" in reasons["sshd-configuration"]
    assert "x11forwarding is yes, not no" in reasons["sshd-configuration"]
    assert "/root/.ssh/authorized_keys" in reasons["no-keys"]
    assert "/var/lib/systemd/random-seed" in reasons["no-seeds"]
    assert "everyone may write to /srv (0777)" in reasons["world-writable"]
    assert "not expected: /usr/bin/env (setuid root)" in reasons["privileged-files"]
    assert "missing: /usr/bin/chage" in reasons["privileged-files"]
    assert "/etc/left-over.conf has" in reasons["no-builder-traces"]


def add_missing_device(patient: Patient) -> None:
    """Add a line to /etc/fstab for a device that is not there.

    The timeout is long enough that cloud-init's `mount --all` fails first, unless the machine is
    very busy.
    """
    line = "LABEL=data /mnt/data ext4 x-systemd.device-timeout=60s 0 2\n"
    patient.write("/etc/fstab", line, append=True)


@pytest.mark.full
@boots(add_missing_device)
def test_a_device_in_fstab_that_is_missing_is_the_cause_and_no_unit_that_fails_for_want_of_it(
    result: Result,
) -> None:
    assert "a device that the guest waits for never came: " in result.reason
    assert result.reason.partition("; then")[0].endswith("/dev/disk/by-label/data.")


def hang(patient: Patient) -> None:
    """Add a unit that never comes to an end, and that all others have to wait for."""
    patient.add_unit(
        "wait-forever.service",
        "sysinit.target",
        "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n"
        "[Service]\nType=oneshot\nExecStart=/bin/sleep infinity\n",
    )


@boots(hang, silence=60)
def test_a_unit_that_hangs_before_sysinit_is_named(result: Result) -> None:
    assert "no sign of life for 60 s" in result.reason
    assert "the guest still waits for wait-forever.service" in result.reason


def disable_sshd(patient: Patient) -> None:
    """Disable sshd, and keep the first boot from enabling it again by a preset."""
    units = "/etc/systemd/system"
    for folder in ("multi-user.target.wants", "sockets.target.wants"):
        for unit in patient.list_root(f"{units}/{folder}"):
            if unit.startswith("ssh"):
                patient.edit_root(f"rm {units}/{folder}/{unit}")
    # cloud-init-network.service has Wants=sshd.service, which is an alias of ssh.service.
    patient.edit_root(f"rm {units}/sshd.service")
    patient.write(
        "/usr/lib/systemd/system-preset/00-no-ssh.preset",
        "disable ssh.service\ndisable ssh.socket\ndisable sshd.service\n",
    )


@boots(disable_sshd)
def test_a_disabled_sshd(result: Result) -> None:
    assert "sshd does not run in the guest" in result.reason
    assert "ssh.service is disabled and inactive" in result.reason


def add_wrong_unit(patient: Patient) -> None:
    """Add a unit whose program fails late in the boot."""
    patient.add_unit(
        "wrong.service",
        "multi-user.target",
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo the answer is 42 >&2; exit 3'\n",
    )


@pytest.mark.full
@boots(add_wrong_unit)
def test_a_unit_that_fails_is_reported_with_its_status_and_its_last_line(result: Result) -> None:
    assert result.reason == "first boot: wrong.service failed (exit-code 3): the answer is 42"


def switch_cloud_init_off(patient: Patient) -> None:
    """Switch cloud-init off in the way that its documentation gives."""
    patient.write("/etc/cloud/cloud-init.disabled", "")


@boots(switch_cloud_init_off)
def test_a_cloud_init_that_is_switched_off_is_the_cause_whatever_becomes_of_sshd(
    result: Result,
) -> None:
    assert result.reason.startswith(
        "first boot: cloud-init is switched off by /etc/cloud/cloud-init.disabled"
    )
    assert "first-boot" in [check.name for check in result.failures]


@boots(Patient.fill_root)
def test_a_full_disk_is_the_cause_and_no_unit_that_fails_for_want_of_space(result: Result) -> None:
    assert "first boot: a file system of the guest is full: " in result.reason
    assert "No space left on device" in result.reason


def replace_init(patient: Patient) -> None:
    """Put /bin/false in init's place."""
    # The initrd's systemd first tries its own path in the new root, then /sbin/init.
    patient.edit_root(
        "rm /usr/lib/systemd/systemd",
        "rm /usr/sbin/init",
        "symlink /usr/lib/systemd/systemd /bin/false",
        "symlink /usr/sbin/init /bin/false",
    )


@boots(replace_init)
def test_an_init_that_is_bin_false(result: Result) -> None:
    assert "init ended by itself" in result.reason
    assert "Attempted to kill init! exitcode=0x00000100" in result.reason
    assert not result.note  # no second boot: emulation is not to blame
    assert [check.name for check in result.failures] == ["first-boot"]
    assert "Attempted to kill init" in result.console_tail
