"""The results of a boot test, and the reports that are written of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from scripts.system.text import json_text, paragraph


class Status(StrEnum):
    """The outcome of a check.

    It is skipped if the test ended before it, and not applicable if the image, for a reason that is
    given, need not meet it.
    """

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "not applicable"


# The outcomes of checks that were not made, and the reason of those that give none.
NOT_MADE = (Status.SKIPPED, Status.NOT_APPLICABLE)
ENDED = "the test ended before this check"


@dataclass(frozen=True)
class Check:
    """A check that was made: the evidence in one or more lines, and the reason if it failed."""

    name: str
    title: str
    status: Status
    evidence: str = ""
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the check was made and held."""
        return self.status is Status.PASSED


@dataclass(frozen=True)
class Result:
    """The outcome of a boot test.

    seconds is the wall time of the whole test; timings are the seconds from QEMU's start to each
    milestone of a boot, such as "first: login". note is a remark such as "passed on the second
    boot", and disk the SHA-512 of the booted image. console_tail holds the last console lines of
    the boot that failed, or of the first boot. guest holds answers that describe the guest, such
    as its kernel. logs is the folder of console.log and the other files.
    """

    distribution: str
    arch: str
    checks: Sequence[Check]
    accelerator: str
    accelerator_reason: str
    qemu: str
    seconds: float
    note: str = ""
    disk: str = ""
    console_tail: str = ""
    guest: Mapping[str, str] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    logs: Path = Path()

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status is Status.FAILED)

    @property
    def passed(self) -> bool:
        """Whether there were checks, and all that apply passed."""
        statuses = {check.status for check in self.checks}
        return Status.PASSED in statuses and statuses <= {Status.PASSED, Status.NOT_APPLICABLE}

    @property
    def reason(self) -> str:
        """The reason of the first check that failed, else of the first that was skipped, or ""."""
        skipped = (check for check in self.checks if check.status is Status.SKIPPED)
        return next((check.reason for check in (*self.failures, *skipped)), "")


def to_json(result: Result) -> str:
    """The text of result.json: all fields of the result, the verdict and its reason."""
    data: dict[str, Any] = {"passed": result.passed, "reason": result.reason, **asdict(result)}
    data["logs"] = str(result.logs)
    return json_text(data)


def to_junit(result: Result) -> str:
    """The text of junit.xml: a test case for each check, with its evidence in system-out."""
    statuses = [check.status for check in result.checks]
    suite = ET.Element(
        "testsuite",
        name=f"boot-test.{result.distribution}.{result.arch}",
        tests=str(len(statuses)),
        failures=str(statuses.count(Status.FAILED)),
        skipped=str(sum(statuses.count(status) for status in NOT_MADE)),
        errors="0",
        time=f"{result.seconds:.1f}",
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(result).items():
        ET.SubElement(properties, "property", name=paragraph(name), value=paragraph(value))
    for check in result.checks:
        _add_case(suite, check)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _properties(result: Result) -> dict[str, str]:
    return {
        "accelerator": result.accelerator,
        "accelerator_reason": result.accelerator_reason,
        "qemu": result.qemu,
        "note": result.note,
        **result.guest,
        **{f"seconds {name}": f"{value:.1f}" for name, value in result.timings.items()},
    }


def _add_case(suite: ET.Element, check: Check) -> None:
    case = ET.SubElement(suite, "testcase", name=check.name, classname=suite.get("name", ""))
    if check.status is Status.FAILED:
        failure = ET.SubElement(case, "failure", message=paragraph(check.reason))
        failure.text = paragraph(check.evidence)
    elif check.status in NOT_MADE:
        ET.SubElement(case, "skipped", message=paragraph(check.reason or ENDED))
    out = ET.SubElement(case, "system-out")
    out.text = paragraph("\n".join(filter(None, [check.title, check.evidence])))
