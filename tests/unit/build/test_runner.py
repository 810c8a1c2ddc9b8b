"""The runner with a fake program in mkosi's place: order, retry, ending, delivery."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from scripts import arch
from scripts.build import runner
from scripts.build.runner import Runner
from scripts.build.workshop import Workshop
from scripts.catalog import DISTRIBUTIONS, TOOLS_TREE
from scripts.mkosi import workspaces
from scripts.options import Options
from scripts.sessions import arguments
from scripts.stages import artifacts
from scripts.stages.inputs import Input
from scripts.stages.places import Place, Places
from scripts.stages.plan import Stage
from scripts.stages.records import Package, Record
from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import Terminated
from scripts.system.progress import Progress
from tests.unit.build.fakes import Event, FakeMkosi

# What apt prints of a server that is overloaded, and of one that has no such file.
OVERLOADED = "E: Failed to fetch http://mirror/bash.deb  503  Service Unavailable"
NOT_THERE = "E: Failed to fetch http://mirror/bash.deb  404  Not Found"

TOOLS = Stage(TOOLS_TREE, (), (Input.setting("release", "trixie"),))
BASE = Stage("base", (), (Input.setting("release", "trixie"),))
INITRD = Stage("initrd", (), (Input.setting("release", "trixie"),))
KERNEL = Stage("base-with-kernel", ("base",), (Input.setting("kernel", "6.12"),))
DISK = Stage("os-image", ("base-with-kernel",), (Input.setting("disk", "ext4"),))
ROOTFS = Stage("wsl-rootfs", ("base",), (Input.setting("rootfs", "tar"),), installs=False)

PACKAGES = {"packages": [{"name": "bash", "version": "5.2", "architecture": "amd64"}]}


class Play:
    """A build of stages of Debian below folder, with mkosi played by a fake."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = FakeMkosi.make(folder / "fake")
        self.at = Places(images=self._place("images"), tools=self._place("tools"))
        (self.at.tools_tree / "usr").mkdir(parents=True)
        self.at.configuration.mkdir()
        self.options = self._options()

    def _place(self, name: str) -> Place:
        folder = self.folder / "work" / name
        for part in ("stages", "packages", "sandbox"):
            (folder / part).mkdir(parents=True)
        return Place(folder, DISTRIBUTIONS["debian"], "trixie", arch.native(), folder / "sandbox")

    def _options(self, *argv: str, environ: Mapping[str, str] | None = None) -> Options:
        folders = ("--out", f"{self.folder}/out", "--work", f"{self.folder}/work")
        given = ["--distribution", "debian", *folders, *argv]
        return arguments.parse(given, environ or {}, root=self.folder)

    @property
    def out(self) -> Path:
        """The folder of the artifacts."""
        return self.options.artifacts

    def runner(self, *argv: str, environ: Mapping[str, str] | None = None) -> Runner:
        """The runner under test, with the options in argv: the one place that makes one."""
        shop = Workshop(self._options(*argv, environ=environ), self.at, Progress(live=False))
        vars(shop)["mkosi"] = self.fake
        return Runner(shop)

    def build(
        self,
        *planned: Stage,
        argv: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Build planned, one after the other unless argv says otherwise."""
        self.runner(*(argv or ("--jobs", "1")), environ=environ).build(planned)

    def tell(self, stage: Stage, *attempts: dict[str, Any]) -> None:
        """Tell the fake what to do for stage, each time that it is called."""
        self.fake.tell(stage.name, *attempts)

    def events(self, *what: str) -> list[Event]:
        return self.fake.events(*what)

    def order(self) -> list[str]:
        return [str(event) for event in self.events()]

    def record(self, stage: Stage) -> Record:
        found = Record.read(self.at.stage(stage.name))
        assert found
        return found

    def leftovers(self) -> list[Path]:
        """What should be there only while a build is running."""
        places = (self.at.images, self.at.tools)
        folders = [place.folder / "building" for place in places]
        folders += workspaces.folders(self.options.folders.work)
        return [folder for folder in folders if folder.exists()]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PAUSES", (0, 0))


@contextmanager
def once(play: Play, stage: Stage, act: Callable[[], object]) -> Iterator[None]:
    """Act, in a thread, as soon as the fake has begun with stage."""

    def watch() -> None:
        giving_up = time.monotonic() + 20
        while f"start {stage.name}" not in play.order() and time.monotonic() < giving_up:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()


# Order


def test_a_stage_is_built_after_those_that_it_needs(play: Play) -> None:
    play.build(Stage("image", ("base-with-kernel",), ()), KERNEL, BASE, argv=("--jobs", "3"))

    assert play.order() == [
        *("start base", "end base"),
        *("start base-with-kernel", "end base-with-kernel"),
        *("start image", "end image"),
    ]


def test_the_tools_tree_is_finished_before_anything_is_built_with_it(play: Play) -> None:
    play.build(BASE, INITRD, TOOLS, argv=("--jobs", "3"))

    assert play.order()[:2] == ["start tools-tree", "end tools-tree"]


def test_stages_that_do_not_need_each_other_are_built_side_by_side(play: Play) -> None:
    play.tell(BASE, {"waits_for": "initrd"})
    play.tell(INITRD, {"waits_for": "base"})

    play.build(BASE, INITRD, argv=("--jobs", "2"))

    assert {event.stage for event in play.events("end")} == {"base", "initrd"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_stages_are_built_at_once_than_there_may_be(play: Play, jobs: int) -> None:
    stages = [Stage(f"image-{number}", (), ()) for number in range(5)]
    for stage in stages:
        play.tell(stage, {"sleeps": 0.1})

    play.build(*stages, argv=("--jobs", str(jobs)))

    running, most = 0, 0
    for event in play.events("start", "end"):
        running += 1 if event.what == "start" else -1
        most = max(most, running)
    assert most == jobs
    assert len(play.events("end")) == 5


def test_a_stage_that_is_up_to_date_is_not_waited_for(play: Play) -> None:
    play.build(BASE)
    play.build(Stage("image", ("base",), ()))

    assert play.order() == ["start base", "end base", "start image", "end image"]


# How mkosi is called


def test_a_stage_finds_the_outputs_of_those_that_it_needs(play: Play) -> None:
    play.build(BASE)
    play.build(KERNEL)

    [_, kernel] = play.events("start")
    assert kernel.more["given"] == {"base": "the image base"}


def test_mkosi_is_told_which_image_to_build_and_where(play: Play) -> None:
    play.build(TOOLS, BASE)

    [tools, base] = [" ".join(event.more["argv"]) for event in play.events("start")]
    assert "--image-id tools-tree" in tools
    assert "--tools-tree no" in tools
    assert "--image-id base --distribution debian --release trixie" in base
    assert f"--tools-tree {play.at.tools_tree} " in base
    assert base.endswith(" build")


def test_mkosi_reads_the_copy_of_the_configuration(play: Play) -> None:
    play.build(BASE)

    [event] = play.events("start")
    assert event.more["cwd"] == str(play.at.configuration)


def test_mkosi_is_told_the_time_that_files_get_at_most(play: Play) -> None:
    play.build(BASE, environ={"SOURCE_DATE_EPOCH": "86400"})

    [event] = play.events("start")
    assert "--source-date-epoch 86400" in " ".join(event.more["argv"])


def test_a_record_names_the_builds_that_its_stage_was_built_from(play: Play) -> None:
    play.build(BASE, KERNEL)
    base, kernel = play.record(BASE), play.record(KERNEL)
    play.build(BASE)

    assert kernel.built_from == {"base": base.digest}
    assert play.record(BASE).digest != base.digest


def test_only_the_base_is_given_packages_of_our_own(play: Play) -> None:
    play.build(BASE, KERNEL)

    given = ["--package-directory" in event.more["argv"] for event in play.events("start")]
    assert given == [True, False]


@pytest.mark.parametrize(
    ("stage", "argv", "is_asked"),
    [(BASE, (), True), (BASE, ("--offline",), False), (ROOTFS, (), False)],
)
def test_repositories_are_asked_only_where_packages_are_installed_and_that_is_allowed(
    play: Play, stage: Stage, argv: Sequence[str], is_asked: bool
) -> None:
    alone = Stage(stage.name, (), (), stage.installs)
    play.tell(alone, {"files": {"wsl-rootfs.tar": "a tree"}})

    play.build(alone, argv=("--jobs", "1", *argv))

    [event] = play.events("start")
    assert ("--cache-only" not in event.more["argv"]) == is_asked


def test_the_log_has_what_each_stage_printed_under_its_name(play: Play) -> None:
    play.tell(BASE, {"prints": ["‣ Building the base", "half a line"]})

    play.build(BASE)

    log = (play.out / "build.log").read_text().splitlines()
    assert log[0].startswith("base | + ")
    assert log[1:] == ["base | ‣ Building the base", "base | half a line"]


def test_a_log_that_cannot_be_written_is_the_user_s_to_mend(play: Play) -> None:
    play.out.parent.mkdir(parents=True)
    play.out.touch()

    with pytest.raises(UsageError, match=r"build\.log cannot be written") as caught:
        play.build(BASE)

    assert "--out" in caught.value.hint


def test_the_steps_that_mkosi_announces_are_shown(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["‣  Installing Debian", "Get:1 bash", '‣ "dpkg --install" failed', "‣ (Mounting)"]
    play.tell(BASE, {"prints": [*lines, "‣ [base] Copying /usr/lib", "‣ [base] Cleaning up"]})

    play.build(BASE)

    shown = [line for line in capsys.readouterr().err.splitlines() if "base: " in line]
    assert [line.partition("base: ")[2] for line in shown[:-1]] == [
        "Installing Debian",
        "Cleaning up",
    ]


# Packages


def test_packages_that_one_stage_fetched_are_there_for_the_next(play: Play) -> None:
    play.tell(BASE, {"packages": {"archives/bash.deb": "bash"}})

    play.build(BASE, KERNEL)

    [_, kernel] = play.events("start")
    assert kernel.more["cached"] == ["bash.deb"]
    assert (play.at.images.folder / "packages/archives/bash.deb").read_text() == "bash"


def test_packages_that_a_failed_stage_fetched_are_kept(play: Play) -> None:
    play.tell(BASE, {"packages": {"archives/bash.deb": "bash"}, "status": 1})

    with pytest.raises(HarnessError):
        play.build(BASE)

    assert (play.at.images.folder / "packages/archives/bash.deb").exists()


# Retry


@pytest.mark.usefixtures("without_pauses")
def test_a_mirror_that_fails_for_a_moment_is_asked_again(play: Play) -> None:
    play.tell(BASE, {"prints": [OVERLOADED], "status": 100}, {})

    play.build(BASE)

    assert play.order() == ["start base", "end base"] * 2
    assert play.record(BASE).key == BASE.key


@pytest.mark.usefixtures("without_pauses")
def test_a_mirror_that_goes_on_failing_is_asked_three_times(play: Play) -> None:
    play.tell(BASE, {"prints": [OVERLOADED], "status": 100})

    with pytest.raises(HarnessError, match=r"building base failed: .*503") as caught:
        play.build(BASE)

    assert len(play.events("start")) == 3
    assert caught.value.log == play.out / "build.log"


@pytest.mark.usefixtures("without_pauses")
def test_what_another_attempt_would_not_mend_is_not_tried_again(play: Play) -> None:
    play.tell(BASE, {"prints": [NOT_THERE], "status": 100})

    with pytest.raises(HarnessError, match="404"):
        play.build(BASE)

    assert len(play.events("start")) == 1


def test_nobody_waits_for_a_mirror_once_another_stage_has_failed(play: Play) -> None:
    play.tell(BASE, {"prints": [OVERLOADED], "status": 100})
    play.tell(INITRD, {"waits_for": "base", "sleeps": 0.5, "status": 1})

    with pytest.raises(HarnessError, match="initrd"):
        play.build(BASE, INITRD, argv=("--jobs", "2"))

    assert len([event for event in play.events("start") if event.stage == "base"]) == 1


# Ending


def test_the_first_failure_ends_the_others(play: Play) -> None:
    play.tell(BASE, {"sleeps": 60})
    play.tell(INITRD, {"waits_for": "base", "status": 1})

    with pytest.raises(HarnessError, match="building initrd failed: mkosi ended with status 1"):
        play.build(BASE, INITRD, KERNEL, argv=("--jobs", "2"))

    assert "SIGTERM base" in play.order()
    assert "start base-with-kernel" not in play.order()
    assert not play.leftovers()


def test_what_was_finished_before_a_failure_is_kept(play: Play) -> None:
    play.tell(KERNEL, {"status": 1})

    with pytest.raises(HarnessError):
        play.build(BASE, KERNEL)

    assert play.record(BASE).key == BASE.key
    assert Record.read(play.at.stage(KERNEL.name)) is None


def test_ctrl_c_ends_what_runs_and_leaves_nothing_behind(play: Play) -> None:
    play.tell(BASE, {"sleeps": 60})

    with (
        pytest.raises(KeyboardInterrupt),
        once(play, BASE, lambda: os.kill(os.getpid(), signal.SIGINT)),
    ):
        play.build(BASE)

    assert play.order() == ["start base", "SIGTERM base"]
    assert not play.leftovers()


def test_a_signal_to_end_does_so_too(play: Play) -> None:
    def end(number: int, _frame: object) -> NoReturn:
        raise Terminated(signal.Signals(number))

    play.tell(BASE, {"sleeps": 60})
    before = signal.signal(signal.SIGTERM, end)
    try:
        with (
            pytest.raises(Terminated),
            once(play, BASE, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        ):
            play.build(BASE)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert play.order() == ["start base", "SIGTERM base"]
    assert not play.leftovers()


def test_a_mkosi_that_does_not_end_is_killed(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.5)
    play.tell(BASE, {"sleeps": 60, "is_stubborn": True})
    play.tell(INITRD, {"waits_for": "base", "status": 1})
    started = time.monotonic()

    with pytest.raises(HarnessError, match="initrd"):
        play.build(BASE, INITRD, argv=("--jobs", "2"))

    assert time.monotonic() - started < 10
    assert not play.leftovers()


def test_what_an_earlier_build_left_behind_is_removed(play: Play) -> None:
    stale = play.at.images.folder / "building/base/half"
    stale.parent.mkdir(parents=True)
    stale.touch()

    play.build(BASE)

    assert not play.leftovers()
    assert not (play.at.stage("base") / "half").exists()


# Delivery


@pytest.fixture
def with_artifacts(play: Play) -> None:
    """Let the fake make what mkosi makes of the images that have artifacts."""
    play.tell(DISK, {"files": {"os-image.raw": "a disk", "os-image.efi": "a UKI"}})
    listed = json.dumps(PACKAGES)
    play.tell(ROOTFS, {"files": {"wsl-rootfs.tar": "a tree", "wsl-rootfs.manifest": listed}})


@pytest.mark.usefixtures("with_artifacts")
def test_artifacts_go_to_out_under_their_final_names(play: Play) -> None:
    play.build(BASE, KERNEL, DISK, ROOTFS)

    assert sorted(path.name for path in play.out.iterdir()) == [
        "build.log",
        "os-image.efi",
        "os-image.qcow2",
        "os-image.raw",
        "wsl-rootfs.tar.gz",
        "wsl-rootfs.wsl",
    ]
    assert (play.out / "os-image.raw").read_text() == "a disk"
    assert (play.out / "wsl-rootfs.wsl").samefile(play.out / "wsl-rootfs.tar.gz")


@pytest.mark.usefixtures("with_artifacts")
def test_the_record_says_how_the_stage_was_built(play: Play) -> None:
    play.build(BASE, ROOTFS)

    record = play.record(ROOTFS)
    assert (record.key, record.inputs) == (ROOTFS.key, ROOTFS.inputs)
    assert [made.name for made in record.artifacts] == ["wsl-rootfs.tar.gz", "wsl-rootfs.wsl"]
    assert all(made.stands_in(play.out) for made in record.artifacts)
    assert record.packages == (Package("bash", "5.2", "amd64"),)
    assert 0 <= record.seconds < 60


def test_the_outputs_of_other_stages_are_not_carried_over(play: Play) -> None:
    play.build(BASE, KERNEL)

    assert sorted(path.name for path in play.at.stage(KERNEL.name).iterdir()) == [
        "base-with-kernel",
        "stage.json",
    ]
    assert play.at.stage("base").joinpath("base").is_file()


@pytest.mark.usefixtures("with_artifacts")
def test_what_described_the_artifacts_before_is_removed(play: Play) -> None:
    play.out.mkdir(parents=True)
    described = [artifacts.SBOM, artifacts.PROVENANCE, f"wsl-rootfs.{artifacts.SBOM}"]
    for name in (*described, f"os-image.{artifacts.SBOM}"):
        (play.out / name).touch()

    play.build(BASE, ROOTFS)

    assert [name for name in described if (play.out / name).exists()] == []
    assert (play.out / f"os-image.{artifacts.SBOM}").exists()


def test_a_stage_without_artifacts_leaves_out_as_it_was(play: Play) -> None:
    play.out.mkdir(parents=True)
    (play.out / artifacts.SBOM).touch()

    play.build(BASE)

    assert (play.out / artifacts.SBOM).exists()


@pytest.mark.usefixtures("with_artifacts")
def test_a_failure_leaves_the_artifacts_and_the_record_of_before(play: Play) -> None:
    play.build(BASE, ROOTFS)
    before = play.record(ROOTFS)
    play.tell(ROOTFS, {"files": {}})  # no tar: to pack it fails

    with pytest.raises(HarnessError, match=r"building wsl-rootfs failed: .*No such file"):
        play.build(ROOTFS)

    assert play.record(ROOTFS) == before
    assert all(made.stands_in(play.out) for made in before.artifacts)
    assert not play.leftovers()


# Sharing a package cache


@pytest.fixture
def common(tmp_path: Path) -> Path:
    """A package cache that several share."""
    folder = tmp_path / "common"
    folder.mkdir()
    return folder


def test_a_deb_is_shared_without_a_copy(common: Path, tmp_path: Path) -> None:
    (common / "bash.deb").write_text("bash")

    runner.share(common, tmp_path / "own")

    assert (tmp_path / "own/bash.deb").samefile(common / "bash.deb")


def test_an_rpm_that_is_written_over_stays_as_it_was_for_others(
    common: Path, tmp_path: Path
) -> None:
    (common / "dnf").mkdir()
    (common / "dnf/bash.rpm").write_text("bash")

    runner.share(common, tmp_path / "own")
    (tmp_path / "own/dnf/bash.rpm").write_text("another bash")

    assert (common / "dnf/bash.rpm").read_text() == "bash"


def test_a_package_that_is_still_on_its_way_is_not_shared(common: Path, tmp_path: Path) -> None:
    (common / "archives/partial").mkdir(parents=True)
    (common / "archives/partial/bash.deb").write_text("ba")

    runner.share(common, tmp_path / "own")

    assert not [path for path in tmp_path.glob("own/**/*") if path.is_file()]


def test_what_is_no_package_is_not_shared(common: Path, tmp_path: Path) -> None:
    (common / "lock").touch()

    runner.share(common, tmp_path / "own")

    assert not list(tmp_path.glob("own/*"))
