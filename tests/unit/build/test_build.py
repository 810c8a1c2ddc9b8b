"""What a build makes of its options before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from scripts import arch
from scripts.build import build, ingredients
from scripts.build.build import Built
from scripts.build.manifest import Manifest
from scripts.build.workshop import Workshop
from scripts.description import writer
from scripts.distributions import amazonlinux
from scripts.emulation.emulators import TABLE, EmulationTable, Emulators
from scripts.mkosi.source import Mkosi
from scripts.options import Options
from scripts.sessions import arguments
from scripts.sessions import build as session
from scripts.stages import additions, artifacts
from scripts.stages.inputs import to_labels
from scripts.stages.places import Places
from scripts.stages.plan import Stage
from scripts.stages.records import Record
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Progress
from tests.unit.server import Server


def parse(*argv: str) -> Options:
    return arguments.parse(["--arch", "x86_64", *argv], {}, root=Path("/checkout"))


LISTED = b'<release version="2023.12.20260930"/>'


def latest(server: Server, work: Path, *argv: str) -> str | None:
    """The release that a build of the latest one from server builds."""
    opts = parse("--release", "latest", "--mirror", server.url, "--work", str(work), *argv)
    return build.dated(opts, Progress()).target.release


def test_the_latest_release_is_built_as_the_dated_one_that_it_is(
    server: Server, tmp_path: Path
) -> None:
    server.files["/core/releasemd.xml"] = LISTED

    assert latest(server, tmp_path) == "2023.12.20260930"


def test_a_mirror_that_hides_the_newest_release_does_not_take_a_build_back(
    server: Server, tmp_path: Path
) -> None:
    server.files["/core/releasemd.xml"] = LISTED
    latest(server, tmp_path)
    server.files["/core/releasemd.xml"] = b'<release version="2023.9.20261231"/>'

    with pytest.raises(
        HarnessError, match=r"lists 2023\.9\.20261231 .* but 2023\.12\.20260930 before"
    ):
        latest(server, tmp_path)
    assert latest(server, tmp_path, "--allow-older-index") == "2023.9.20261231"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--release", "2023.12.20260930"],
        ["--distribution", "debian", "--release", "latest"],
    ],
)
def test_any_other_release_stays_what_it_is(
    argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        amazonlinux, "latest", lambda *_: pytest.fail("nobody asked for the latest")
    )
    opts = parse(*argv)

    assert build.dated(opts, Progress()) == opts


@pytest.mark.parametrize("name", ["2023", "LATEST", "2023.12", "2022.1.20220101", "trixie"])
def test_a_name_that_is_no_release_is_refused_without_a_network(name: str) -> None:
    opts = parse("--release", name, "--offline")
    with pytest.raises(UsageError, match=f"no release {name} of Amazon Linux") as caught:
        build.dated(opts, Progress())
    assert amazonlinux.known()[-1] in caught.value.hint


def test_offline_the_latest_release_is_not_known() -> None:
    with pytest.raises(UsageError, match="--offline"):
        build.dated(parse("--release", "latest", "--offline"), Progress())


def inputs(
    checkout: Path,
    work: Path,
    target: str,
    digests: dict[str, str],
    environ: Mapping[str, str] | None = None,
    *options: str,
) -> dict[str, Mapping[str, str]]:
    """What decides each stage of a Debian build for target, as planned."""
    argv = ["--distribution", "debian", "--arch", target, "--work", str(work), *options]
    opts = arguments.parse(argv, environ or {}, root=checkout)
    using = Mkosi(work, "27.1", "nowhere", "digest")
    carried = Emulators(work, EmulationTable.read(checkout / TABLE), "a.deb", digests)
    planned = build.plan(opts, using, Places.prepare(opts), additions.NONE, carried)
    return {stage.name: to_labels(stage.inputs) for stage in planned}


def test_other_emulators_build_the_base_and_what_stands_on_it_again(
    checkout: Path, tmp_path: Path
) -> None:
    before = inputs(checkout, tmp_path, "native", {"qemu-arm": "1"})
    after = inputs(checkout, tmp_path, "native", {"qemu-arm": "2"})

    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "base", "base-with-kernel", "os-image", "container-with-kernel", "wsl-rootfs",
    } & before.keys()  # fmt: skip


def test_the_time_that_files_get_at_most_builds_every_stage_again(
    checkout: Path, tmp_path: Path
) -> None:
    before = inputs(checkout, tmp_path, "native", {})
    after = inputs(checkout, tmp_path, "native", {}, {"SOURCE_DATE_EPOCH": "86400"})

    assert "SOURCE_DATE_EPOCH" not in before["tools-tree"]
    assert {facts["SOURCE_DATE_EPOCH"] for facts in after.values()} == {"86400"}


def test_another_profile_of_mkosi_builds_every_image_again(checkout: Path, tmp_path: Path) -> None:
    before = inputs(checkout, tmp_path, "native", {})
    after = inputs(checkout, tmp_path, "native", {}, None, "--profile", "full-kernel")

    changed = {name for name in before if before[name] != after[name]}
    assert changed == before.keys() - {"tools-tree"}
    assert not any("profiles" in facts for facts in before.values())


@pytest.fixture
def due(checkout: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Returns the reasons of a Debian build, in which every stage is kept with its record."""
    argv = ["--distribution", "debian", "--arch", "x86_64", "--work", str(tmp_path)]
    opts = arguments.parse(argv, {}, root=checkout)
    shop = Workshop.prepare(opts, Progress(live=False))
    vars(shop)["mkosi"] = Mkosi(tmp_path, "27.1", "nowhere", "digest")
    carried = Emulators(tmp_path, EmulationTable.read(checkout / TABLE), "a.deb", {})
    planned = build.plan(opts, shop.mkosi, shop.places, additions.NONE, carried)

    def keep(stage: Stage) -> None:
        known = build.records_of(shop.places)
        built_from = {need: known[need].digest for need in stage.needs}
        folder = shop.places.stage(stage.name)
        folder.mkdir(exist_ok=True)
        Record.of(stage, 1, (), (), built_from).write(folder)

    for stage in planned:
        keep(stage)

    def reasons(*again: str) -> dict[str, str]:
        for stage in planned:
            if stage.name in again:
                keep(stage)
        return build.reasons(planned, shop)

    return reasons


