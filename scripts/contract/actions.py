"""What the host does to a guest in the course of a scenario, by the name that a step gives.

An action takes the guest and the step's further keys, returns its evidence, and raises StepFailure.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

from scripts.boot import ssh
from scripts.contract.guest import Guest, StepFailure
from scripts.contract.services import ReverseSshfs, Shares


def boot(guest: Guest, **settings: object) -> str:
    """Switch the guest on; settings replace those of the scenario's seed."""
    return f"sshd after {guest.boot(**settings):.1f} s"


def power_off(guest: Guest, *, within: float = 90.0) -> str:
    """Press the power button; the guest must be off within so many seconds."""
    return f"off after {guest.power_off(within):.1f} s"


def reboot(guest: Guest) -> str:
    """Let the guest reboot itself."""
    guest.ssh("systemctl reboot")
    reason = guest.off()
    return f"{reason}; {boot(guest)}"


def reverse_sshfs(guest: Guest, *, tag: str, point: str, within: float = 60.0) -> str:
    """Mount the folder with tag (services.py) at point, as the user, through an SSH session.

    Lima does so when the guest has sshfs and lets a user mount for others.
    """
    shares = guest.controls["sftp"]
    assert isinstance(shares, ReverseSshfs)

    def login(remote: str) -> list[str]:
        """The command that runs remote in the guest."""
        key, port = guest.key.private, guest.machine.port
        return guest.tools.command(
            ssh.command(key, port, remote, guest.seed.user), read=[key], network=True
        )

    mounting = shares.mount(login, tag, point)
    look = f"findmnt -n -o FSTYPE,SOURCE,OPTIONS --mountpoint {shlex.quote(point)}"
    watch, end = guest.watch, guest.watch.seconds + within
    while (found := guest.ssh(look)).status:
        if failure := mounting.failure():
            raise StepFailure(f"{point} cannot be mounted: {failure}")
        if watch.seconds > end:
            raise StepFailure(f"{point} is not mounted after {within:.0f} s")
    return found.text


def read_shared(guest: Guest, *, service: str, tag: str, path: str, text: str) -> str:
    """Compare a file in a shared folder, as the host sees it, with text."""
    shares = guest.controls[service]
    assert isinstance(shares, Shares)
    file = shares.folders[tag] / path
    if not file.is_file():
        raise StepFailure(f"the host does not see {path}, which the guest has written")
    if (found := file.read_text(errors="replace")) != text:
        raise StepFailure(f"the host reads something else in {path}", found)
    return found


ACTIONS: Mapping[str, Callable[..., str]] = {
    "boot": boot,
    "power-off": power_off,
    "read-shared": read_shared,
    "reboot": reboot,
    "reverse-sshfs": reverse_sshfs,
}
