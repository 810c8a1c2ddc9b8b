"""The check of the built image after all boots."""

from __future__ import annotations

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.facts import Facts, Verdict


@check("image-unchanged", "the test did not write to the built image", needs=["disk_after"])
def image_unchanged(facts: Facts, after: str) -> Verdict:
    """What is published is what was built and tested."""
    evidence = f"sha512 before {facts.disk_before}\nsha512 after  {after}"
    return failed_if({"the test wrote to the built image": facts.disk_before != after}, evidence)
