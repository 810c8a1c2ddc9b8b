"""The boot-test session around a boot test that is played."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts import arch
from scripts.boot import Check, Result, Subject
from scripts.boot.results import Status
from scripts.mkosi.sandbox import Tools
from scripts.sessions import boot_test, build
from scripts.stages import artifacts
from scripts.system.errors import HarnessError, UsageError
from tests.unit.sessions.conftest import Site

PASSED = Check("login", "a user can log in", Status.PASSED)
FAILED = Check("network", "it has an address", Status.FAILED, "lo only", "no [address] came")
SKIPPED = Check("reboot", "it comes up again", Status.SKIPPED)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Subject]]:
    """Lets the boot test come to the checks given, and returns what it is called with."""

    def play(*checks: Check, **more: Any) -> list[Subject]:
        subjects: list[Subject] = []
        result = Result(
            "debian", arch.native().name, checks, "tcg", "no /dev/kvm", "QEMU 10", 61.4,
            logs=tmp_path,
        )  # fmt: skip

        def fake(subject: Subject, tools: Tools, *_: object, **__: object) -> Result:
            assert (tools.tree / "usr").is_dir()
            subjects.append(subject)
            return replace(result, **more)

        monkeypatch.setattr(boot_test, "boot_test", fake)
        return subjects

    return play


def test_what_passed_is_shown_check_by_check(
    site: Site, played: Callable[..., list[Subject]], capsys: pytest.CaptureFixture[str]
) -> None:
    subjects = played(PASSED, note="passed on the second boot")

    boot_test.main(site.argv)

    shown = capsys.readouterr().out
    assert "a user can log in" in shown
    assert "booted with tcg (no /dev/kvm) in 61 s" in shown
    assert "passed on the second boot" in shown
    assert [subject.disk for subject in subjects] == [site.out / "os-image.raw"]


def test_a_check_that_failed_is_the_reason_with_its_evidence_and_the_way_to_see_it_again(
    site: Site, played: Callable[..., list[Subject]], capsys: pytest.CaptureFixture[str]
) -> None:
    played(PASSED, FAILED, SKIPPED, console_tail="Kernel panic")

    with pytest.raises(HarnessError, match=r"failed its boot test: no \[address\] came") as told:
        boot_test.main(site.argv)

    shown = capsys.readouterr().out
    assert "no [address] came" in shown
    assert "lo only" in shown
    assert "not made" in shown
    assert shown.endswith("the guest's last words:\nKernel panic\n")
    assert f"boot-test(arch='{arch.native()}')" in told.value.hint
    assert told.value.log == site.folder / "console.log"


def test_the_image_is_searched_for_this_machines_folders_and_for_the_mirrors_host(
    site: Site, played: Callable[..., list[Subject]], checkout: Path
) -> None:
    subjects = played(PASSED)
    boot_test.main([*site.argv, "--third-party-mirror", "https://ann:secret@files.test:8443/x"])
    assert set(subjects[0].marks) == {
        str(checkout), f"{site.folder}/work", f"{site.folder}/out",
        "mirror.test", "files.test:8443",
    }  # fmt: skip


@pytest.mark.parametrize(
    "mirror", ["http://localhost:80/x", "http://127.0.0.1/x", "http://[::1]/x"]
)
def test_a_mirror_on_this_machine_is_not_searched_for_by_its_name(
    site: Site, played: Callable[..., list[Subject]], mirror: str
) -> None:
    subjects = played(PASSED)
    boot_test.main([*site.argv, "--mirror", mirror])
    assert all(mark.startswith("/") for mark in subjects[0].marks)


def test_a_machine_that_has_built_nothing_else_gets_the_tools_tree_first(
    site: Site, played: Callable[..., list[Subject]]
) -> None:
    played(PASSED)
    boot_test.main(site.argv)
    boot_test.main(site.argv)
    assert site.built == ["tools-tree"]


def test_the_report_of_a_build_tells_of_its_boot_test(
    site: Site, played: Callable[..., list[Subject]]
) -> None:
    played(PASSED)
    build.main([*site.argv, "--image", "os-image"])
    report = site.out / artifacts.REPORT
    report.unlink()

    boot_test.main(site.argv)

    assert report.exists()


def test_a_scenario_that_does_not_exist_is_refused_before_anything_is_built(site: Site) -> None:
    with pytest.raises(UsageError, match="no scenario 'life-on-mars'") as told:
        boot_test.main([*site.argv, "--scenario", "containers", "--scenario", "life-on-mars"])
    assert "containers, life, " in told.value.hint
    assert not site.built
