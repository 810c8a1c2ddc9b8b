"""Every check, on the facts of a good boot and of one thing gone wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from scripts import catalog
from scripts.arch import X86_64
from scripts.boot import checks, cidata, needs, ssh
from scripts.boot.checks import amazonlinux, programs
from scripts.boot.facts import Facts, Verdict
from scripts.boot.machine import ROOM
from scripts.boot.probes import GREETING, Answer
from scripts.boot.results import Status
from scripts.build.manifest import PACKAGES, THIRD_PARTY, Contents
from scripts.formats.disk import ESP_TYPE, FileSystem, Partition
from scripts.formats.uki import Uki
from scripts.packages import thirdparty
from tests.unit.boot import trees

DEBIAN = catalog.DISTRIBUTIONS["debian"]
AMAZON_LINUX = catalog.DISTRIBUTIONS["amazonlinux"]

MIB = 1 << 20
ESP = Partition(1, ESP_TYPE, "e495767f-d734-4659-b124-14318989e484", "esp", MIB, 512 * MIB)
ROOT = Partition(2, X86_64.root_type, "064af2d8", "root", 513 * MIB, 494 * MIB)
GROWN = ROOT.size + ROOM

ESP_MOUNT = {
    "target": "/boot/efi",
    "source": "/dev/vda1",
    "fstype": "vfat",
    "options": "rw,relatime,fmask=0077,dmask=0077,codepage=437,shortname=winnt,utf8",
    "size": 535691264,
}
ROOT_MOUNT = {
    "target": "/",
    "source": "/dev/vda2",
    "fstype": "ext4",
    "options": "rw,relatime,errors=remount-ro",
    "size": GROWN - 60 * MIB,
}
ROOT_BLOCK = {"path": "/dev/vda2", "type": "part", "size": GROWN, "parttype": X86_64.root_type}


def mounts(*entries: dict[str, Any]) -> str:
    return json.dumps({"filesystems": entries})


def blocks(*entries: dict[str, Any]) -> str:
    return json.dumps({"blockdevices": entries})


def have(kind: str, *without: str, **instead: str) -> str:
    """The answer of a guest that has all needs of a kind, but for some or with other words."""
    names = [need.name for need in needs.table()[kind] if need.name not in without]
    return "\n".join(f"{name} {instead.get(name, '0 is there')}" for name in names)


def cloud_init(*, errors: list[str], datasource: str = "DataSourceNoCloud [seed=/dev/vdb]") -> str:
    return json.dumps({"v1": {"datasource": datasource, "errors": errors}})


FIRST = {
    "state": "running",
    "failed-units": "",
    "machine-id": "8a67b8a2",
    "boot-id": "one",
    "instance": "now 17\nearlier 0",
    "file-systems": "EXT4-fs (vda2): mounted filesystem 473b24c8 r/w with ordered data mode.",
    "kernel": "6.12.117+deb13-cloud-amd64",
    "cmdline": "root=PARTUUID=064af2d8 rw console=hvc0 console=ttyS0",
    "consoles": "active: ttyS0\nActiveState=active Id=serial-getty@ttyS0.service NRestarts=0",
    "efi": "StubInfo=systemd-stub 257.8-1~deb13u2\n"
    "StubImageIdentifier=\\EFI\\BOOT\\BOOTX64.EFI\n"
    "LoaderDevicePartUUID=E495767F-D734-4659-B124-14318989E484",
    "uki": "33188c8b  /boot/efi/EFI/BOOT/BOOTX64.EFI",
    "mounts": mounts(ROOT_MOUNT, ESP_MOUNT),
    "blocks": blocks(ROOT_BLOCK),
    "device-node": "",
    "clock": "active chrony.service\nsources 1\nmakestep 1 -1",
    "dhcp": "eth0 52:54:00:12:34:56 01525400123456",
    "host-keys": "/etc/ssh/ssh_host_ecdsa_key\n/etc/ssh/ssh_host_ed25519_key",
    "apt-sources": "trixie\nPackages trixie\nPackages trixie-security\nPackages trixie-updates",
    "superblock": "Filesystem features:      has_journal ext_attr extent 64bit",
    "cloud-init": cloud_init(errors=[]),
    "emulators": "qemu-aarch64:enabled\n"
    "qemu-aarch64:interpreter /usr/bin/qemu-aarch64-static\nqemu-aarch64:flags: POCF",
    "foreign-program": GREETING,
    "mounts-entry": "\t".join(
        [*cidata.MOUNT[:3], f"{cidata.MOUNT[3]},comment=cloudconfig", "0", "0"]
    )
    + f"\n{programs.NO_9P}",
    "sshd-configuration": "permitrootlogin without-password\npubkeyauthentication yes\n"
    "passwordauthentication no\nkbdinteractiveauthentication no\nx11forwarding no\n"
    "permitemptypasswords no",
    "sshfs": "SSHFS version 3.7.3\nFUSE library version 3.17.2",
    "cloud-init-status": json.dumps({"v1": {"init": {"recoverable_errors": {}}}}),
    **{kind: have(kind) for kind in needs.table()},
    "credentials": '{"ServerURL":"https://registry.invalid","Secret":"swordfish"}',
}
CONTENTS = Contents(
    rpms=frozenset({"cosign-3.0.5-1.x86_64.rpm", "cloud-init-22.2.2-1.amzn2023.finch1.noarch.rpm"})
)
MACHINE_ID = "8a67b8a2b0d94ba7a1ad1ed35a8d4a5c"
AMAZON = FIRST | {
    "machine-id": MACHINE_ID,
    "clock": "active chronyd.service\nsources 1\nmakestep 1 -1",
    "os-release": 'NAME="Amazon Linux"\nID="amzn"\nVERSION_ID="2023"',
    "rpm-packages": "\n".join(f"package-{number}" for number in range(180))
    + "\ncosign-3.0.5-1.x86_64\ncloud-init-22.2.2-1.amzn2023.finch1.noarch",
    "rpm-missing": "",
    "repositories": "repo id repo name\namazonlinux Amazon Linux 2023 repository\n"
    "mirrorlist=https://cdn.amazonlinux.com/al2023/core/mirrors/$releasever/mirror.list",
    "selinux-policy": "policy/policy.33\ncontexts/files/file_contexts",
    "unit-files": "\n".join(
        [f"{unit} {state} enabled" for unit, state in amazonlinux.UNIT_STATES.items()]
        + ["cloud-init-hotplugd.service static -", "fstrim.timer disabled enabled"]
        + ["cloud-init.service enabled enabled", "sshd.socket disabled enabled"]
    ),
}
SECOND = FIRST | {"boot-id": "two", "instance": "now 0\nearlier 17"}


def answers(texts: dict[str, str]) -> dict[str, Answer]:
    return {name: Answer(text) for name, text in texts.items()}


def good() -> Facts:
    return Facts(
        X86_64,
        DEBIAN,
        Uki(cmdline=FIRST["cmdline"], uname=FIRST["kernel"], sha256="33188c8b"),
        disk_before="20eee7d6",
        contents=CONTENTS,
        partitions=(ESP, ROOT),
        root=FileSystem("ext4"),
        esp_uki="33188c8b",
        esp_files=["EFI/BOOT/BOOTX64.EFI"],
        files=trees.good("debian"),
        boots={boot: Verdict("", "") for boot in ("first", "second", "other")},
        first=answers(FIRST),
        second=answers(SECOND),
        refusals=dict.fromkeys(ssh.WITHOUT_KEY, "x@127.0.0.1: Permission denied (publickey)."),
        host_keys={"first": "ssh-ed25519 A", "second": "ssh-ed25519 A", "other": "ssh-ed25519 B"},
        power_offs={"first": "guest-shutdown", "second": "guest-shutdown"},
        emulated=["aarch64"],
        disk_after="20eee7d6",
    )


def test_a_good_boot_passes_every_check() -> None:
    failed = [(c.name, c.status, c.reason) for c in checks.check_all(good()) if not c.passed]
    assert failed == []


def in_first(**changes: str) -> Callable[[Facts], Facts]:
    named = {name.replace("_", "-"): text for name, text in changes.items()}
    return lambda facts: dataclasses.replace(facts, first=answers(FIRST | named))


def failing(name: str, text: str) -> Callable[[Facts], Facts]:
    """The probe called name fails with text."""
    failed = {name: Answer(text, 2)}
    return lambda facts: dataclasses.replace(facts, first=answers(FIRST) | failed)


def in_second(**changes: str) -> Callable[[Facts], Facts]:
    named = {name.replace("_", "-"): text for name, text in changes.items()}
    return lambda facts: dataclasses.replace(facts, second=answers(SECOND | named))


def with_facts(**changes: Any) -> Callable[[Facts], Facts]:
    return lambda facts: dataclasses.replace(facts, **changes)


# One thing gone wrong, the check that notices, and a part of its reason.
FAULTS: list[tuple[Callable[[Facts], Facts], str, str]] = [
    (with_facts(partitions=(ROOT,)), "partitions", "no EFI system partition"),
    (with_facts(partitions=(ESP,)), "partitions", "no partition of type 4f68bce3"),
    (with_facts(esp_uki="", esp_complaint="mcopy: not found"), "uki-on-esp", "missing on"),
    (with_facts(esp_uki="00"), "uki-on-esp", "is not the built one"),
    (with_facts(root=FileSystem("")), "root-file-system", "holds no file system"),
    (with_facts(root=FileSystem("xfs")), "root-file-system", "is xfs, not ext4"),
    (with_facts(root=FileSystem("ext4", orphan_file=True)), "root-file-system", "orphan_file"),
    (with_facts(root=FileSystem("ext4", clean=False)), "root-file-system", "did not leave"),
    (in_first(efi=""), "uefi", "no EFI variable mentions systemd-stub"),
    (in_first(efi=FIRST["efi"].replace("BOOTX64", "LINUX\\X")), "uefi", "loaded from \\EFI"),
    (in_first(efi="StubInfo=systemd-stub 257"), "uefi", "loaded from an unknown file"),
    (with_facts(partitions=(dataclasses.replace(ESP, uuid="064af2d8"), ROOT)),
     "uefi", "not loaded from the ESP"),
    (in_first(superblock="dumpe2fs: Bad magic number"), "root-mounted", "shows no features"),
    (in_first(mounts=mounts(ROOT_MOUNT, ESP_MOUNT | {"fstype": "ext4"})),
     "esp-mounted", "/boot/efi is ext4, not vfat"),
    (in_first(uki="00  /boot/efi/x"), "uki-in-guest", "not the built one"),
    (in_first(cmdline="quiet"), "kernel-command-line", "not the UKI's"),
    (in_first(kernel="6.1"), "kernel-release", "not the UKI's"),
    (in_first(mounts=mounts(ROOT_MOUNT | {"fstype": "btrfs"}, ESP_MOUNT)),
     "root-mounted", "/ is btrfs, not ext4"),
    (in_first(blocks=blocks(ROOT_BLOCK | {"parttype": "0fc63daf"})),
     "root-mounted", "on a partition of type 0fc63daf"),
    (in_first(superblock="Filesystem features: extent orphan_file"),
     "root-mounted", "has orphan_file"),
    (in_first(blocks=blocks(ROOT_BLOCK | {"size": ROOT.size})),
     "root-grown", "the root partition did not grow"),
    (in_first(mounts=mounts(ROOT_MOUNT | {"size": ROOT.size}, ESP_MOUNT)),
     "root-grown", "the root file system did not grow"),
    (in_first(mounts=mounts(ROOT_MOUNT, ESP_MOUNT | {"target": "/boot"}, ESP_MOUNT)),
     "esp-mounted", "also mounted at /boot"),
    (in_first(mounts=mounts(ROOT_MOUNT)), "esp-mounted", "nothing is mounted at /boot/efi"),
    (in_first(mounts=mounts(ROOT_MOUNT, ESP_MOUNT | {"options": "rw,fmask=0077,dmask=0022"})),
     "esp-mounted", "without dmask=0077, shortname=winnt"),
    (in_first(mounts=mounts(ROOT_MOUNT | {"options": "rw,nodev,errors=remount-ro"}, ESP_MOUNT)),
     "root-options", "/ is mounted with nodev"),
    (in_first(mounts=mounts(ROOT_MOUNT | {"options": "rw,relatime"}, ESP_MOUNT)),
     "root-options", "/ is mounted without errors=remount-ro"),
    (failing("device-node", "sh: cannot create /var/tmp/x: Permission denied"),
     "root-options", "a device node does not work: sh: cannot create"),
    (in_first(cmdline="rw console=tty0 console=ttyS0"), "consoles",
     "told to use tty0, ttyS0, not hvc0, ttyS0"),
    (in_first(consoles=FIRST["consoles"].replace("active: ttyS0", "active: ttyS0 tty0")),
     "consoles", "/dev/console is tty0"),
    (in_first(consoles="active: ttyS0"), "consoles", "nobody can log in at ttyS0"),
    (in_first(consoles=FIRST["consoles"] +
              "\nActiveState=activating Id=serial-getty@ttyS1.service NRestarts=7"),
     "consoles", "does not stay up: ActiveState=activating Id=serial-getty@ttyS1.service"),
    (in_first(clock=FIRST["clock"].replace("chrony.", "chronyd-restricted.")), "clock",
     "kept by chronyd-restricted.service, not chrony.service"),
    (in_first(clock="active systemd-timesyncd.service\n" + FIRST["clock"]), "clock",
     "kept by systemd-timesyncd.service, chrony.service, not"),
    (in_first(clock=FIRST["clock"].replace("sources 1", "sources 0")), "clock", "no time server"),
    (in_first(clock=FIRST["clock"].replace("-1", "3")), "clock",
     "does not step the clock at any time: makestep 1 3"),
    (in_first(clock=FIRST["clock"] + "\nthe second restart failed"), "clock",
     "the second restart failed"),
    (in_first(clock=""), "clock", "kept by nothing"),
    (in_first(dhcp=FIRST["dhcp"] + "\nlima0 52:54:00:12:34:57 ff5cbbeb5e0002"), "dhcp-by-mac",
     "lima0 is known as ff5cbbeb5e0002"),
    (in_first(dhcp=""), "dhcp-by-mac", "no card has a lease"),
    (in_first(host_keys="ls: no such file"), "host-keys", "no unit made an ed25519 host key"),
    (in_first(apt_sources=FIRST["apt-sources"] + "\nSources trixie\nPackages trixie-debug"),
     "apt-sources", "apt also fetches Packages trixie-debug, Sources trixie"),
    (in_first(apt_sources="trixie\nPackages trixie"), "apt-sources",
     "does not fetch Packages trixie-security, Packages trixie-updates"),
    (in_first(state="degraded", failed_units="chrony.service loaded failed failed chrony"),
     "system-running", "failed units: chrony.service; systemd is degraded"),
    (in_first(cloud_init=""), "cloud-init", "did not finish"),
    (in_first(mounts_entry=programs.NO_9P), "mounts", "not in /etc/fstab"),
    (in_first(mounts_entry="finch-share /mnt 9p ro 0 0"), "mounts", "came out as finch-share"),
    (in_first(mounts_entry="finch-share"), "mounts", "came out as finch-share"),
    (in_first(mounts_entry="\t".join(cidata.MOUNT) + "\nmount: bad"), "mounts",
     "cannot be mounted"),
    (in_first(sshfs="sshfs: not found"), "sshfs", "does not say its version"),
    (in_first(cloud_init=cloud_init(errors=["boom"])), "cloud-init", "boom"),
    (in_first(cloud_init=cloud_init(errors=[], datasource="DataSourceNone")),
     "cloud-init", "DataSourceNone"),
    (in_first(programs=have("programs", "pass")), "programs",
     "pass is not there (Finch: docker-credential-pass"),
    (in_first(programs=have("programs", gpg="127 gpg: not found")), "programs",
     "gpg fails with status 127 gpg: not found (Finch: "),
    (in_first(modules=have("modules", "xt_addrtype")), "kernel-modules",
     "xt_addrtype is not there (CNI: portmap's rules for published ports)"),
    (in_first(sysctls=have("sysctls", **{"net.ipv4.ip_forward": "1 was 0, became 0"})), "sysctls",
     "net.ipv4.ip_forward fails with status 1 was 0, became 0 (Finch: "),
    (in_first(controllers=have("controllers", "pids")), "cgroup-controllers",
     "pids is not there (nerdctl: limits of containers"),
    (in_first(delegated=have("delegated", "io")), "cgroup-delegation",
     "io is not there (nerdctl: limits of containers that a user runs"),
    (with_facts(host_keys={"first": ""}), "sshd", "no ed25519 host key"),
    (with_facts(power_offs={"first": "still up after 90 s"}), "power-off", "still up"),
    (in_second(file_systems="EXT4-fs (vda2): mounted filesystem\nvda2: recovering journal"),
     "second-boot-clean", "recovering journal"),
    (in_second(file_systems="grep: nothing"), "second-boot-clean", "no ext4 file system"),
    (in_second(state="maintenance"), "second-boot-running", "systemd is maintenance"),
    (in_second(machine_id="other"), "second-boot-same", "the machine ID changed"),
    (in_first(instance="now 0\nearlier 0"), "first-boot-once", "did nothing in the first boot"),
    (in_first(instance="sh: no folder"), "first-boot-once", "did nothing in the first boot"),
    (in_first(instance="now 9\nearlier 8"), "first-boot-once", "had been set up before"),
    (in_second(instance="now 17\nearlier 0"), "first-boot-once", "again in the second boot"),
    (in_second(instance="now 0\nearlier 0"), "first-boot-once", "knows nothing of the first"),
    (in_second(boot_id="one"), "second-boot-same", "did not boot again"),
    (with_facts(host_keys={"first": "A", "second": "C", "other": "B"}),
     "second-boot-same", "the SSH host key changed"),
    (with_facts(host_keys={"first": "A", "second": "A", "other": "A"}),
     "host-keys-differ", "same SSH host key"),
    (in_first(emulators=FIRST["emulators"].replace("enabled", "disabled")),
     "emulators", "no emulator is registered for programs of aarch64"),
    (in_first(emulators=FIRST["emulators"].replace("POCF", "POC")),
     "emulators", "without flag F, containers cannot use the emulator: qemu-aarch64"),
    (in_first(foreign_program="Exec format error"), "foreign-program", "does not run"),
    (with_facts(disk_after="00"), "image-unchanged", "wrote to the built image"),
    (with_facts(refusals=dict.fromkeys(ssh.WITHOUT_KEY, "Permission denied (password).")),
     "ssh-needs-a-key", "also accepts logins by password"),
    (in_first(sshd_configuration="x11forwarding yes"), "sshd-configuration",
     "x11forwarding is yes, not no"),
    (with_facts(files=dataclasses.replace(trees.good("debian"), complaint="damaged")),
     "root-files", "damaged"),
    (with_facts(files=trees.with_texts(trees.good("debian"), {"/etc/shadow": "root::1"})),
     "locked-passwords", "not locked: root"),
    (with_facts(files=trees.with_entry(
        trees.good("debian"), trees.entry("/root/.ssh/authorized_keys"))),
     "no-keys", "/root/.ssh/authorized_keys"),
    (with_facts(esp_files=["loader/random-seed"]), "no-seeds", "loader/random-seed on the ESP"),
    (with_facts(files=trees.without(trees.good("debian"), "/usr/bin/su")),
     "privileged-files", "missing: /usr/bin/su"),
    (with_facts(files=trees.with_entry(trees.good("debian"), trees.entry("/srv", 0o40777))),
     "world-writable", "/srv (0777)"),
    (with_facts(files=dataclasses.replace(trees.good("debian"), traces={"/etc/x": "/a/b"})),
     "no-builder-traces", "/etc/x has /a/b"),
    (with_facts(files=trees.with_entry(trees.good("debian"), trees.entry("/var/log/dpkg.log"))),
     "no-leftovers", "/var/log/dpkg.log"),
    (with_facts(boots={"first": Verdict("first boot: panic", "…")}), "first-boot", "panic"),
    (with_facts(boots={"second": Verdict("second boot: no sshd", "…")}), "second-boot", "no sshd"),
    (with_facts(boots={"other": Verdict("other boot: oops", "…")}), "other-instance", "oops"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "name", "reason"), FAULTS)
def test_one_thing_wrong_fails_its_check_with_the_cause(
    change: Callable[[Facts], Facts], name: str, reason: str
) -> None:
    found = {check.name: check for check in checks.check_all(change(good()))}
    assert found[name].status is Status.FAILED
    assert reason in found[name].reason


def amazon(**changes: str) -> Facts:
    named = {name.replace("_", "-"): text for name, text in changes.items()}
    return dataclasses.replace(
        good(),
        distribution=AMAZON_LINUX,
        machine_id="",
        files=trees.good("amazonlinux"),
        first=answers(AMAZON | named),
        second=answers(SECOND | {"machine-id": MACHINE_ID}),
    )


def test_a_good_boot_of_amazon_linux_passes_every_check() -> None:
    found = checks.check_all(amazon())
    assert [(c.name, c.reason) for c in found if not c.passed] == []
    assert len(found) == len([rule for rule in checks.RULES if rule.is_for(AMAZON_LINUX)])


def test_the_files_of_the_kernel_that_the_uki_stands_for_are_not_missed() -> None:
    facts = amazon(rpm_missing="missing     /boot/config-6.18.1\nmissing   c /boot/.vmlinuz-6.hmac")
    assert [check.name for check in checks.check_all(facts) if not check.passed] == []


def test_debian_is_not_asked_what_only_amazon_linux_can_answer() -> None:
    assert not {"os-release", "packages"} & {check.name for check in checks.check_all(good())}


AMAZON_FAULTS: list[tuple[Facts, str, str]] = [
    (amazon(os_release='ID="fedora"\nVERSION_ID=43'), "os-release", "says fedora 43"),
    (amazon(rpm_missing="missing     /usr/bin/tar"), "packages", "1 files are missing"),
    (amazon(rpm_packages=""), "packages", "lists only 0 packages"),
    (amazon(rpm_packages="bash-5.2.15-1.amzn2023"), "rpm-knows",
     "finch1.noarch, cosign-3.0.5-1.x86_64"),
    (amazon(repositories="amazonlinux x\nbaseurl=http://127.0.0.1:8023/al2023"),
     "repositories", "not on Amazon's CDN: http://127.0.0.1:8023"),
    (amazon(repositories="mirrorlist=https://cdn.amazonlinux.com/x"),
     "repositories", "does not list amazonlinux"),
    (amazon(selinux_policy="ls: cannot access"), "selinux-policy", "no binary policy"),
    (dataclasses.replace(amazon(), first=answers(AMAZON) | {
        "selinux-policy": Answer("policy/policy.33", 2)}), "selinux-policy", "no file contexts"),
    (amazon(repositories="amazonlinux Amazon Linux 2023 repository"),
     "repositories", "no repository has an address"),
    (amazon(rpm_packages="a\n" * 49), "packages", "lists only 49 packages"),
    (amazon(sshfs="SSHFS version 3.7.6"), "sshfs", "sshfs is 3.7.6, not 3.7.3"),
    (amazon(unit_files=AMAZON["unit-files"] + "\ncloud-init-main.service enabled disabled"),
     "presets", "cloud-init-main.service is enabled, its preset disabled"),
    (amazon(unit_files=AMAZON["unit-files"].replace("sshd.service enabled", "sshd.service ~")),
     "presets", "sshd.service is ~, not enabled"),
    (amazon(unit_files=AMAZON["unit-files"] + "\ncloud-init-main.service disabled enabled"),
     "presets", "cloud-init-main.service is disabled, its preset enabled"),
    (amazon(unit_files=AMAZON["unit-files"].replace("sshd.socket dis", "sshd.socket en")),
     "presets", "sshd.socket is enabled"),
    (amazon(unit_files=AMAZON["unit-files"].replace("cloud-init.service e", "x.service e")),
     "presets", "neither cloud-init-network.service nor cloud-init.service is enabled"),
    (amazon(rpm_packages=AMAZON["rpm-packages"].replace(".finch1", "")), "rpm-knows",
     "no cloud-init with .finch"),
    (amazon(programs=have("programs", "cosign")), "programs", "cosign is not there (Finch: "),
    (amazon(credentials="gpg: decryption failed"), "credentials", "did not keep a password"),
    (amazon(sshfs="sshfs: not found"), "sshfs", "does not say its version"),
    (dataclasses.replace(amazon(), machine_id=MACHINE_ID), "machine-id", "all would share"),
    (dataclasses.replace(amazon(), machine_id=None), "machine-id", "cannot be read"),
    (amazon(machine_id="uninitialized"), "machine-id", "the guest's machine ID is"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "name", "reason"), AMAZON_FAULTS)
def test_one_thing_wrong_with_amazon_linux_fails_its_check(
    facts: Facts, name: str, reason: str
) -> None:
    found = {check.name: check for check in checks.check_all(facts)}
    assert found[name].status is Status.FAILED
    assert reason in found[name].reason


def test_what_the_image_was_built_without_is_not_missed() -> None:
    left_out = frozenset({"cosign", "docker-credential-pass", "pass"})
    facts = dataclasses.replace(
        amazon(programs=have("programs", *left_out, "gpg"), credentials=""),
        contents=Contents(left_out=left_out),
    )
    found = {check.name: check.status for check in checks.check_all(facts)}
    assert found["programs"] is found["credentials"] is Status.PASSED


def test_of_pins_of_somebodys_own_only_what_was_added_is_asked_for() -> None:
    facts = dataclasses.replace(
        amazon(
            programs=have("programs", "docker-credential-pass", "gpg", "pass", cosign="127"),
            credentials="",
            sshfs="SSHFS version 3.7.6",
            rpm_packages=AMAZON["rpm-packages"].replace(".finch1", ".acme1"),
        ),
        contents=Contents(
            held=frozenset({"cosign", "cloud-init", "fuse-sshfs"}),
            other_pins=frozenset({PACKAGES, THIRD_PARTY}),
        ),
    )
    failed = {check.name: check.reason for check in checks.check_all(facts) if not check.passed}
    assert failed.keys() == {"programs"}
    assert failed["programs"].startswith("cosign fails with status 127 (Finch: ")
    assert ";" not in failed["programs"]


def test_every_pin_brings_a_program_that_is_needed() -> None:
    pins = {pin.name for pin in thirdparty.read_pins(catalog.ROOT / thirdparty.PINS)}
    assert {pin for need in needs.table()["programs"] for pin in need.pin.values()} == pins


def test_an_image_whose_manifest_says_nothing_has_to_hold_everything() -> None:
    facts = dataclasses.replace(
        amazon(programs="", credentials="", sshfs="", mounts_entry="", rpm_packages="a\n" * 50),
        contents=Contents(),
    )
    failed = {check.name for check in checks.check_all(facts) if not check.passed}
    assert failed == {"programs", "credentials", "sshfs", "mounts", "rpm-knows"}


def test_a_rolling_release_has_one_suite() -> None:
    facts = in_first(apt_sources="sid\nPackages sid")(good())
    assert [check.name for check in checks.check_all(facts) if not check.passed] == []


def test_debian_has_its_password_store_from_its_archive() -> None:
    change = in_first(programs=have("programs", "gpg", "pass"), credentials="")
    found = {check.name: check for check in checks.check_all(change(good()))}
    assert "gpg is not there (Finch" in found["programs"].reason
    assert "; pass is not there (Finch" in found["programs"].reason
    assert found["credentials"].passed


def test_an_amazon_image_without_our_packages_is_not_asked_for_what_they_bring() -> None:
    facts = dataclasses.replace(
        amazon(mounts_entry="", sshfs="sshfs: not found"),
        contents=Contents(left_out=frozenset({PACKAGES})),
    )
    assert [check.name for check in checks.check_all(facts) if not check.passed] == []


def test_an_image_with_spals_sshfs_is_asked_for_it_though_it_lacks_our_packages() -> None:
    contents = Contents(
        held=frozenset({"fuse-sshfs"}),
        left_out=frozenset({PACKAGES}),
        supplementary=frozenset({"fuse-sshfs"}),
    )
    good_one = dataclasses.replace(amazon(mounts_entry=""), contents=contents)
    assert [check.name for check in checks.check_all(good_one) if not check.passed] == []
    for sshfs, reason in (
        ("sshfs: not found", "does not say its version"),
        ("SSHFS version 3.7.6", "sshfs is 3.7.6, not 3.7.3"),
    ):
        facts = dataclasses.replace(amazon(mounts_entry="", sshfs=sshfs), contents=contents)
        [found] = [check for check in checks.check_all(facts) if not check.passed]
        assert found.name == "sshfs"
        assert reason in found.reason


def test_what_the_test_has_not_come_to_is_skipped() -> None:
    facts = Facts(X86_64, DEBIAN, Uki("", "", ""), disk_before="")
    assert {check.status for check in checks.check_all(facts)} == {Status.SKIPPED}


def test_a_disk_without_a_file_system_is_not_worth_booting() -> None:
    facts = good()
    assert not checks.fatal(facts)
    facts.root = FileSystem("")
    assert checks.fatal(facts)


def test_what_cloud_init_recovered_from_is_evidence_and_no_failure() -> None:
    status = {"v1": {"init": {"recoverable_errors": {"WARNING": ["a key is deprecated"]}}}}
    facts = in_first(cloud_init_status=json.dumps(status))(good())
    [check] = [check for check in checks.check_all(facts) if check.name == "cloud-init"]
    assert check.passed
    assert "a key is deprecated" in check.evidence


def evidence(facts: Facts, name: str) -> str:
    [found] = [check.evidence for check in checks.check_all(facts) if check.name == name]
    return found


def test_sizes_in_evidence_are_in_mebibytes() -> None:
    assert "label esp 512 MiB" in evidence(good(), "partitions")
    assert evidence(good(), "root-grown") == (
        "partition built with 494 MiB, disk enlarged by 2048 MiB, "
        "partition now 2542 MiB, file system 2482 MiB"
    )


def test_evidence_tells_what_was_found_or_why_nothing_was() -> None:
    assert evidence(good(), "uki-on-esp").startswith("ESP EFI/BOOT/BOOTX64.EFI: 33188c8b\n")
    missing = with_facts(esp_uki="", esp_complaint="mcopy: not found")(good())
    assert "BOOTX64.EFI: mcopy: not found\n" in evidence(missing, "uki-on-esp")
    assert evidence(good(), "root-mounted").endswith(
        "features:      has_journal ext_attr extent 64bit"
    )
    assert (
        evidence(amazon(), "packages") == "182 packages, nothing missing but the kernel's in /boot"
    )
    assert evidence(amazon(rpm_missing="missing /a"), "packages") == "missing /a"
    assert "finch1.noarch" in evidence(amazon(), "rpm-knows")
    assert "cosign: is there\n" in evidence(amazon(), "programs")


@pytest.mark.parametrize(
    ("partition", "inside", "reason"),
    [
        (GROWN - 16 * MIB, GROWN - 60 * MIB, ""),
        (GROWN - 16 * MIB - 1, GROWN - 60 * MIB, "the root partition did not grow"),
        (GROWN, int(0.86 * GROWN), ""),
        (GROWN, int(0.84 * GROWN), "the root file system did not grow"),
    ],
)
def test_a_root_has_grown_if_little_of_the_disk_is_left(
    partition: int, inside: int, reason: str
) -> None:
    facts = in_first(
        mounts=mounts(ROOT_MOUNT | {"size": inside}, ESP_MOUNT),
        blocks=blocks(ROOT_BLOCK | {"size": partition}),
    )(good())
    [check] = [check for check in checks.check_all(facts) if check.name == "root-grown"]
    assert check.reason.startswith(reason)
    assert check.passed is (not reason)


def test_an_entry_of_fstab_may_come_without_cloud_inits_comment() -> None:
    facts = in_first(mounts_entry="\t".join(cidata.MOUNT) + f"\n{cidata.SHARED}")(good())
    assert [check.name for check in checks.check_all(facts) if not check.passed] == []


def test_any_version_of_the_distributions_own_sshfs_will_do() -> None:
    facts = in_first(sshfs="SSHFS version 3.7.6")(good())
    assert [check.name for check in checks.check_all(facts) if not check.passed] == []


def test_lines_that_are_no_unit_files_are_passed_over() -> None:
    facts = amazon(unit_files=AMAZON["unit-files"] + "\n\nodd\nsshd-odd.service\n")
    assert [check.name for check in checks.check_all(facts) if not check.passed] == []
