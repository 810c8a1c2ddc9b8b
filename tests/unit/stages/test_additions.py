from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from scripts import arch, catalog
from scripts.stages import plan
from scripts.stages.additions import NONE, Additions
from scripts.stages.inputs import Input


def sample(folder: Path) -> Additions:
    rpm, program = folder / "own-1-1.x86_64.rpm", folder / "download"
    rpm.write_text("a package")
    program.write_text("a program")
    return Additions((rpm,), ("own",), {"/usr/bin/own": program})


def test_what_is_laid_out_is_a_configuration_with_packages_and_an_extra_tree(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "laid out"
    sample(tmp_path).lay_out(folder)

    conf = plan.read_conf(folder / "mkosi.conf")
    assert conf["Content"]["Packages"].split() == ["own"]
    assert (folder / "rpms/own-1-1.x86_64.rpm").read_text() == "a package"
    program = folder / "mkosi.extra/usr/bin/own"
    assert program.read_text() == "a program"
    assert program.stat().st_mode & 0o777 == 0o755


def test_a_supplementary_package_is_asked_for_with_its_version_and_is_an_input(
    tmp_path: Path,
) -> None:
    more = Additions(supplementary={"sshfs": "sshfs-3.7-2.spal"})
    added = sample(tmp_path) + more
    added.lay_out(tmp_path / "laid out")

    conf = plan.read_conf(tmp_path / "laid out/mkosi.conf")
    assert conf["Content"]["Packages"].split() == ["own", "sshfs-3.7-2.spal"]
    [own] = more.inputs()
    assert (own.label, own.digest) == ("supplementary package sshfs", "sshfs-3.7-2.spal")
    assert Input.parse(own.label, own.digest) == own


def test_an_rpm_takes_no_space_of_its_own(tmp_path: Path) -> None:
    added = sample(tmp_path)
    added.lay_out(tmp_path / "laid out")

    assert (tmp_path / "laid out/rpms/own-1-1.x86_64.rpm").samefile(added.rpms[0])


def test_an_rpm_on_another_file_system_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fails)
    sample(tmp_path).lay_out(tmp_path / "laid out")

    assert (tmp_path / "laid out/rpms/own-1-1.x86_64.rpm").read_text() == "a package"


def test_what_was_laid_out_before_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "laid out"
    sample(tmp_path).lay_out(folder)
    NONE.lay_out(folder)

    assert list((folder / "rpms").iterdir()) == []
    assert not (folder / "mkosi.extra").exists()
    assert plan.read_conf(folder / "mkosi.conf")["Content"]["Packages"] == ""


def test_two_files_may_be_in_one_folder(tmp_path: Path) -> None:
    program = sample(tmp_path).files["/usr/bin/own"]
    Additions(files={"/usr/bin/a": program, "/usr/bin/b": program}).lay_out(tmp_path / "laid out")

    assert (tmp_path / "laid out/mkosi.extra/usr/bin/a").is_file()
    assert (tmp_path / "laid out/mkosi.extra/usr/bin/b").is_file()


def test_the_source_of_a_file_keeps_its_mode(tmp_path: Path) -> None:
    added = sample(tmp_path)
    before = added.files["/usr/bin/own"].stat().st_mode
    added.lay_out(tmp_path / "laid out")

    assert added.files["/usr/bin/own"].stat().st_mode == before


def test_additions_are_added_up(tmp_path: Path) -> None:
    other = Additions(packages=("other",), files={"/usr/bin/other": tmp_path / "other"})
    both = sample(tmp_path) + other

    assert both.packages == ("own", "other")
    assert sorted(both.files) == ["/usr/bin/other", "/usr/bin/own"]
    assert len(both.rpms) == 1


def test_a_change_in_any_of_them_changes_the_inputs(tmp_path: Path) -> None:
    added = sample(tmp_path)
    before = added.inputs()
    added.rpms[0].write_text("another package")
    after_rpm = added.inputs()
    added.files["/usr/bin/own"].write_text("another program")

    assert before != after_rpm != added.inputs() != before
    assert NONE.inputs() == ()


def test_they_decide_the_base_and_what_stands_on_it_alone(checkout: Path, tmp_path: Path) -> None:
    images = ["base", "initrd"]

    def keys(added: Additions) -> dict[str, str]:
        target = plan.StageTarget("debian", arch.X86_64, {}, {catalog.ADDITIONS: added.inputs()})
        return {stage.name: stage.key for stage in plan.plan(checkout, images, target)}

    before, after = keys(NONE), keys(sample(tmp_path))
    assert {name for name in images if before[name] != after[name]} == {"base"}
