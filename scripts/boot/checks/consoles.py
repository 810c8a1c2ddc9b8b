"""Checks of the guest's consoles."""

from __future__ import annotations

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.checks.text import assignments
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers

# The console of a machine without a UART, such as those of macOS' Virtualization framework (vz).
VIRTIO = "hvc0"


@check(
    "consoles",
    "systemd writes to the UART, without one to the virtio console, and serial logins stay up",
    needs=["first"],
    probes=["cmdline", "consoles"],
)
def consoles(facts: Facts, first: Answers) -> Verdict:
    """The test's machine has a UART only; the command line tells what another machine would use."""
    wanted = [VIRTIO, facts.arch.console]
    words = first["cmdline"].text.split()
    asked = [word.removeprefix("console=") for word in words if word.startswith("console=")]
    text = first["consoles"].text
    head, *rows = text.splitlines() or [""]
    active = head.removeprefix("active:").split()
    logins = [assignments(row.replace(" ", "\n")) for row in rows]
    down = [
        row
        for row, login in zip(rows, logins, strict=True)
        if (login.get("ActiveState"), login.get("NRestarts")) != ("active", "0")
    ]
    units = {login.get("Id") for login in logins}
    problems = {
        f"the kernel is told to use {', '.join(asked) or 'no console'}, not {', '.join(wanted)}":
            asked != wanted,
        f"/dev/console is {active[-1] if active else 'nothing'}": active[-1:] != wanted[-1:],
        f"nobody can log in at {wanted[-1]}": f"serial-getty@{wanted[-1]}.service" not in units,
        f"a serial login does not stay up: {'; '.join(down)}": down,
    }  # fmt: skip
    return failed_if(problems, text)
