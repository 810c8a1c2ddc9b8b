"""result.json and junit.xml, parsed back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

from scripts.boot.results import Check, Result, Status, to_json, to_junit


def result(*checks: Check) -> Result:
    return Result(
        distribution="debian",
        arch="x86_64",
        checks=checks,
        accelerator="tcg",
        accelerator_reason="there is no /dev/kvm",
        qemu="10.0.13",
        seconds=221.1,
        guest={"kernel": "6.12"},
        timings={"first: login": 86.4},
        logs=Path("out/debian/x86_64/boot-test"),
    )


GOOD = Check("uefi", "booted by UEFI", Status.PASSED, "StubInfo=systemd-stub")
BAD = Check("sshd", "sshd answers", Status.FAILED, "<console> & more", "sshd is disabled")
SKIPPED = Check("power-off", "it powers off", Status.SKIPPED)


def test_a_result_passes_only_if_every_check_was_made_and_held() -> None:
    assert result(GOOD).passed
    assert not result(GOOD, BAD).passed
    assert not result(GOOD, SKIPPED).passed
    assert not result().passed


def test_the_reason_is_that_of_the_first_failed_check() -> None:
    assert result(GOOD, BAD).reason == "sshd is disabled"
    assert result(GOOD).reason == ""


def test_the_json_holds_verdict_checks_and_circumstances() -> None:
    data = json.loads(to_json(result(GOOD, BAD)))
    assert data["passed"] is False
    assert data["reason"] == "sshd is disabled"
    assert data["accelerator_reason"] == "there is no /dev/kvm"
    assert [check["status"] for check in data["checks"]] == ["passed", "failed"]
    assert data["timings"] == {"first: login": 86.4}


def test_the_junit_report_has_a_test_case_for_each_check() -> None:
    suite = ET.fromstring(to_junit(result(GOOD, BAD, SKIPPED)))
    assert suite.attrib["tests"] == "3"
    assert suite.attrib["failures"] == "1"
    assert suite.attrib["skipped"] == "1"
    cases = {case.attrib["name"]: case for case in suite.iter("testcase")}
    assert cases["uefi"].find("failure") is None
    failure = cases["sshd"].find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "sshd is disabled"
    assert failure.text == "<console> & more"
    assert cases["power-off"].find("skipped") is not None


def test_the_junit_report_names_the_accelerator_and_why() -> None:
    suite = ET.fromstring(to_junit(result(GOOD)))
    properties = {p.attrib["name"]: p.attrib["value"] for p in suite.iter("property")}
    assert properties["accelerator"] == "tcg"
    assert properties["accelerator_reason"] == "there is no /dev/kvm"
    assert properties["seconds first: login"] == "86.4"


def test_a_journal_with_noncharacters_leaves_both_reports_readable() -> None:
    hostile = "a\ufffeb\x00\x1b[2J\udc9b]]>\u2028\n::error::x"
    check = Check("sshd", "sshd answers", Status.FAILED, hostile, hostile)
    said = replace(result(check), note=hostile, guest={hostile: hostile}, console_tail=hostile)

    suite = ET.fromstring(to_junit(said).encode())
    [failure] = suite.iter("failure")
    assert failure.text == r"a\ufffeb\x00\x1b[2J\udc9b]]>\u2028" + "\n" + r"\x3a:error::x"
    assert json.loads(to_json(said).encode())["console_tail"] == hostile
    assert to_json(said).replace("\n", "").isprintable()
