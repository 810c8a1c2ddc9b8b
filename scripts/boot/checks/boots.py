"""Checks across boots: reaching the guest, switching it off, booting again, another instance."""

from __future__ import annotations

import re

from scripts.boot.checks import services
from scripts.boot.checks.rule import check, failed_if
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers

# Lines of the log that show that a file system was not left clean.
UNCLEAN = (
    r"recovery (complete|required)|orphan cleanup|recovering journal|with errors|Dirty bit is set"
    r"|not (properly|cleanly) unmounted|clearing orphaned|file system was modified"
)

# The answer to the probe `instance`.
MARKS = re.compile(r"now (\d{1,6})\nearlier (\d{1,6})", re.ASCII)

ED25519_KEY = "/etc/ssh/ssh_host_ed25519_key"


@check("sshd", "sshd presents a host key", needs=["host_keys.first"])
def sshd(_facts: Facts, key: str) -> Verdict:
    """The key is made at the first boot, since images carry none."""
    return failed_if({"sshd presented no ed25519 host key": not key}, key)


@check(
    "host-keys",
    "sshd gets host keys though cloud-init makes none",
    needs=["first"],
    probes=["host-keys"],
)
def host_keys(_facts: Facts, first: Answers) -> Verdict:
    """With cloud-init switched off, sshd would not start without any."""
    text = first["host-keys"].text
    made = ED25519_KEY in text.splitlines()
    return failed_if({f"no unit made an ed25519 host key: {text}": not made}, text)


@check("power-off", "the power button powers the guest off", needs=["power_offs.first"])
def power_off(facts: Facts, _first: str) -> Verdict:
    """QEMU sees the guest switch itself off, in every boot that was switched off."""
    ends = facts.power_offs
    bad = {boot: end for boot, end in ends.items() if end != "guest-shutdown"}
    return failed_if({f"the guest did not power off by itself: {bad}": bad}, str(ends))


@check("second-boot", "the second boot completes", needs=["boots.second"])
def second_boot(_facts: Facts, boot: Verdict) -> Verdict:
    """The guest boots again from the disk that its first boot left."""
    return boot


@check(
    "second-boot-clean",
    "the second boot finds clean file systems",
    needs=["second"],
    probes=["file-systems"],
)
def second_boot_clean(_facts: Facts, second: Answers) -> Verdict:
    """The first boot's power-off unmounted every file system."""
    text = second["file-systems"].text
    unclean = [line for line in text.splitlines() if re.search(UNCLEAN, line)]
    problems = {
        f"a file system was not clean: {'; '.join(unclean)}": unclean,
        "the log mentions no ext4 file system that was mounted": "mounted filesystem" not in text,
    }
    return failed_if(problems, text)


@check(
    "second-boot-running",
    "systemd is running and no unit has failed in the second boot",
    needs=["second"],
    probes=["state", "failed-units"],
)
def second_boot_running(_facts: Facts, second: Answers) -> Verdict:
    """Units also start where the first boot's work is already done."""
    return services.running(second)


@check(
    "second-boot-same",
    "machine ID and host key survive a reboot",
    needs=["first", "second"],
    probes=["machine-id", "boot-id"],
)
def second_boot_same(facts: Facts, first: Answers, second: Answers) -> Verdict:
    """What the first boot made for this instance is kept."""
    keys = [facts.host_keys.get(boot, "") for boot in ("first", "second")]
    ids = [answers["machine-id"].text for answers in (first, second)]
    problems = {
        "the machine ID changed": ids[0] != ids[1],
        "the SSH host key changed": keys[0] != keys[1],
        "the guest did not boot again": first["boot-id"] == second["boot-id"],
    }
    return failed_if(problems, "\n".join([*ids, *keys]))


@check(
    "first-boot-once",
    "cloud-init sets the instance up in the first boot, and not again",
    needs=["first", "second"],
    probes=["instance"],
)
def first_boot_once(_facts: Facts, first: Answers, second: Answers) -> Verdict:
    """Users, keys and mounts are made once: a later boot must not undo what was changed since."""
    texts = [answers["instance"].text for answers in (first, second)]
    (now, earlier), (again, kept) = map(_marks, texts)
    problems = {
        "cloud-init did nothing in the first boot that it does once per instance": not now,
        "cloud-init took the image for an instance that had been set up before": earlier,
        "cloud-init set the instance up again in the second boot": again,
        "the second boot knows nothing of the first": not kept,
    }
    return failed_if(problems, "\n".join(texts))


def _marks(text: str) -> tuple[int, int]:
    """Return how many of cloud-init's marks are of this boot, and how many of earlier ones."""
    found = MARKS.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@check("other-instance", "another instance boots", needs=["boots.other"])
def other_instance(_facts: Facts, boot: Verdict) -> Verdict:
    """A second guest, with a disk of its own, boots from the same image."""
    return boot


@check(
    "host-keys-differ",
    "two instances have different SSH host keys",
    needs=["host_keys.first", "host_keys.other"],
)
def host_keys_differ(_facts: Facts, first: str, other: str) -> Verdict:
    """A key that is part of the image would let one guest pose as another."""
    problems = {"two instances have the same SSH host key": first == other}
    return failed_if(problems, f"first: {first}\nother: {other}")