def test_nothing_is_built_if_each_stage_was_built_from_those_that_are_kept(
    due: Callable[..., dict[str, str]],
) -> None:
    assert due() == {}


def test_all_dependents_of_a_base_that_was_built_again_alone_are_due(
    due: Callable[..., dict[str, str]],
) -> None:
    assert due("base") == {
        "base-with-kernel": "base was built again",
        "wsl-rootfs": "base was built again",
        "os-image": "base-with-kernel is built again",
        "container-with-kernel": "base-with-kernel is built again",
    }


def test_an_initrd_that_was_built_again_makes_the_disk_due(
    due: Callable[..., dict[str, str]],
) -> None:
    assert due("initrd") == {"os-image": "initrd was built again"}


def test_stand_ins_decide_what_is_emulated_here_only(checkout: Path, tmp_path: Path) -> None:
    native = arch.native().name
    foreign = next(name for name in arch.NAMES if name != native)

    spared = {
        target: {
            name
            for name, facts in inputs(checkout, tmp_path / target, target, {}).items()
            if "stand-ins" in facts
        }
        for target in (native, foreign)
    }

    assert spared == {native: set(), foreign: {"base", "base-with-kernel", "initrd"}}


def test_what_could_not_be_described_is_described_by_the_next_build(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--distribution", "debian", "--out", str(tmp_path), "--work", str(tmp_path / "work")]
    opts = arguments.parse(argv, {}, root=checkout)
    opts.artifacts.mkdir(parents=True)
    disk_is_full = [True, False]
    written = []

    def write(*_: object) -> None:
        (opts.artifacts / artifacts.SBOM).touch()
        if disk_is_full.pop(0):
            raise OSError("No space left on device")
        for name in artifacts.DESCRIPTIONS:
            (opts.artifacts / name).touch()
            written.append(name)

    shop = Workshop.prepare(opts, Progress())
    vars(shop)["mkosi"] = Mkosi(tmp_path, "27.1", "", "")
    manifest = Manifest.of(opts, shop.mkosi, shop.places.images, {}, additions.NONE, [])

    def describe() -> None:
        session.describe(shop, Built([], {}, {}, manifest))

    monkeypatch.setattr(writer, "write", write)
    with pytest.raises(HarnessError, match=r"cannot be described: No space left"):
        describe()
    describe()
    describe()

    assert written == list(artifacts.DESCRIPTIONS)


def test_a_wrong_mkosi_is_noticed_before_anything_is_obtained(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingredients, "add", lambda *_, **__: pytest.fail("packages came first"))
    argv = ["--distribution", "debian", "--offline", "--work", str(tmp_path)]
    opts = arguments.parse(argv, {"MKOSI_SOURCE": str(tmp_path / "nowhere")}, root=checkout)

    with pytest.raises(UsageError, match="MKOSI_SOURCE"):
        build.build(Workshop.prepare(opts, Progress()))
