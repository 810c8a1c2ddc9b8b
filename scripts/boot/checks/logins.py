"""Checks that SSH with a key is the only way to log in to the guest."""

from __future__ import annotations

import re
from collections.abc import Mapping

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers
from scripts.boot.ssh import WITHOUT_KEY

# ssh's message when sshd refuses a login; the methods that sshd would accept are in brackets.
REFUSAL = re.compile(r"Permission denied \(([a-z0-9,@.-]+)\)")

# The only method that an image accepts.
BY_KEY = "publickey"

# Lines that `sshd -T` must print; it prints sshd's configuration with all defaults.
CONFIGURATION = {
    "kbdinteractiveauthentication": "no",
    "passwordauthentication": "no",
    "permitemptypasswords": "no",
    "pubkeyauthentication": "yes",
    "x11forwarding": "no",
}


@check("ssh-needs-a-key", "sshd refuses to log anyone in without a key", needs=["refusals"])
def ssh_needs_a_key(_facts: Facts, refusals: Mapping[str, str]) -> Verdict:
    """Each attempt to log in by password is refused, and sshd offers no way but a key."""
    offered = {method: REFUSAL.search(refusals.get(method, "")) for method in WITHOUT_KEY}
    odd = [f"{method}: {refusals.get(method)!r}" for method, found in offered.items() if not found]
    others = sorted({
        name for found in offered.values() if found for name in found[1].split(",")
    } - {BY_KEY})  # fmt: skip
    problems = {
        f"sshd did not refuse a login: {'; '.join(odd)}": odd,
        f"sshd also accepts logins by {', '.join(others)}": others,
    }
    return failed_if(problems, "\n".join(f"{name}: {text}" for name, text in refusals.items()))


@check(
    "sshd-configuration",
    "sshd accepts keys only and does not forward X11",
    needs=["first"],
    probes=["sshd-configuration"],
)
def sshd_configuration(_facts: Facts, first: Answers) -> Verdict:
    """Our drop-in in sshd_config.d is read, and before any other."""
    text = first["sshd-configuration"].text
    lines = (line.partition(" ") for line in text.splitlines())
    said = {name.lower(): value.strip() for name, _, value in lines}
    wrong = [
        f"{name} is {said.get(name, 'not known')}, not {value}"
        for name, value in CONFIGURATION.items()
        if said.get(name) != value
    ]
    return failed_if({"; ".join(wrong): wrong}, text)
