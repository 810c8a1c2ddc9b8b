"""The check of how the guest asks for its addresses."""

from __future__ import annotations

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers

# The hardware type of a client identifier that is an Ethernet address (RFC 2132, 9.14).
ETHERNET = "01"


@check(
    "dhcp-by-mac",
    "every card asks for its address by its MAC address",
    needs=["first"],
    probes=["dhcp"],
)
def dhcp_by_mac(_facts: Facts, first: Answers) -> Verdict:
    """Lima finds a guest by its MAC address in macOS' list of leases (lima-vm/lima#3123)."""
    text = first["dhcp"].text
    rows = [(*line.split(), "")[:3] for line in text.splitlines()]
    others = [
        f"{card} is known as {identifier or 'nothing'}"
        for card, address, identifier in rows
        if identifier.lower() != ETHERNET + address.replace(":", "")
    ]
    problems = {"no card has a lease": not rows, "; ".join(others): others}
    return failed_if(problems, text)
