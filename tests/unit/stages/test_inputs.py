"""What stage keys are made of, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import arch
from scripts.emulation import standins
from scripts.stages import inputs, plan
from scripts.stages.additions import Additions
from scripts.stages.artifacts import Artifact
from scripts.stages.inputs import INSTALLED, Input, Kind
from scripts.stages.plan import Stage
from scripts.stages.records import NAME, Package, Record

# What the code before Input came to for the stages of `planned`. A change of one of these builds
# every stage of every checkout again.
KEYS = {
    "base": "9087f03416e0e8bc02bed726df10045226c55e9ab78aee31598cd1711d4871c6",
    "kernel": "f7b2b4502bc13d0f8b78b97ea97ae9c1d0b666a78f1cdd4e919df75077a3c715",
    "initrd": "c38fa0afde1d70adf824d45cc7d6df7bfe2b7bede933236e341b0f49afe9baab",
    "disk": "cec4315ae35c375d904ca3d8a28e773a2637deea36f5d086f7daf29fb3620276",
}
STANDINS = "e049f6572ff8b4ca892e19468c06b75cc2bf1829bc22ad0ecfb55ca8515cdfc7"

# The record of `planned`'s base, with the digests of the test below.
STAGE_JSON = Path(__file__).with_name("golden-stage.json")

INPUTS = {
    "RPM foo-1.x86_64.rpm": Input(Kind.RPM, "foo-1.x86_64.rpm", "1"),
    "package foo": Input(Kind.PACKAGE, "foo", INSTALLED),
    "file /usr/bin/foo": Input(Kind.FILE, "/usr/bin/foo", "1"),
    "stage base": Input(Kind.STAGE, "base", "1"),
    "mkosi.conf.d/debian.conf": Input(Kind.CONFIGURATION, "mkosi.conf.d/debian.conf", "- 1"),
    "mkosi": Input.setting("mkosi", "1"),
    "tools tree": Input.setting("tools tree", "1"),
    "package sources": Input.setting("package sources", "1"),
    "release": Input.setting("release", "trixie"),
}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def planned(tmp_path: Path) -> list[Stage]:
    """The stages of a small checkout that has inputs of every kind."""
    root = tmp_path / "checkout"
    write(root / "mkosi.conf", "[Output]\nFormat=none\n")
    for name in ("debian", "fedora"):
        write(root / f"mkosi.conf.d/{name}.conf", f"[Match]\nDistribution={name}\n")
    write(root / "mkosi.profiles/staged.conf", "[Build]\n")
    for name, needs in {
        "base": "",
        "initrd": "",
        "kernel": "Dependencies=base",
        "disk": "Dependencies=kernel,initrd",
    }.items():
        write(root / f"mkosi.images/{name}/mkosi.conf", f"[Config]\n{needs}\n")
    write(root / "mkosi.images/disk/mkosi.postinst", "#!/bin/sh\n").chmod(0o755)
    link = root / "mkosi.images/disk/mkosi.extra/motd"
    link.parent.mkdir()
    link.symlink_to("/run/motd")
    added = Additions(
        (write(tmp_path / "own-1-1.x86_64.rpm", "a package"),),
        ("own",),
        {"/usr/bin/own": write(tmp_path / "download", "a program")},
    )
    target = plan.StageTarget(
        "debian",
        arch.X86_64,
        {"mkosi": "ab", "release": "trixie", "package sources": ""},
        {"base": [*added.inputs(), Input.setting("emulators", "cd")]},
    )
    return plan.plan(root, ["disk"], target)


def test_stage_keys_are_what_they_were_before_inputs_had_a_type(planned: list[Stage]) -> None:
    assert {stage.name: stage.key for stage in planned} == KEYS


def test_the_stand_ins_are_what_they_were_before_inputs_had_a_type() -> None:
    assert standins.DIGEST == STANDINS


def test_a_record_is_written_byte_for_byte_as_others_read_it(
    planned: list[Stage], tmp_path: Path
) -> None:
    base = next(stage for stage in planned if stage.name == "base")
    now = Record(
        base.key,
        base.inputs,
        1.5,
        (Artifact("os-image.raw", 3, 4, "ff"),),
        (Package("bash", "5.2", "amd64"),),
        "12" * 32,
        {"below": "34" * 32},
    )
    now.write(tmp_path)
    assert (tmp_path / NAME).read_bytes() == STAGE_JSON.read_bytes()
    assert Record.read(tmp_path) == now


@pytest.mark.parametrize("label", INPUTS)
def test_a_label_tells_the_kind_of_its_input(label: str) -> None:
    known = INPUTS[label]

    assert known.label == label
    assert Input.parse(label, known.digest) == known


def test_inputs_become_labels_and_inputs_again() -> None:
    assert inputs.from_labels(inputs.to_labels(INPUTS.values())) == tuple(INPUTS.values())


def test_digests_are_found_by_the_name_of_the_thing() -> None:
    assert inputs.digests(INPUTS.values(), Kind.FILE) == {"/usr/bin/foo": "1"}
    assert inputs.digests(INPUTS.values(), Kind.STAGE) == {"base": "1"}


def test_only_configuration_files_are_the_same_on_every_machine() -> None:
    [found] = plan.of_checkout(INPUTS.values())

    assert found.name == "mkosi.conf.d/debian.conf"


def test_a_difference_names_what_changed() -> None:
    def difference(before: dict[str, str], now: dict[str, str]) -> str:
        return inputs.difference(inputs.from_labels(before), inputs.from_labels(now))

    before = {"release": "trixie", "mkosi.conf": "1", "stage gone": "1"}
    assert difference(before, before) == "its key changed"
    assert difference(before, before | {"release": "sid"}) == "release changed"
    assert difference(before, {"release": "sid", "mkosi.conf": "1"}) == "release changed and 1 more"
    assert difference(before, before | {"stage new": "1"}) == "stage new changed"
