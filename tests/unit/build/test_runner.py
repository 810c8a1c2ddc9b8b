"""The runner with a fake program in mkosi's place: order, retry, ending, delivery."""

from __future__ import annotations

import gzip
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
from scripts.build.package_cache import unpacker
from scripts.build.runner import Runner
from scripts.build.workshop import Workshop
from scripts.catalog import DISTRIBUTIONS, TOOLS_TREE
from scripts.mkosi import workspaces
from scripts.mkosi.sandbox import Tools
from scripts.options import Options
from scripts.sessions import arguments
from scripts.stages import artifacts
from scripts.stages.inputs import Input
from scripts.stages.places import Place, Places
from scripts.stages.plan import Stage
from scripts.stages.records import Package, Record
from scripts.system.digests import text_digest
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
    assert "--distribution debian --release trixie" in base
    assert " --image-id base " in base
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
    play.build(BASE)

    play.build(alone, argv=("--jobs", "1", *argv))

    [_, event] = play.events("start")
    assert ("--cache-only metadata " in f"{' '.join(event.more['argv'])} ") == is_asked


def test_the_log_has_what_each_stage_printed_under_its_name(play: Play) -> None:
    play.tell(BASE, {"prints": ["‣ Building the base", "half a line"]})

    play.build(BASE)

    log = (play.out / "build.log").read_text().splitlines()
    assert all(line.startswith("base | + ") for line in log[:2])  # for metadata, and for the base
    assert log[2:] == ["base | ‣ Building the base", "base | half a line"]


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
        "Fetching the lists of packages",
        "Installing Debian",
        "Cleaning up",
    ]


# Packages


ARCHIVES = "cache/apt/archives"

BASH = f"{ARCHIVES}/bash_5.2_amd64.deb"

BASH_DIGEST = text_digest("bash")


def kept(play: Play, name: str = BASH) -> Path:
    """The path of a package that is kept for the images."""
    return play.at.images.folder / "packages" / name


