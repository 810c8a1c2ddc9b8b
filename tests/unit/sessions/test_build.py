"""A build from its command line to what it shows, with a fake mkosi."""

from __future__ import annotations

import json
import os

import pytest

from scripts.build import manifest
from scripts.build.manifest import Manifest
from scripts.sessions import build
from scripts.stages import artifacts
from scripts.stages.records import Record
from scripts.system.errors import HarnessError, UsageError
from scripts.system.locks import only_build
from tests.unit.sessions.conftest import Site

IMAGE = ("--image", "os-image")
STAGES = ["tools-tree", "base", "initrd", "base-with-kernel", "os-image"]


def test_a_build_leaves_the_artifacts_and_all_that_describes_them(site: Site) -> None:
    build.main([*site.argv, *IMAGE])

    assert sorted(site.built) == sorted(STAGES)
    described = (*artifacts.DESCRIPTIONS, manifest.NAME, artifacts.CHECKSUMS)
    outputs = ("os-image.raw", "os-image.efi", "os-image.qcow2")
    for name in (*outputs, *(f"{output}.sha512sum" for output in outputs), *described):
        assert (site.out / name).is_file(), name
    told = Manifest.read(site.out)
    assert {one.name for one in told.artifacts} == {*outputs}
    assert {*told.images} == {*STAGES} - {"tools-tree"}


def test_a_build_shows_what_it_made_and_where(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    build.main([*site.argv, *IMAGE])

    shown = capsys.readouterr()
    assert "base will be built: not built yet" in shown.err
    assert "os-image.qcow2" in shown.out
    assert f"in {site.out}" in shown.out
    assert "everything is up to date" not in shown.out


def test_what_is_up_to_date_is_not_built_again(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    build.main([*site.argv, *IMAGE])
    before = len(site.built)
    capsys.readouterr()

    build.main([*site.argv, *IMAGE])

    assert len(site.built) == before
    assert "everything is up to date" in capsys.readouterr().out


def test_told_to_it_builds_all_but_the_tools_tree_again(site: Site) -> None:
    build.main([*site.argv, *IMAGE])
    before = len(site.built)

    build.main([*site.argv, *IMAGE, "--force"])

    assert sorted(site.built[before:]) == sorted({*STAGES} - {"tools-tree"})


@pytest.mark.parametrize("harm", ["is removed", "is written to"])
def test_an_artifact_that_is_not_what_was_made_is_made_again(
    site: Site, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build.main([*site.argv, *IMAGE])
    before = len(site.built)
    path = site.out / "os-image.raw"
    if harm == "is removed":
        path.unlink()
    else:
        path.write_text("something else")

    build.main([*site.argv, *IMAGE])

    assert site.built[before:] == ["os-image"]
    assert "os-image.raw is gone or was written to" in capsys.readouterr().err


def test_another_mkosi_builds_everything_again(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    build.main([*site.argv, *IMAGE])
    before = len(site.built)
    object.__setattr__(site.mkosi, "digest", "1" * 64)

    build.main([*site.argv, *IMAGE])

    assert sorted(site.built[before:]) == sorted(STAGES)
    assert "tools-tree will be built: mkosi changed" in capsys.readouterr().err


def test_an_image_without_artifacts_is_shown_where_it_is_kept(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    build.main([*site.argv, "--image", "base"])

    shown = capsys.readouterr().out
    assert f"base is in {site.places.stage('base')}/base" in shown
    assert site.built == ["tools-tree", "base"]


def test_a_build_that_fails_describes_nothing_and_goes_on_from_there(site: Site) -> None:
    made = json.loads((site.mkosi.folder / "os-image.json").read_text())
    site.mkosi.tell("os-image", {"status": 1}, *made)

    with pytest.raises(HarnessError, match="building os-image failed"):
        build.main([*site.argv, *IMAGE])
    assert not (site.out / manifest.NAME).exists()
    before = len(site.built)
    build.main([*site.argv, *IMAGE])

    assert site.built[before:] == ["os-image"]
    assert (site.out / artifacts.REPORT).exists()


def test_a_build_of_one_image_keeps_the_others_in_the_manifest(site: Site) -> None:
    build.main([*site.argv, *IMAGE])
    build.main([*site.argv, "--image", "base"])

    told = Manifest.read(site.out)
    assert {one.name.partition(".")[0] for one in told.artifacts} == {"os-image"}


def test_what_is_not_pinned_cannot_be_left_out(site: Site) -> None:
    with pytest.raises(UsageError, match="--allow-missing nonsense: nothing of that name") as told:
        build.main([*site.argv, "--allow-missing", "nonsense"])

    assert told.value.hint == "pinned are cosign, docker-credential-pass, pass"
    assert site.built == []


def test_a_build_while_another_runs_names_its_process(site: Site) -> None:
    with (
        only_build(site.options.folders.work),
        pytest.raises(HarnessError, match=f"another build is running .* {os.getpid()}"),
    ):
        build.main([*site.argv, *IMAGE])


def test_a_record_tells_how_long_a_stage_took(site: Site) -> None:
    build.main([*site.argv, "--image", "base"])

    record = Record.read(site.places.stage("base"))
    assert record
    assert 0 <= record.seconds < 60
