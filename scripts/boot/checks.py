"""The checks: what must hold of a booted image, decided from collected facts alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from scripts.arch import Arch
from scripts.boot import cidata
from scripts.boot.console import plain
from scripts.boot.machine import ROOM
from scripts.boot.probes import GREETING, Answers
from scripts.boot.results import Check, Status
from scripts.formats.disk import ESP_TYPE, FileSystem, Partition, of_type
from scripts.formats.uki import Uki
from scripts.stages.artifacts import PACKAGES, THIRD_PARTY, Contents

MIB = 1 << 20

# Lines of a boot's log that tell of a file system that was not left clean.
UNCLEAN = (
    r"recovery (complete|required)|orphan cleanup|recovering journal|with errors|Dirty bit is set"
    r"|not (properly|cleanly) unmounted|clearing orphaned|file system was modified"
)

# systemd-stub's options for an ESP mounted with umask=0077,shortname=winnt, as
# the kernel shows them.
ESP_OPTIONS = {"fmask=0077", "dmask=0077", "shortname=winnt"}

CDN = "cdn.amazonlinux.com"

# What stands in the file that the guest is offered by 9p.
SHARED = "the host says so"
NO_9P = "the kernel has no 9p"

# 3.7.6 broke `nerdctl cp --follow-link`, so Amazon Linux gets this one, built from Fedora's source.
SSHFS = "3.7.3"

# The release of our own cloud-init has this in it (al2023-package-build/packages.toml).
OURS = ".finch"

# Of the units that our presets are about those that every version of the packages has.
OUR_PRESETS = re.compile(r"(cloud-.*|sshd|systemd-(networkd|resolved)(-.*)?)\.service")
# The programs that the images hold for Finch, by distribution: each with the name of the pin of
# third-party/pins.toml that it comes with, which the image may have been built without.
PROGRAMS = {
    "amazonlinux": {
        "cosign": "cosign",
        "docker-credential-pass": "docker-credential-pass",
        "gpg": "pass",
        "pass": "pass",
    },
    "debian": {"gpg": "", "pass": ""},
}
LEFT_OUT = "the image was built without"

# cloud-init's stage that comes after the network, as version 24.3 and older ones call it.
CLOUD_INIT_NETWORK = ("cloud-init-network.service", "cloud-init.service")
# sshd.socket would take sshd's port.
NOT_ENABLED = ("sshd.socket",)
# What the kernel's package has in /boot, of which the UKI takes the place: it is left out of the
# images (mkosi.images/base-with-kernel/mkosi.conf).
NOT_MISSED = re.compile(r"/boot/[^/]*-[^/]*")

UNIT_STATES = {
    "chronyd.service": "enabled",
    "cloud-config.service": "enabled",
    "cloud-final.service": "enabled",
    "cloud-init-local.service": "enabled",
    "sshd.service": "enabled",
    "systemd-networkd.service": "enabled",
    "systemd-networkd-wait-online.service": "masked",
    "systemd-resolved.service": "enabled",
}


@dataclass(frozen=True)
class Verdict:
    """Why a check failed, empty where it passed, and what was seen."""

    reason: str
    evidence: str


@dataclass
class Facts:
    """All that was collected; what the test has not come to is None or empty.

    Of the host: the UKI as built, the digests of the UKI on the ESP and of the
    disk before and after, the partition table, root's file system and the
    machine-id in it; contents is what the image is said to hold beside the distribution, emulated
    the architectures that it has emulators for. Of the
    guest, by boot ("first", "second", "other"): what went wrong in it ("" for
    nothing) with the last lines of its console, its host key, and how it ended.
    """

    arch: Arch
    uki: Uki
    disk_before: str
    distribution: str = "debian"
    contents: Contents = field(default_factory=Contents)
    partitions: Sequence[Partition] = ()
    root: FileSystem | None = None
    machine_id: str | None = None
    esp_uki: str | None = None
    esp_complaint: str = ""
    emulated: Sequence[str] = ()
    boots: dict[str, Verdict] = field(default_factory=dict)
    first: Answers | None = None
    second: Answers | None = None
    host_keys: dict[str, str] = field(default_factory=dict)
    power_offs: dict[str, str] = field(default_factory=dict)
    disk_after: str | None = None

    def forget_boots(self) -> None:
        """Back to what is known without having booted."""
        self.first = self.second = None
        for known in (self.boots, self.host_keys, self.power_offs):
            known.clear()

    @property
    def esp_partition(self) -> Partition | None:
        """The ESP, if there is one."""
        return of_type(self.partitions, ESP_TYPE)

    @property
    def root_partition(self) -> Partition | None:
        """The partition of the type that a root of this architecture has, if there is one."""
        return of_type(self.partitions, self.arch.root_type)


# A check is not decided (None) while its facts are not there.
Decide = Callable[[Facts], Verdict | None]


@dataclass(frozen=True)
class Rule:
    """A check's name, what it asserts, and how it is decided.

    Where a fatal one fails, booting is pointless. One with a distribution is
    for its images only.
    """

    name: str
    title: str
    decide: Decide
    fatal: bool = False
    distribution: str = ""


def _verdict(problems: Mapping[str, object], evidence: str) -> Verdict:
    """Failed for the keys of problems whose value is true."""
    return Verdict("; ".join(text for text, holds in problems.items() if holds), evidence)


def _partitions(facts: Facts) -> Verdict | None:
    if not facts.partitions:
        return None
    evidence = "\n".join(
        f"{p.number}: type {p.type} uuid {p.uuid} label {p.label} {p.size // MIB} MiB"
        for p in facts.partitions
    )
    problems = {
        "the disk has no EFI system partition": not facts.esp_partition,
        f"the disk has no partition of the type of a {facts.arch} root, {facts.arch.root_type}":
            not facts.root_partition,
    }  # fmt: skip
    return _verdict(problems, evidence)


def _esp_uki(facts: Facts) -> Verdict | None:
    if facts.esp_uki is None:
        return None
    path = facts.arch.boot_file
    problems = {
        f"the UKI is missing on the ESP: there is no {path}": not facts.esp_uki,
        f"the UKI on the ESP ({path}) is not the built one": (
            facts.esp_uki and facts.esp_uki != facts.uki.sha256
        ),
    }
    evidence = f"ESP {path}: {facts.esp_uki or facts.esp_complaint}\nbuilt: {facts.uki.sha256}"
    return _verdict(problems, evidence)


def _root_file_system(facts: Facts) -> Verdict | None:
    root = facts.root
    if root is None:
        return None
    name = root.name or "none, only zeros"
    problems = {
        "the root partition holds no file system": not root.name,
        f"the root file system is {name}, not ext4": root.name not in ("", "ext4"),
        "the root file system has the feature orphan_file, which Amazon Linux 2023's e2fsck does"
        " not know": root.orphan_file,
        "the root file system was not left clean by the build": not root.clean,
    }
    return _verdict(problems, f"{name}, orphan_file {root.orphan_file}, clean {root.clean}")


def _fields(text: str) -> dict[str, str]:
    """The lines NAME=value of text."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _uefi(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    text = facts.first["efi"].text
    variables = _fields(text)
    image = variables.get("StubImageIdentifier") or variables.get("LoaderImageIdentifier", "")
    esp = facts.esp_partition
    partition = variables.get("LoaderDevicePartUUID", "").lower()
    problems = {
        "no EFI variable tells of systemd-stub": "systemd-stub"
        not in variables.get("StubInfo", ""),
        "the stub was not loaded from the ESP": not esp or partition != esp.uuid,
        f"the stub was loaded from {image or 'an unknown file'}": (
            image.replace("\\", "/").strip("/").lower() != facts.arch.boot_file.lower()
        ),
    }
    return _verdict(problems, text)


