from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from scripts.description import provenance, report, sbom
from scripts.description.inventory import Installed, System
from scripts.origin import Builder, Checkout
from scripts.stages import artifacts
from scripts.stages.artifacts import Artifact
from scripts.system.errors import HarnessError
from tests import builds

RESULT: dict[str, Any] = {
    "passed": True,
    "reason": "",
    "checks": [
        {"name": "sshd", "title": "sshd answers", "status": "passed", "evidence": "a key",
         "reason": ""},
    ],
    "accelerator": "tcg",
    "accelerator_reason": "there is no /dev/kvm",
    "qemu": "10.0",
    "seconds": 61.2,
    "note": "",
    "console_tail": "login:",
    "guest": {"os": "Debian", "kernel": "6.12"},
    "timings": {"first: firmware": 2.0, "first: sshd": 40.0, "second: sshd": 20.0},
}  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of a page: its text, and what it would fetch for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A build that has not been booted."""
    (tmp_path / "os-image.raw").write_bytes(b"raw" * 1000)
    manifest = builds.write_manifest(tmp_path, {"base": {"bash": "5.2"}}, "os-image.raw")
    system = System("debian", "13", "Debian")
    packages = [
        Installed("deb", "bash", "5.2", "amd64", "bash", ("GPL-3.0-or-later",), size=7000),
        Installed("deb", "linux", "6.12", "amd64", "linux", ("GPL-2.0-only",)),
    ]
    raw = Artifact.of(tmp_path, "os-image.raw")
    image = sbom.Image("os-image", "x86_64", system, [raw], packages)
    other = sbom.Image("wsl-rootfs", "x86_64", system, [raw], packages[:1])
    (tmp_path / artifacts.SBOM).write_text(sbom.to_json(image, other))
    source = Checkout("c0ffee" * 6 + "c0ff", ("README.md",))
    (tmp_path / artifacts.PROVENANCE).write_text(
        provenance.to_json([raw], manifest, {}, {}, builds.PIN, source, Builder(), made=0)
    )
    return tmp_path


def booted(out: Path, **changes: Any) -> None:
    _write_result(out / artifacts.BOOT_TEST, out, changes)


def write_contract(out: Path, **changes: Any) -> None:
    _write_result(out / artifacts.CONTRACT, out, changes)


def _write_result(path: Path, out: Path, changes: dict[str, Any]) -> None:
    disk = Artifact.of(out, "os-image.raw").sha512
    path.parent.mkdir()
    path.write_text(json.dumps(RESULT | {"disk": disk} | changes))


def page(out: Path) -> Page:
    report.write(out)
    return Page((out / artifacts.REPORT).read_text())


def test_the_page_tells_what_was_built_from_what_and_how_long_it_took(out: Path) -> None:
    text = page(out).text

    assert "debian trixie for x86_64" in text
    assert "built 1970-01-01 00:00 UTC from commit c0ffeec0ffee with 1 changed file" in text
    assert "os-image.raw" in text
    assert "3.0 kB" in text
    assert "1.5" in text
    assert "not boot-tested" in text


def test_packages_are_shown_with_licences_and_the_images_that_hold_them(out: Path) -> None:
    rows = page(out).text.partition("2 packages in all images, 7.0 kB installed")[2]
    bash, _, linux = rows.partition("linux")

    for part in ("5.2", "7.0 kB", "GPL-3.0-or-later", "all images"):
        assert part in bash
    for part in ("6.12", "GPL-2.0-only", "os-image"):
        assert part in linux


def test_the_page_needs_nothing_but_itself(out: Path) -> None:
    booted(out)
    (out / "boot-test/boot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    fetched = page(out).fetched

    assert len(fetched) == 1
    assert fetched[0].startswith("data:image/svg+xml;base64,")


def test_a_boot_is_shown_with_its_checks_and_milestones(out: Path) -> None:
    booted(out)
    text = " ".join(page(out).text.split())

    assert "boots: 1 checks passed" in text
    assert "sshd answers" in text
    assert "firmware 2.0, sshd 40.0" in text
    assert "rebuilt since the boot test" not in text


def test_milestones_are_laid_out_along_the_longest_boot() -> None:
    first, second = report._timeline(RESULT["timings"])

    assert [(mark["left"], mark["width"]) for mark in first["marks"]] == [(0, 5), (5, 95)]
    assert [(mark["left"], mark["width"]) for mark in second["marks"]] == [(0, 50)]


def test_a_failure_is_shown_with_its_reason_and_the_last_words(out: Path) -> None:
    failed = {"name": "x", "title": "it boots", "status": "failed", "evidence": "Oops",
              "reason": "it panicked"}  # fmt: skip
    booted(out, passed=False, reason="it panicked", checks=[failed])
    text = page(out).text

    assert "boot test failed: it panicked" in text
    assert "login:" in text


def test_the_contract_is_shown_beside_the_boot(out: Path) -> None:
    left_out = {"name": "a.xfs", "title": "xfs is mounted (Lima)", "status": "not applicable",
                "evidence": "", "reason": "the image has no mkfs.xfs"}  # fmt: skip
    write_contract(out, checks=[*RESULT["checks"], left_out], note="nothing was tried but a")
    text = " ".join(page(out).text.split())

    assert "2 demands, and all that apply are met" in text
    assert "the image has no mkfs.xfs" in text
    assert "Note: nothing was tried but a." in text
    assert "not boot-tested" in text


def test_a_broken_contract_is_shown_with_its_reason(out: Path) -> None:
    write_contract(out, passed=False, reason="no mount")

    assert "no mount" in page(out).text


def test_a_boot_of_an_older_image_says_so(out: Path) -> None:
    booted(out, disk="0" * 128)

    assert "rebuilt since the boot test" in page(out).text


def test_what_the_guest_said_is_no_markup(out: Path) -> None:
    evil = "<script>alert(1)</script>"
    booted(out, guest={"os": evil, "kernel": evil, "blame": evil}, console_tail=evil)
    shown = page(out)

    assert evil in shown.text
    assert shown.tags.count("script") == 1


def test_without_a_build_there_is_no_report(tmp_path: Path) -> None:
    report.write(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_without_a_manifest_that_can_be_read_there_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"distribution": "debian"}')
    report.write(tmp_path)

    assert not (tmp_path / artifacts.REPORT).exists()


def test_what_a_guest_says_does_nothing_in_the_page(out: Path) -> None:
    hostile = "\x1b[2J<script>alert(1)</script>\u202e\n::error::x"
    check = {**RESULT["checks"][0], "status": "failed", "evidence": hostile, "reason": hostile}
    result = {**RESULT, "passed": False, "checks": [check], "console_tail": hostile}
    plot = f"<svg xmlns='http://www.w3.org/2000/svg'>{hostile}<script>1</script></svg>"
    (out / "boot-test").mkdir()
    (out / artifacts.BOOT_TEST).write_text(json.dumps(result))
    (out / "boot-test/boot.svg").write_text(plot)
    report.write(out)

    text = (out / artifacts.REPORT).read_text()
    assert text.count("<script") == 1
    assert not {"\x1b", "\u202e"} & {*text}
    assert r"\x1b[2J&lt;script&gt;alert(1)" in text
    assert r"\x3a:error::x" in text
    [plot] = re.findall(r"base64,([^\"]+)", text)
    assert b"script" not in base64.b64decode(plot)


def test_the_page_may_run_its_own_script_and_load_nothing(out: Path) -> None:
    report.write(out)
    text = (out / artifacts.REPORT).read_text()
    [script] = re.findall(r"<script>(.*)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = re.findall(r'Security-Policy" content="([^"]+)"', text)
    allowed = html.unescape(policy).split("; ")
    assert allowed[0] == "default-src 'none'"
    assert allowed[-1] == f"script-src 'sha256-{digest}'"


@pytest.mark.parametrize("name", [artifacts.SBOM, artifacts.PROVENANCE])
def test_a_damaged_description_is_named_instead_of_a_traceback(out: Path, name: str) -> None:
    (out / name).write_text('{"components": 1, "predicate": []}')
    with pytest.raises(HarnessError, match="one of them is damaged"):
        report.write(out)