def keep(play: Play, text: str, name: str = BASH) -> Path:
    """Put a package where builds keep those of the images, as somebody who fills a cache does."""
    path = kept(play, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def cached(play: Play) -> list[dict[str, str]]:
    """What each stage found in its package cache: the contents of packages by their names."""
    return [event.more["cached"] for event in play.events("start")]


def test_packages_that_one_stage_fetched_are_there_for_the_next(play: Play) -> None:
    play.tell(BASE, {"packages": {BASH: "bash"}})

    play.build(BASE, KERNEL)

    assert cached(play) == [{}, {"bash_5.2_amd64.deb": "bash"}]
    assert kept(play).read_text() == "bash"


def test_packages_that_a_failed_stage_fetched_are_kept(play: Play) -> None:
    play.tell(BASE, {"packages": {BASH: "bash"}, "status": 1})

    with pytest.raises(HarnessError):
        play.build(BASE)

    assert kept(play).exists()


def test_a_kept_deb_of_the_right_size_and_another_digest_is_not_offered_and_that_is_told(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(play, "EVIL")

    play.build(BASE)

    assert cached(play) == [{}]
    assert not kept(play).exists()
    sentence = "'bash_5.2_amd64.deb' was removed: its sha256 is not the one that the index names"
    assert f"base | the kept package {sentence}" in (play.out / "build.log").read_text()
    assert f"base: the kept package {sentence}" in capsys.readouterr().err


def test_a_kept_deb_that_the_index_no_longer_names_is_removed_with_a_line_in_the_log(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(play, "old", f"{ARCHIVES}/bash_5.1_amd64.deb")

    play.build(BASE)

    assert cached(play) == [{}]
    assert "'bash_5.1_amd64.deb' was removed" in (play.out / "build.log").read_text()
    assert "bash_5.1" not in capsys.readouterr().err


def test_a_hostile_name_of_a_kept_file_reaches_neither_terminal_nor_log_raw(play: Play) -> None:
    keep(play, "x", f"{ARCHIVES}/\x1b[2J\n.deb")

    play.build(BASE)

    assert b"\x1b" not in (play.out / "build.log").read_bytes()


def test_lists_of_packages_that_somebody_planted_do_not_count(play: Play) -> None:
    keep(play, "EVIL")
    evil = f"Package: bash\nVersion: 5.2\nArchitecture: amd64\nSize: 4\nSHA256: {'0' * 64}\n"
    for folder in ("cache", "packages/lib/apt/lists", "packages/cache/apt", "cache/metadata"):
        path = play.at.images.folder / folder / "evil_dists_trixie_main_binary-amd64_Packages"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(evil)

    play.build(BASE)

    [event] = play.events("start")
    assert event.more["lists"] == ["mirror_debian_dists_trixie_main_binary-amd64_Packages"]
    assert cached(play) == [{}]
    assert not [*play.at.images.folder.rglob("evil*")]


def test_metadata_are_fetched_once_for_all_stages_of_a_place_and_anew_by_each_build(
    play: Play,
) -> None:
    play.build(BASE, INITRD, KERNEL, argv=("--jobs", "2"))
    assert len(play.events("sync")) == 1

    play.build(TOOLS, BASE)
    assert len(play.events("sync")) == 3


def test_metadata_are_not_fetched_for_what_installs_nothing(play: Play) -> None:
    play.tell(ROOTFS, {"files": {"wsl-rootfs.tar": "a tree"}})

    play.build(Stage(ROOTFS.name, (), (), installs=False))

    assert play.events("sync") == []


def test_offline_the_metadata_of_the_last_build_are_used_and_kept_packages_still_compared(
    play: Play,
) -> None:
    play.build(BASE)
    keep(play, "EVIL")
    play.build(INITRD, argv=("--offline",))

    assert len(play.events("sync")) == 1
    assert cached(play) == [{}, {}]


def test_offline_without_any_metadata_says_what_to_do(play: Play) -> None:
    with pytest.raises(HarnessError, match="--offline forbids it") as caught:
        play.build(BASE, argv=("--offline",))

    assert "without --offline" in caught.value.hint


OLD, NEW = "Sat, 05 Sep 2026 09:15:44 UTC", "Sat, 21 Nov 2026 09:15:44 UTC"


def test_an_older_index_that_is_replayed_ends_the_build(play: Play) -> None:
    play.fake.tell("metadata", {"date": NEW}, {"date": OLD})
    play.build(BASE)

    with pytest.raises(HarnessError, match=r"2026-09-05 09:15 UTC.*2026-11-21") as caught:
        play.build(KERNEL)

    assert "--allow-older-index" in caught.value.hint
    assert "start base-with-kernel" not in play.order()


def test_an_older_index_is_used_if_the_user_says_so_and_the_newest_is_still_remembered(
    play: Play,
) -> None:
    play.fake.tell("metadata", {"date": NEW}, {"date": OLD})
    play.build(BASE)
    play.build(KERNEL, argv=("--allow-older-index",))

    with pytest.raises(HarnessError, match="2026-11-21"):
        play.build(KERNEL)


def test_an_index_that_only_a_failed_build_has_seen_is_not_remembered(play: Play) -> None:
    play.fake.tell("metadata", {"date": NEW}, {"date": OLD})
    play.tell(BASE, {"status": 1}, {})
    with pytest.raises(HarnessError):
        play.build(BASE)

    play.build(BASE)


def test_an_older_index_does_not_replace_the_metadata_for_builds_offline(play: Play) -> None:
    play.fake.tell("metadata", {"date": NEW}, {"date": OLD})
    play.build(BASE)
    with pytest.raises(HarnessError):
        play.build(BASE)

    [inrelease] = (play.at.images.folder / "cache").rglob("*_InRelease")
    assert NEW in inrelease.read_text()


def test_what_zstd_packed_is_unpacked_by_the_tools_tree_s(play: Play) -> None:
    packed = play.folder / "primary.xml.zst"
    packed.write_bytes(gzip.compress(b"<metadata/>"))  # the fake's zstd is gzip
    tools = Tools(play.at.tools_tree, play.fake.sandbox)

    unpacked = unpacker(tools, play.at.images.folder)(packed)

    assert unpacked == play.at.images.folder / "primary.xml"
    assert unpacked.read_bytes() == b"<metadata/>"


def lists_packages(stage: Stage, **versions: str) -> dict[str, Any]:
    """What to tell the fake so that mkosi's manifest of stage lists packages."""
    listed = [{"name": n, "version": v, "architecture": "amd64"} for n, v in versions.items()]
    manifest = json.dumps({"packages": listed})
    return {"files": {stage.name: "an image", f"{stage.name}.manifest": manifest}}


def test_the_record_has_the_digest_of_each_package_that_the_index_names(play: Play) -> None:
    play.tell(BASE, lists_packages(BASE, bash="5.2", own="1"))

    play.build(BASE)

    assert play.record(BASE).packages == (
        Package("bash", "5.2", "amd64", BASH_DIGEST),
        Package("own", "1", "amd64", ""),
    )


def test_a_package_of_the_stage_below_keeps_the_digest_of_what_was_installed_there(
    play: Play,
) -> None:
    play.fake.tell("metadata", {}, {"index": {"bash_5.2_amd64": "bash, built again"}})
    play.tell(BASE, lists_packages(BASE, bash="5.2"))
    play.tell(KERNEL, lists_packages(KERNEL, bash="5.2"))
    play.build(BASE)
    play.build(KERNEL)

    assert play.record(KERNEL).packages == (Package("bash", "5.2", "amd64", BASH_DIGEST),)


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