def _guest_uki(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    text = facts.first["uki"].text
    differs = text.split(" ")[0] != facts.uki.sha256
    return _verdict({"the UKI the guest sees on its ESP is not the built one": differs}, text)


def _same(question: str, what: str, expected: Callable[[Facts], str]) -> Decide:
    def decide(facts: Facts) -> Verdict | None:
        if facts.first is None:
            return None
        seen, wanted = facts.first[question].text, expected(facts)
        return _verdict({f"{what} is not the UKI's": seen != wanted}, f"{seen}\nUKI: {wanted}")

    return decide


_cmdline = _same("cmdline", "the kernel command line", lambda facts: facts.uki.cmdline)
_kernel = _same("kernel", "the running kernel", lambda facts: facts.uki.uname)


def _mount(answers: Answers, target: str) -> Mapping[str, Any]:
    mounts = _json(answers["mounts"].text).get("filesystems", [])
    return next((mount for mount in mounts if mount["target"] == target), {})


def _block(answers: Answers, path: str) -> Mapping[str, Any]:
    devices = _json(answers["blocks"].text).get("blockdevices", [])
    return next((device for device in devices if device["path"] == path), {})


def _json(text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _root_mounted(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    mount = _mount(facts.first, "/")
    device = _block(facts.first, str(mount.get("source")))
    features = re.search(r"features: .*", facts.first["superblock"].text)
    problems = {
        f"/ is {mount.get('fstype')}, not ext4": mount.get("fstype") != "ext4",
        f"/ is on a partition of type {device.get('parttype')}": (
            device.get("parttype") != facts.arch.root_type
        ),
        "dumpe2fs shows no features": not features,
        "the file system has orphan_file": features and "orphan_file" in features[0],
    }
    return _verdict(problems, f"{mount}\n{device}\n{features and features[0]}")


def _grown(facts: Facts) -> Verdict | None:
    if facts.first is None or not facts.root_partition:
        return None
    mount = _mount(facts.first, "/")
    built = facts.root_partition.size
    wanted = built + ROOM - 16 * MIB  # what alignment and the second GPT may take
    partition = int(_block(facts.first, str(mount.get("source"))).get("size", 0))
    inside = int(mount.get("size") or 0)
    problems = {
        "the root partition did not grow to the disk": partition < wanted,
        # ext4 keeps some percent for its own tables, so 85 % is far from both sizes.
        "the root file system did not grow to its partition": inside < 0.85 * partition,
    }
    evidence = (
        f"partition built with {built // MIB} MiB, disk grown by {ROOM // MIB} MiB, "
        f"partition now {partition // MIB} MiB, file system {inside // MIB} MiB"
    )
    return _verdict(problems, evidence)


def _esp_mounted(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    mount = _mount(facts.first, "/boot/efi")
    missing = ESP_OPTIONS - set(str(mount.get("options", "")).split(","))
    problems = {
        "nothing is mounted at /boot/efi": not mount,
        f"/boot/efi is {mount.get('fstype')}, not vfat": mount and mount["fstype"] != "vfat",
        f"/boot/efi is mounted without {', '.join(sorted(missing))}": mount and missing,
    }
    return _verdict(problems, str(mount))


def _running(answers: Answers | None) -> Verdict | None:
    if answers is None:
        return None
    state, failed = answers["state"].text, answers["failed-units"].text
    units = ", ".join(line.split()[0] for line in failed.splitlines() if line.strip())
    problems = {f"failed units: {units}": units, f"systemd is {state}": state != "running"}
    return _verdict(problems, "\n".join(filter(None, [state, failed])))


def _first_running(facts: Facts) -> Verdict | None:
    return _running(facts.first)


def _second_running(facts: Facts) -> Verdict | None:
    return _running(facts.second)


def _cloud_init(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    result = _json(facts.first["cloud-init"].text).get("v1", {})
    status = _json(facts.first["cloud-init-status"].text).get("v1", {})
    errors = list(result.get("errors", []))
    warnings = {
        stage: found
        for stage, details in status.items()
        if isinstance(details, dict) and (found := details.get("recoverable_errors"))
    }
    problems = {
        "cloud-init did not finish": not result,
        f"cloud-init had errors: {errors}": errors,
        f"cloud-init took its data from {result.get('datasource')}": (
            result and "NoCloud" not in str(result.get("datasource"))
        ),
    }
    return _verdict(problems, f"result: {result}\nrecoverable errors: {warnings or 'none'}")


def _host_keys(facts: Facts) -> Verdict | None:
    if not {"first", "other"} <= facts.host_keys.keys():
        return None
    keys = facts.host_keys
    same = {"two instances have the same SSH host key": keys["first"] == keys["other"]}
    return _verdict(same, f"first: {keys['first']}\nother: {keys['other']}")


def _ssh(facts: Facts) -> Verdict | None:
    if "first" not in facts.host_keys:
        return None
    key = facts.host_keys["first"]
    return _verdict({"sshd showed no ed25519 host key": not key}, key)


def _power_off(facts: Facts) -> Verdict | None:
    if "first" not in facts.power_offs:
        return None
    ends = facts.power_offs
    bad = {boot: end for boot, end in ends.items() if end != "guest-shutdown"}
    return _verdict({f"the guest did not power off by itself: {bad}": bad}, str(ends))


def _second_clean(facts: Facts) -> Verdict | None:
    if facts.second is None:
        return None
    text = facts.second["file-systems"].text
    unclean = [line for line in text.splitlines() if re.search(UNCLEAN, line)]
    problems = {
        f"a file system was not clean: {'; '.join(unclean)}": unclean,
        "the log tells of no ext4 file system that was mounted": "mounted filesystem" not in text,
    }
    return _verdict(problems, text)


def _second_same(facts: Facts) -> Verdict | None:
    if facts.first is None or facts.second is None:
        return None
    first, second = facts.first, facts.second
    keys = [facts.host_keys.get(boot, "") for boot in ("first", "second")]
    ids = [answers["machine-id"].text for answers in (first, second)]
    problems = {
        "the machine ID changed": ids[0] != ids[1],
        "the SSH host key changed": keys[0] != keys[1],
        "this was not another boot": first["boot-id"] == second["boot-id"],
    }
    return _verdict(problems, "\n".join([*ids, *keys]))


def _disk_unchanged(facts: Facts) -> Verdict | None:
    if facts.disk_after is None:
        return None
    changed = facts.disk_before != facts.disk_after
    evidence = f"sha512 before {facts.disk_before}\nsha512 after  {facts.disk_after}"
    return _verdict({"the test wrote to the built image": changed}, evidence)


def _machine_id(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    inside, outside = facts.first["machine-id"].text, facts.machine_id
    problems = {
        "/etc/machine-id of the image cannot be read": outside is None,
        f"the image has the machine ID {(outside or '').strip()!r}, which all would share": outside,
        f"the guest's machine ID is {inside!r}": not re.fullmatch(r"[0-9a-f]{32}", inside),
    }
    return _verdict(problems, f"in the image: {outside!r}\nin the guest: {inside!r}")


def _amazon(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    text = facts.first["os-release"].text
    fields = _fields(text)
    name, version = (fields.get(field, "").strip('"') for field in ("ID", "VERSION_ID"))
    is_other = (name, version) != ("amzn", "2023")
    return _verdict({f"os-release says {name or 'nothing'} {version}": is_other}, text)


def _packages(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    count = len(facts.first["rpm-packages"].text.splitlines())
    lines = facts.first["rpm-missing"].text.splitlines()
    missing = [line for line in lines if not NOT_MISSED.fullmatch(line.split()[-1])]
    problems = {
        # No image works with fewer; a database that rpm cannot read lists none.
        f"rpm knows of {count} packages only": count < 50,
        f"rpm -Va: {len(missing)} files are missing": missing,
    }
    evidence = "\n".join(missing) or f"{count} packages, nothing missing but the kernel's in /boot"
    return _verdict(problems, evidence)


def _repositories(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    text = facts.first["repositories"].text
    lines = text.splitlines()
    urls = [url.strip() for name, mark, url in (line.partition("=") for line in lines) if mark]
    others = [url for url in urls if urlsplit(url).hostname != CDN]
    problems = {
        "dnf repolist names no amazonlinux": not any(
            line.split()[:1] == ["amazonlinux"] for line in lines
        ),
        "no repository has an address": not urls,
        f"a repository is not on Amazon's CDN: {', '.join(others)}": others,
    }
    return _verdict(problems, text)


def _selinux_policy(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    answer = facts.first["selinux-policy"]
    problems = {
        "there is no binary policy of SELinux": "policy/policy." not in answer.text,
        "SELinux's file contexts are not there": answer.status != 0,
    }
    return _verdict(problems, answer.text)


def _presets(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    text = facts.first["unit-files"].text
    rows = [line.split() for line in text.splitlines()]
    units = {row[0]: row[1] for row in rows if len(row) > 1}
    odd = [
        f"{row[0]} is {row[1]}, its preset {row[2]}"
        for row in rows
        if len(row) > 2 and OUR_PRESETS.fullmatch(row[0])
        and {row[1], row[2]} == {"enabled", "disabled"}
    ]  # fmt: skip
    wrong = [
        f"{unit} is {units.get(unit, 'not there')}, not {state}"
        for unit, state in UNIT_STATES.items()
        if units.get(unit) != state
    ]
    wrong += [f"{unit} is enabled" for unit in NOT_ENABLED if units.get(unit) == "enabled"]
    if not any(units.get(unit) == "enabled" for unit in CLOUD_INIT_NETWORK):
        wrong.append(f"neither {' nor '.join(CLOUD_INIT_NETWORK)} is enabled")
    shown = [" ".join(row) for row in rows if row and OUR_PRESETS.fullmatch(row[0])]
    return _verdict({"; ".join([*wrong, *odd]): wrong or odd}, "\n".join(shown))


def _programs(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    text = facts.first["programs"].text
    answers = {line.split(" ")[0]: line.split(" ")[1] for line in text.splitlines() if " " in line}
    wanted = [
        name
        for name, pin in PROGRAMS[facts.distribution].items()
        if not pin or _is_due(facts, pin, THIRD_PARTY)
    ]
    problems = {
        **{f"{name} is not there": name not in answers for name in wanted},
        **{f"{name} ends with status {answers.get(name)}": answers.get(name, "0") != "0"
           for name in wanted},
    }  # fmt: skip
    return _verdict(problems, text or f"{LEFT_OUT} any")


def _is_due(facts: Facts, name: str, pins: str) -> bool:
    """Whether the image has to hold name, which comes with pins: PACKAGES or THIRD_PARTY.

    Of pins that are somebody's own only what was added is known.
    """
    if pins in facts.contents.other_pins:
        return name in facts.contents.held
    return not {name, pins} & facts.contents.left_out


def _rpm_knows(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    listed = set(facts.first["rpm-packages"].text.split())
    wanted = sorted(name.removesuffix(".rpm") for name in facts.contents.rpms)
    missing = [name for name in wanted if name not in listed]
    is_ours = PACKAGES not in facts.contents.left_out | facts.contents.other_pins
    own = [name for name in listed if re.match(r"cloud-init-\d", name) and OURS in name]
    problems = {
        f"rpm does not know {', '.join(missing)}": missing,
        f"rpm knows no cloud-init with {OURS} in its release": is_ours and not own,
    }
    return _verdict(problems, "\n".join(wanted) or f"{LEFT_OUT} any")


def _mounts(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    if facts.distribution == "amazonlinux" and not _is_due(facts, "cloud-init", PACKAGES):
        return Verdict("", f"{LEFT_OUT} our cloud-init, and Amazon Linux's own does not honour it")
    answer = facts.first["mounts-entry"]
    lines = answer.text.splitlines()
    entry = next((line.split() for line in lines if line.startswith(cidata.SHARE_TAG)), [])
    # cloud-init adds a mark of its own to the options.
    options = entry[3].rpartition(",comment=")[0] or entry[3] if len(entry) > 3 else ""
    there = [*entry[:3], options, *entry[4:]]
    mounted = SHARED in lines
    problems = {
        "the entry of mounts: is not in /etc/fstab": not entry,
        f"the entry of mounts: came out as {' '.join(entry)}": entry and there != cidata.MOUNT,
        "the 9p tag of mounts: cannot be mounted": entry and NO_9P not in lines and not mounted,
    }
    return _verdict(problems, answer.text)


def _sshfs(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    is_amazon = facts.distribution == "amazonlinux"
    if is_amazon and not _is_due(facts, "fuse-sshfs", PACKAGES):
        return Verdict("", f"{LEFT_OUT} it")
    is_pinned = is_amazon and PACKAGES not in facts.contents.other_pins
    answer = facts.first["sshfs"]
    version = re.search(r"^SSHFS version (\S+)", answer.text, re.MULTILINE)
    seen = version[1] if version else ""
    problems = {
        "sshfs does not say its version": not seen,
        f"sshfs is {seen}, not {SSHFS}": seen and is_pinned and seen != SSHFS,
    }
    return _verdict(problems, answer.text)


def _credentials(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    answer = facts.first["credentials"]
    needed = ("docker-credential-pass", "pass")
    wanted = facts.distribution == "amazonlinux" and all(
        _is_due(facts, pin, THIRD_PARTY) for pin in needed
    )
    lost = _json(answer.text).get("Secret") != "swordfish"
    return _verdict({"docker-credential-pass keeps no password": wanted and lost}, answer.text)


def _emulators(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    text = facts.first["emulators"].text
    lines = set(text.splitlines())
    missing = [name for name in facts.emulated if f"qemu-{name}:enabled" not in lines]
    flags = [line.split(":", 1) for line in lines if ":flags:" in line]
    loose = [name for name, letters in flags if "F" not in letters.removeprefix("flags:")]
    problems = {
        f"nothing is registered for programs of {', '.join(missing)}": missing,
        f"without flag F, no container has the emulator: {', '.join(loose)}": loose,
    }
    return _verdict(problems, text)


def _foreign_program(facts: Facts) -> Verdict | None:
    if facts.first is None:
        return None
    answer = facts.first["foreign-program"]
    fails = (answer.text, answer.status) != (GREETING, 0)
    problems = {"a static program of another architecture does not run": fails}
    return _verdict(problems, f"{answer.text} (status {answer.status})")


def _boot(name: str) -> Decide:
    return lambda facts: facts.boots.get(name)


RULES = (
    Rule("partitions", "the GPT has an ESP and this architecture's root", _partitions, fatal=True),
    Rule("uki-on-esp", "the UKI on the ESP is the built one, byte for byte", _esp_uki, fatal=True),
    Rule("root-file-system", "root is ext4 without orphan_file", _root_file_system, fatal=True),
    Rule("first-boot", "the first boot comes to its end", _boot("first")),
    Rule("uefi", "booted by UEFI from the UKI on the ESP", _uefi),
    Rule("uki-in-guest", "the guest's ESP holds the built UKI", _guest_uki),
    Rule("kernel-command-line", "the kernel command line is the UKI's", _cmdline),
    Rule("kernel-release", "the running kernel is the UKI's", _kernel),
    Rule("root-mounted", "/ is ext4 without orphan_file on the root partition", _root_mounted),
    Rule("root-grown", "root has grown to the disk it was given", _grown),
    Rule("esp-mounted", "the ESP is at /boot/efi, umask=0077,shortname=winnt", _esp_mounted),
    Rule("system-running", "systemd is running without a failed unit", _first_running),
    Rule("cloud-init", "cloud-init finished without error", _cloud_init),
    Rule("programs", "cosign, docker-credential-pass, gpg and pass run where installed", _programs),
    Rule("credentials", "docker-credential-pass keeps a password", _credentials),
    Rule(
        "mounts",
        "a tag in mounts: is in fstab, and can be mounted if there is 9p",
        _mounts,
    ),
    Rule("sshfs", "sshfs is there, for Lima's reverse-sshfs mounts", _sshfs),
    Rule("sshd", "sshd answers with a host key", _ssh),
    Rule("power-off", "the power button powers it off", _power_off),
    Rule("second-boot", "the second boot comes to its end", _boot("second")),
    Rule("second-boot-clean", "the second boot finds clean file systems", _second_clean),
    Rule("second-boot-running", "systemd is running in the second boot", _second_running),
    Rule("second-boot-same", "machine ID and host key outlast the first boot", _second_same),
    Rule("other-instance", "another instance boots", _boot("other")),
    Rule("host-keys-differ", "two instances have different SSH host keys", _host_keys),
    Rule("emulators", "emulators of foreign programs are registered", _emulators),
    Rule("foreign-program", "a program of another architecture runs", _foreign_program),
    Rule("os-release", "os-release is amzn 2023", _amazon, distribution="amazonlinux"),
    Rule(
        "packages",
        "rpm -Va misses no file but the kernel's in /boot",
        _packages,
        distribution="amazonlinux",
    ),
    Rule("rpm-knows", "rpm knows what was added", _rpm_knows, distribution="amazonlinux"),
    Rule(
        "repositories", "dnf's repositories are Amazon's", _repositories, distribution="amazonlinux"
    ),
    Rule("selinux-policy", "SELinux has a policy", _selinux_policy, distribution="amazonlinux"),
    Rule("presets", "the presets took effect", _presets, distribution="amazonlinux"),
    Rule(
        "machine-id", "the machine ID is of the instance", _machine_id, distribution="amazonlinux"
    ),
    Rule("image-unchanged", "the built image was not written to", _disk_unchanged),
)


def check(rule: Rule, facts: Facts) -> Check:
    """The outcome of a rule."""
    verdict = rule.decide(facts)
    if verdict is None:
        return Check(rule.name, rule.title, Status.SKIPPED)
    status = Status.FAILED if verdict.reason else Status.PASSED
    return Check(rule.name, rule.title, status, plain(verdict.evidence), plain(verdict.reason))


def check_all(facts: Facts) -> list[Check]:
    """The outcome of every rule that is for the image's distribution."""
    return [check(rule, facts) for rule in RULES if rule.distribution in ("", facts.distribution)]


def fatal(facts: Facts) -> bool:
    """Whether a check failed without which the disk cannot boot."""
    return any(check(rule, facts).status is Status.FAILED for rule in RULES if rule.fatal)
