"""The check of where images of Debian's family get packages from."""

from __future__ import annotations

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers
from scripts.distributions.debian import ROLLING

# What apt calls an index of binary packages.
INDEX = "Packages"


@check(
    "apt-sources",
    "apt-get update fetches the indexes of the release's packages, its updates and security fixes",
    needs=["first"],
    probes=["apt-sources"],
    packages="deb",
)
def apt_sources(_facts: Facts, first: Answers) -> Verdict:
    """Source packages, debug symbols and translations are for those who ask for them."""
    text = first["apt-sources"].text
    release, *lines = text.splitlines() or [""]
    suites = [release] if release in ROLLING else [
        release, f"{release}-security", f"{release}-updates",
    ]  # fmt: skip
    wanted = {f"{INDEX} {suite}" for suite in suites}
    more, missing = sorted({*lines} - wanted), sorted(wanted - {*lines})
    problems = {
        f"apt also fetches {', '.join(more)}": more,
        f"apt does not fetch {', '.join(missing)}": missing,
    }
    return failed_if(problems, text)
