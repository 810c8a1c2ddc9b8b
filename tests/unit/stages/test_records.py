from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.stages import records
from scripts.stages.artifacts import Artifact
from scripts.stages.inputs import Input, Kind, from_labels
from scripts.stages.records import Package, Record

RECORD = Record(
    key="abc",
    inputs=from_labels({"release": "trixie", "stage base": "ab"}),
    seconds=1.5,
    artifacts=(Artifact("os-image.raw", 3, 4, "ff"),),
    packages=(Package("bash", "5.2", "amd64"),),
    digest="cd",
    built_from={"base": "ef"},
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    RECORD.write(tmp_path)

    assert Record.read(tmp_path) == RECORD


def test_there_is_no_record_where_none_was_written(tmp_path: Path) -> None:
    assert Record.read(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"key": "abc"}',
        '{"artifacts": [{"name": "x"}]}',
        '{"key": "", "inputs": [], "seconds": 1, "artifacts": [], "packages": []}',
    ],
)
def test_a_record_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / records.NAME).write_text(text)

    assert Record.read(tmp_path) is None


def test_packages_are_read_from_mkosis_manifest(tmp_path: Path) -> None:
    package = {"type": "deb", "name": "bash", "version": "5.2", "architecture": "amd64"}
    (tmp_path / "m").write_text(json.dumps({"config": {}, "packages": [package]}))

    assert records.packages_of(tmp_path / "m", {}) == (Package("bash", "5.2", "amd64"),)


def test_an_image_without_a_manifest_lists_no_packages(tmp_path: Path) -> None:
    assert records.packages_of(tmp_path / "m", {}) == ()


def lists(path: Path, *packages: tuple[str, str, str]) -> Path:
    """Write a manifest of mkosi's that lists packages."""
    names = ("name", "version", "architecture")
    listed = [dict(zip(names, package, strict=True)) for package in packages]
    path.write_text(json.dumps({"packages": listed}))
    return path


def test_an_rpm_of_our_own_comes_before_the_distribution_s(tmp_path: Path) -> None:
    manifest = lists(tmp_path / "m", ("sshfs", "1:3.7-1", "x86_64"))
    own = (Input(Kind.RPM, "sshfs-3.7-1.x86_64.rpm", "0a"),)
    offered = {("sshfs", "1:3.7-1", "x86_64"): "0b"}

    assert [one.sha256 for one in records.packages_of(manifest, offered, own)] == ["0a"]


def test_a_package_of_a_further_repository_keeps_its_name_in_every_image_above(
    tmp_path: Path,
) -> None:
    manifest = lists(tmp_path / "m", ("sshfs", "3.7-1", "x86_64"), ("bash", "5.2-1", "x86_64"))
    key = ("sshfs", "3.7-1", "x86_64")
    found = records.packages_of(manifest, {key: "0b"}, elsewhere={key: "spal"})
    below = replace(RECORD, packages=found)
    below.write(tmp_path)

    assert [(one.sha256, one.repository) for one in found] == [("0b", "spal"), ("", "")]
    assert Record.read(tmp_path) == below
    assert "repository" not in found[1].to_json()
    assert records.packages_of(manifest, {}, below=[below]) == found


def test_a_key_of_rpm_has_no_digest_and_epoch_0_is_none(tmp_path: Path) -> None:
    manifest = lists(
        tmp_path / "m", ("gpg-pubkey", "d832c631-6515c85e", ""), ("bash", "0:5.2-1", "x86_64")
    )
    found = records.packages_of(manifest, {("bash", "5.2-1", "x86_64"): "0c"})

    assert [one.sha256 for one in found] == ["", "0c"]


def test_a_package_below_whose_digest_nobody_noted_has_none(tmp_path: Path) -> None:
    manifest = lists(tmp_path / "m", ("bash", "5.2", "amd64"))
    found = records.packages_of(manifest, {("bash", "5.2", "amd64"): "0d"}, below=[RECORD])

    assert [one.sha256 for one in found] == [""]


def test_a_record_of_an_older_version_has_packages_without_digests(tmp_path: Path) -> None:
    known = replace(RECORD, packages=(Package("bash", "5.2", "amd64", "ab"),))
    known.write(tmp_path)
    assert Record.read(tmp_path) == known
    data = json.loads((tmp_path / records.NAME).read_text())
    del data["packages"][0]["sha256"]
    (tmp_path / records.NAME).write_text(json.dumps(data))

    assert Record.read(tmp_path) == RECORD


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout in little: base <- kernel <- disk, and initrd <- disk."""
    for name, needs in {
        "base": "",
        "initrd": "",
        "kernel": "base",
        "disk": "kernel,initrd",
    }.items():
        folder = tmp_path / "mkosi.images" / name
        folder.mkdir(parents=True)
        (folder / "mkosi.conf").write_text(f"[Config]\nDependencies={needs}\n")
    return tmp_path


def built(digest: str, **built_from: str) -> Record:
    """The record of a stage that has this digest, built from stages that had those."""
    return Record("key", (), 1.5, (), (), digest, built_from)


def test_stages_made_from_what_is_kept_are_not_outdated(root: Path) -> None:
    kept = {
        "base": built("b"),
        "initrd": built("i"),
        "kernel": built("k", base="b"),
        "disk": built("d", kernel="k", initrd="i"),
    }

    assert list(records.outdated(root, "disk", kept)) == []


def test_each_stage_made_from_what_has_been_rebuilt_is_outdated(root: Path) -> None:
    kept = {
        "base": built("z"),
        "initrd": built("a"),
        "kernel": built("k", base="b"),
        "disk": built("d", kernel="k", initrd="i"),
    }

    assert list(records.outdated(root, "disk", kept)) == [("kernel", "base"), ("disk", "initrd")]


def test_a_stage_made_from_one_that_has_no_record_is_outdated(root: Path) -> None:
    kept = {"kernel": built("k", base="b")}

    assert list(records.outdated(root, "kernel", kept)) == [("kernel", "base")]
