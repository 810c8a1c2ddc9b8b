"""The check of what keeps the guest's clock right."""

from __future__ import annotations

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers

# chronyd's service in either packages' names. Debian's chronyd-restricted can do less.
SERVICES = {"deb": "chrony.service", "rpm": "chronyd.service"}


@check(
    "clock",
    "chronyd alone keeps the clock, knows a time server, steps the clock at any time and restarts",
    needs=["first"],
    probes=["clock"],
)
def clock(facts: Facts, first: Answers) -> Verdict:
    """A host that slept for hours is followed in one step (chrony.conf(5), makestep)."""
    text = first["clock"].text
    rows = [line.split() for line in text.splitlines()]
    active = [row[1] for row in rows if row[:1] == ["active"]]
    step = next((row for row in rows if row[:1] == ["makestep"]), [])
    wanted = SERVICES[facts.distribution.package_format]
    failed = [line for line in text.splitlines() if line.endswith("failed")]
    problems = {
        f"the clock is kept by {', '.join(active) or 'nothing'}, not {wanted}": active != [wanted],
        "chronyd knows no time server": ["sources", "0"] in rows
        or "sources" not in {row[0] for row in rows if row},
        f"chronyd does not step the clock at any time: {' '.join(step) or 'no makestep'}": (
            step[2:] != ["-1"]
        ),
        f"{wanted}: {'; '.join(failed)}": failed,
    }
    return failed_if(problems, text)
