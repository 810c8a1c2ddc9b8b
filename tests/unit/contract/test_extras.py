"""Disks with Debian's programs, made with the real dpkg-deb and e2fsprogs of this machine."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.arch import AARCH64, X86_64, Arch
from scripts.contract import extras
from scripts.contract.extras import Extra, Program
from scripts.distributions import debian
from scripts.formats.disk import Partition
from scripts.formats.ext4 import Ext4
from scripts.system.errors import HarnessError, MachineError
from scripts.system.process import Arg, CommandError, run
from tests.unit.contract.tools import HostTools

EXTRA = Extra(
    "things",
    {"trixie": ["greeter"]},
    {"box": Program("trixie", "static", "usr/bin/static", ["box", "sh"])},
)


TOOLS = HostTools(Path("/"), Path("/nowhere"))


class Debian:
    """An archive whose every package has one program, which says its name and architecture."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def download_all(
        self, packages: Sequence[str], suites: list[str], folder: Path, *, arch: str
    ) -> list[Path]:
        """Build packages with dpkg-deb."""
        self.asked += [(suite, package, arch) for suite in suites for package in packages]
        return [self._deb(package, folder, arch) for package in packages]

    def _deb(self, package: str, folder: Path, arch: str) -> Path:
        tree, deb = folder / package, folder / f"{package}.deb"
        for path, text in {
            "DEBIAN/control": f"Package: {package}\nVersion: 1\nArchitecture: {arch}\n"
            "Maintainer: a test <test@finch.invalid>\nDescription: a test\n",
            f"usr/bin/{package}": f"{package} for {arch}",
        }.items():
            (tree / path).parent.mkdir(parents=True)
            (tree / path).write_text(text)
        (tree / "usr/bin" / package).chmod(0o755)
        run(["dpkg-deb", "--root-owner-group", "--build", tree, deb])
        return deb


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Debian:
    for program in ("dpkg-deb", "mkfs.ext4", "debugfs"):
        if not shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin"):
            pytest.skip(f"this machine has no {program}")
    built = Debian()
    monkeypatch.setattr(debian, "download_all", built.download_all)
    monkeypatch.setattr(extras, "known", lambda: {EXTRA.name: EXTRA})
    return built


def read(disk: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the mode, the owner and the contents of every file on disk."""
    partition = Partition(1, "", "", "things", 0, disk.stat().st_size)
    with disk.open("rb") as file:
        reader = Ext4(file, partition)
        return {
            entry.path: (entry.mode & 0o7777, entry.uid, reader.read(entry))
            for entry in reader.walk()
            if not entry.is_folder
        }


def build(kept: Path, arch: Arch = X86_64) -> Path:
    return extras.build(EXTRA.name, arch, TOOLS, kept)


def test_a_disk_has_the_programs_of_the_guest_s_architecture(
    archive: Debian, tmp_path: Path
) -> None:
    assert read(build(tmp_path, AARCH64))["/usr/bin/greeter"] == (0o755, 0, b"greeter for arm64")
    assert ("trixie", "greeter", "arm64") in archive.asked


def test_a_container_image_has_the_program_of_every_architecture(
    archive: Debian, tmp_path: Path
) -> None:
    image = tmp_path / "box.tar"
    dump: list[Arg] = ["debugfs", "-R", f"dump /images/box.tar {image}", build(tmp_path)]
    run(TOOLS.command(dump))
    programs = set()
    with tarfile.open(image) as tar:
        for blob in filter(None, map(tar.extractfile, tar)):
            if blob.read(1) == b"b":  # a layer, whose first member is bin/box; the rest is JSON
                blob.seek(0)
                with tarfile.open(fileobj=blob) as layer:
                    assert layer.getnames() == ["bin/box", "bin/sh"]
                    [program] = [layer.extractfile("bin/box")]
                    assert program
                    programs.add(program.read())
    assert programs == {b"static for amd64", b"static for arm64"}
    assert {arch for _, package, arch in archive.asked if package == "static"} == {"amd64", "arm64"}


def test_two_scenarios_that_need_a_disk_at_once_make_it_once(
    archive: Debian, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        disks = {*pool.map(build, [tmp_path, tmp_path])}
    assert len(disks) == 1
    assert len(archive.asked) == len({*archive.asked})


def test_our_own_files_are_added(
    archive: Debian, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "OWN", tmp_path / "own")
    (tmp_path / "own/things").mkdir(parents=True)
    (tmp_path / "own/things/lib.sh").write_text("true")
    assert read(build(tmp_path))["/lib.sh"][2] == b"true"
    assert archive.asked


@pytest.mark.usefixtures("archive")
def test_users_may_read_our_own_files_whatever_the_umask_of_the_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "OWN", tmp_path / "own")
    (tmp_path / "own/things/sub").mkdir(parents=True, mode=0o700)
    (tmp_path / "own/things").chmod(0o700)
    for name, mode in {"lib.sh": 0o600, "sub/run": 0o700}.items():
        (tmp_path / "own/things" / name).write_text("true")
        (tmp_path / "own/things" / name).chmod(mode)
    disk = build(tmp_path)
    modes = {path: mode for path, (mode, _, _) in read(disk).items()}
    assert (modes["/lib.sh"], modes["/sub/run"]) == (0o644, 0o755)
    with disk.open("rb") as file:
        reader = Ext4(file, Partition(1, "", "", "things", 0, disk.stat().st_size))
        folders = {one.path: one.mode & 0o777 for one in reader.walk() if one.is_folder}
    assert folders["/sub"] == 0o755


def test_a_label_names_the_disk(archive: Debian, tmp_path: Path) -> None:
    superblock = build(tmp_path).read_bytes()[1024:2048]
    assert superblock[0x78:0x88].rstrip(b"\0") == b"things"
    assert archive.asked


def test_a_disk_is_made_once(archive: Debian, tmp_path: Path) -> None:
    first = build(tmp_path)
    archive.asked.clear()
    assert build(tmp_path) == first
    assert archive.asked == []


def test_nothing_is_left_of_a_disk_that_cannot_be_made(
    archive: Debian, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> list[Path]:
        raise CommandError(["apt-get"], 100, "E: Unable to locate package greeter")

    monkeypatch.setattr(debian, "download_all", fail)
    with pytest.raises(MachineError, match="Unable to locate package greeter"):
        build(tmp_path)
    assert [*(tmp_path / "extras").iterdir()] == []
    assert archive.asked == []


def test_a_disk_that_is_not_in_the_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="'nonsense'"):
        extras.build("nonsense", X86_64, TOOLS, tmp_path)


def test_a_change_of_anything_makes_another_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities = [
        EXTRA.identity(X86_64),
        EXTRA.identity(AARCH64),
        replace(EXTRA, packages={"bookworm": ["greeter"]}).identity(X86_64),
        replace(EXTRA, images={}).identity(X86_64),
    ]
    monkeypatch.setattr(extras, "OWN", tmp_path)
    (tmp_path / "things").mkdir()
    (tmp_path / "things/lib.sh").touch()
    identities.append(EXTRA.identity(X86_64))
    assert len({*identities}) == len(identities)


def test_the_list_s_own_folders_are_those_of_disks() -> None:
    assert {path.name for path in extras.OWN.iterdir()} <= extras.known().keys()


def test_a_disk_that_cannot_be_written_is_an_error_with_the_last_line_of_mkfs(
    archive: Debian, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del archive
    monkeypatch.setattr(extras, "ROOM", 0)
    with pytest.raises(HarnessError, match=r"the disk things cannot be written: ."):
        build(tmp_path)
    assert not list((tmp_path / "extras").iterdir())
