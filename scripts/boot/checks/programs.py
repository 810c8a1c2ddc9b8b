"""Checks of programs that Finch and Lima use in the guest: for passwords and for mounts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from scripts.boot import cidata, needs
from scripts.boot.checks.needs import LEFT_OUT, why_not_needed
from scripts.boot.checks.rule import check, failed_if
from scripts.boot.checks.text import json_object
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers

# What the credentials probe stores a password with.
CREDENTIAL_PROGRAMS = {"docker-credential-pass", "gpg", "pass"}

# What the mounts-entry probe says of a guest that cannot mount 9p.
NO_9P = "the kernel has no 9p"

# 3.7.6 broke `nerdctl cp --follow-link`, so RPM images get this one: ours, built from Fedora's
# source, or SPAL's.
SSHFS = "3.7.3"


@check(
    "credentials",
    "docker-credential-pass stores a password and returns it",
    needs=["first"],
    probes=["credentials"],
)
def credentials(facts: Facts, first: Answers) -> Verdict:
    """The probe sends a password through docker-credential-pass, pass and gpg, and back."""
    text = first["credentials"].text
    used = [need for need in needs.table()["programs"] if need.name in CREDENTIAL_PROGRAMS]
    is_wanted = not any(why_not_needed(need, facts) for need in used)
    is_lost = json_object(text).get("Secret") != "swordfish"
    return failed_if(
        {"docker-credential-pass did not keep a password": is_wanted and is_lost}, text
    )


@check(
    "mounts",
    "an entry of cloud-init's mounts: is in fstab and, if the kernel has 9p, can be mounted",
    needs=["first"],
    probes=["mounts-entry"],
)
def mounts(facts: Facts, first: Answers) -> Verdict:
    """Lima passes the host's folders to the guest this way."""
    if facts.distribution.has_rpms and not facts.must_hold_package("cloud-init"):
        return Verdict("", f"{LEFT_OUT} our cloud-init; Amazon Linux's own ignores mounts:")
    text = first["mounts-entry"].text
    lines = text.splitlines()
    entry = next((line.split() for line in lines if line.startswith(cidata.SHARE_TAG)), [])
    is_mountable = NO_9P in lines or cidata.SHARED in lines
    problems = {
        "the entry of mounts: is not in /etc/fstab": not entry,
        f"the entry of mounts: came out as {' '.join(entry)}": (
            entry and _without_comment(entry) != cidata.MOUNT
        ),
        "the 9p tag of mounts: cannot be mounted": entry and not is_mountable,
    }
    return failed_if(problems, text)


def _without_comment(entry: Sequence[str]) -> list[str]:
    """The fields of an fstab entry without the comment that cloud-init appends to its options."""
    if len(entry) < 4:
        return list(entry)
    options = entry[3].rpartition(",comment=")[0] or entry[3]
    return [*entry[:3], options, *entry[4:]]


@check(
    "sshfs",
    "sshfs is installed, for Lima's reverse-sshfs mounts",
    needs=["first"],
    probes=["sshfs"],
)
def sshfs(facts: Facts, first: Answers) -> Verdict:
    """Lima waits for sshfs in the guest. RPM images carry one version, built by us or SPAL."""
    has_ours = facts.distribution.has_rpms
    if has_ours and not facts.must_hold_package("fuse-sshfs"):
        return Verdict("", f"{LEFT_OUT} it")
    text = first["sshfs"].text
    version = re.search(r"^SSHFS version (\S+)", text, re.MULTILINE)
    seen = version[1] if version else ""
    is_pinned = has_ours and not facts.has_other_packages
    problems = {
        "sshfs does not say its version": not seen,
        f"sshfs is {seen}, not {SSHFS}": seen and is_pinned and seen != SSHFS,
    }
    return failed_if(problems, text)
