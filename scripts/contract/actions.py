"""What the host does to a guest in the course of a scenario, by the name that a step gives.

An action takes the guest and the step's further keys, returns its evidence, and raises StepFailure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scripts.contract.guest import Guest


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


ACTIONS: Mapping[str, Callable[..., str]] = {
    "boot": boot,
    "power-off": power_off,
    "reboot": reboot,
}
