"""An image that cannot boot fails the boot test in time, with a reason that names the cause."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from scripts.boot import Result, Subject, boot_test
from scripts.mkosi.sandbox import Tools
from scripts.system.progress import Progress
from tests.e2e.surgery import Patient, copy

# Seconds. The inspection finds a disk that cannot boot without booting it. If the guest
# stops early or lacks sshd, the test must end before the time limits of a boot.
INSPECTION_LIMIT = 30
BOOT_LIMIT = 300
TEST_LIMIT = 900  # for all boots, of an image in which everything starts


@dataclass(frozen=True)
class Operation:
    """A copy of the built image, and what is needed to boot it after it was broken."""

    patient: Patient
    subject: Subject
    tools: Tools
    out: Path

    def boot(self, limit: float) -> Result:
        """Boot the broken image, and check that the boot test fails within limit seconds."""
        started = time.monotonic()
        result = boot_test(self.subject, self.tools, self.out, Progress(live=False))
        assert time.monotonic() - started < limit
        assert not result.passed
        assert (self.out / "junit.xml").exists()
        assert (self.out / "result.json").exists()
        return result


@pytest.fixture
def operation(built: Subject, tools: Tools, tmp_path: Path) -> Iterator[Operation]:
    patient = copy(built.disk, tmp_path / "os-image.raw", built.arch, tools)
    subject = replace(built, disk=patient.image)
    yield Operation(patient, subject, tools, tmp_path / "boot-test")
    patient.image.unlink()


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


def test_an_init_that_is_bin_false(operation: Operation) -> None:
    # The initrd's systemd first tries its own path in the new root, then /sbin/init.
    operation.patient.edit_root(
        "rm /usr/lib/systemd/systemd",
        "rm /usr/sbin/init",
        "symlink /usr/lib/systemd/systemd /bin/false",
        "symlink /usr/sbin/init /bin/false",
    )
    result = operation.boot(BOOT_LIMIT)
    assert "init ended by itself" in result.reason
    assert "Attempted to kill init! exitcode=0x00000100" in result.reason
    assert not result.note  # no second boot: emulation is not to blame
    assert [check.name for check in result.failures] == ["first-boot"]
    assert "Attempted to kill init" in result.console_tail


def test_a_disabled_sshd(operation: Operation, tmp_path: Path) -> None:
    patient = operation.patient
    units = "/etc/systemd/system"
    preset = tmp_path / "preset"
    preset.write_text("disable ssh.service\ndisable ssh.socket\ndisable sshd.service\n")
    for folder in ("multi-user.target.wants", "sockets.target.wants"):
        for unit in patient.list_root(f"{units}/{folder}"):
            if unit.startswith("ssh"):
                patient.edit_root(f"rm {units}/{folder}/{unit}")
    # cloud-init-network.service has Wants=sshd.service, which is an alias of ssh.service.
    patient.edit_root(f"rm {units}/sshd.service")
    # Without this preset, the first boot would enable sshd again.
    patient.edit_root(f"write {preset} /usr/lib/systemd/system-preset/00-no-ssh.preset")
    result = operation.boot(BOOT_LIMIT)
    assert "sshd does not run in the guest" in result.reason
    assert "ssh.service is disabled and inactive" in result.reason


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


def test_an_image_that_was_opened_up_fails_with_each_way_in_named(
    operation: Operation, tmp_path: Path
) -> None:
    """Each of these lets somebody in or up, and none of them keeps the guest from starting."""
    patient = operation.patient
    texts = {
        "/etc/ssh/sshd_config.d/00-open.conf": "PasswordAuthentication yes\nX11Forwarding yes\n",
        "/root/.ssh/authorized_keys": "ssh-ed25519 AAAA somebody\n",
        "/var/lib/systemd/random-seed": "4",
        "/etc/left-over.conf": f"root = {operation.subject.disk.parent}/x\n",
    }
    if ".ssh" not in patient.list_root("/root"):
        patient.edit_root("mkdir /root/.ssh")
    for path, text in texts.items():
        source = tmp_path / Path(path).name
        source.write_text(text)
        patient.edit_root(f"write {source} {path}")
    patient.edit_root(
        "set_inode_field /srv mode 040777",
        "set_inode_field /usr/bin/env mode 0104755",
        "set_inode_field /usr/bin/chage mode 0100755",
    )
    opened = replace(
        operation, subject=replace(operation.subject, marks=(str(operation.subject.disk.parent),))
    )
    result = opened.boot(TEST_LIMIT)
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
