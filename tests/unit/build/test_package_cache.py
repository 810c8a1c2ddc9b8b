"""Attacks by somebody who can write to the kept packages: what mkosi is offered all the same."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scripts.build.package_cache import Dropped, keep, offer
from scripts.distributions.index import Index, Listed
from scripts.system.digests import text_digest

ARCHIVES = "cache/apt/archives"
DEB = f"{ARCHIVES}/bash_5.2_amd64.deb"
OTHER = f"{ARCHIVES}/tar_1.35_amd64.deb"
RPM = "cache/dnf/packages/amazonlinux/bash-5.2-1.x86_64.rpm"


def listed(path: str, contents: str) -> Listed:
    name = Path(path).name.partition("_")[0]
    return Listed(name, "5.2", "amd64", len(contents), text_digest(contents), path)


CONTENTS = {DEB: "bash", OTHER: "tar!", RPM: "an RPM"}
INDEX = Index(
    {path: listed(path, text) for path, text in CONTENTS.items()},
    {"trixie": datetime(2026, 11, 21, tzinfo=UTC)},
)


class Cache:
    """The kept packages, and the package cache that one stage is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = folder / "kept"
        self.own = folder / "own"
        self.kept.mkdir()

    def put(self, path: str, contents: str) -> Path:
        """Put a file among the kept packages."""
        target = self.kept / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(contents)
        return target

    def offer(self) -> list[Dropped]:
        return list(offer(self.kept, self.own, INDEX))

    @property
    def offered(self) -> dict[str, str]:
        """What the stage finds."""
        files = [path for path in self.own.rglob("*") if not path.is_dir()]
        return {path.relative_to(self.own).as_posix(): path.read_text() for path in files}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_packages_that_are_as_the_index_has_them_are_offered(cache: Cache) -> None:
    for path, contents in CONTENTS.items():
        cache.put(path, contents)

    assert cache.offer() == []
    assert cache.offered == CONTENTS


@pytest.mark.parametrize(
    ("path", "contents", "reason"),
    [
        (DEB, "EVIL", "its sha256 is not the one"),
        (DEB, "bash and more", "it has 13 bytes, not the 4"),
        (DEB, CONTENTS[OTHER], "its sha256 is not the one"),
        (RPM, "an rpm", "its sha256 is not the one"),
    ],
    ids=["a-deb-of-the-right-size", "another-size", "another-package", "an-older-signed-rpm"],
)
def test_a_file_in_the_place_of_a_package_is_removed_and_told(
    cache: Cache, path: str, contents: str, reason: str
) -> None:
    planted = cache.put(path, contents)

    [dropped] = cache.offer()

    assert (dropped.name, dropped.differs) == (Path(path).name, True)
    assert reason in dropped.reason
    assert cache.offered == {}
    assert not planted.exists()


@pytest.mark.parametrize(
    "path",
    [
        f"{ARCHIVES}/bash_5.1_amd64.deb",
        f"{ARCHIVES}/bash_5.2_all.deb",
        f"{ARCHIVES}/partial/bash_5.2_amd64.deb",
        "bash_5.2_amd64.deb",
        "cache/dnf/packages/other/bash-5.2-1.x86_64.rpm",
        "cache/apt/pkgcache.bin",
        "lib/apt/lists/mirror_dists_trixie_main_binary-amd64_Packages",
        "cache/dnf/amazonlinux-0123/repodata/repomd.xml",
        f"{ARCHIVES}/{'x' * 200}\x1b[31m\n\udcff",
    ],
)
def test_what_the_index_does_not_name_is_removed_even_if_its_bytes_are_good(
    cache: Cache, path: str
) -> None:
    cache.put(DEB, CONTENTS[DEB])
    planted = cache.put(path, CONTENTS[DEB])

    [dropped] = cache.offer()

    assert not dropped.differs
    assert str(dropped).isprintable()
    assert cache.offered == {DEB: CONTENTS[DEB]}
    assert not planted.exists()


def link_to_file(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def link_to_nothing(path: Path, outside: Path) -> None:
    path.symlink_to(outside.with_name("nothing"))


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.mkdir()
    (path / "within").touch()


@pytest.mark.parametrize("plant", [link_to_file, link_to_nothing, pipe, folder])
def test_what_is_no_regular_file_is_removed_and_nothing_behind_it_touched(
    cache: Cache, plant: Callable[[Path, Path], None]
) -> None:
    outside = cache.folder / "outside"
    outside.write_text(CONTENTS[DEB])
    path = cache.kept / DEB
    path.parent.mkdir(parents=True)
    plant(path, outside)

    [dropped] = cache.offer()

    assert dropped.differs
    assert cache.offered == {}
    assert not os.path.lexists(path)
    assert outside.read_text() == CONTENTS[DEB]


@pytest.mark.parametrize("part", ["", "cache", "cache/apt", ARCHIVES])
def test_a_folder_that_is_a_link_is_removed_and_nothing_written_behind_it(
    cache: Cache, part: str
) -> None:
    outside = cache.folder / "outside"
    outside.mkdir()
    (outside / "victim.deb").write_text("a file of the host")
    link = cache.kept / part
    if not part:
        cache.kept.rmdir()
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)

    cache.offer()
    fetched = cache.own / DEB
    fetched.parent.mkdir(parents=True)
    fetched.write_text(CONTENTS[DEB])
    keep(cache.own, cache.kept)

    assert (cache.kept / DEB).read_text() == CONTENTS[DEB]
    assert [path.name for path in outside.iterdir()] == ["victim.deb"]


@pytest.fixture
def deep(cache: Cache) -> Iterator[None]:
    """Folders among the kept packages that are deeper than Python can recurse."""
    start = os.open(cache.kept, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=start)
        below = os.open("d", os.O_RDONLY, dir_fd=start)
        os.close(start)
        start = below
    os.close(start)
    yield
    # pytest could not remove what a test that fails leaves behind.
    subprocess.run(["rm", "-rf", cache.kept], check=True)


@pytest.mark.usefixtures("deep")
def test_folders_deeper_than_python_can_recurse_are_removed(cache: Cache) -> None:
    cache.put(DEB, CONTENTS[DEB])

    [dropped] = cache.offer()

    assert dropped.name == "d"
    assert [path.name for path in cache.kept.iterdir()] == ["cache"]


def test_what_is_written_to_a_kept_package_later_does_not_reach_what_was_offered(
    cache: Cache,
) -> None:
    kept = cache.put(DEB, CONTENTS[DEB])
    cache.offer()
    with kept.open("r+") as file:  # as somebody does that holds another link to it
        file.write("EVIL")

    assert cache.offered == {DEB: CONTENTS[DEB]}


def test_what_a_stage_does_to_its_packages_does_not_reach_the_next_stage(cache: Cache) -> None:
    cache.put(DEB, CONTENTS[DEB])
    cache.offer()
    with (cache.own / DEB).open("r+") as file:
        file.write("EVIL")
    keep(cache.own, cache.kept)

    [dropped] = cache.offer()

    assert dropped.differs
    assert cache.offered == {}


def test_only_whole_packages_are_kept(cache: Cache) -> None:
    for path in (DEB, f"{ARCHIVES}/partial/tar_1.35_amd64.deb", "cache/apt/pkgcache.bin", "lock"):
        (cache.own / path).parent.mkdir(parents=True, exist_ok=True)
        (cache.own / path).write_text("text")
    (cache.own / ARCHIVES / "link.deb").symlink_to("/etc/passwd")

    keep(cache.own, cache.kept)

    files = [path for path in cache.kept.rglob("*") if path.is_symlink() or not path.is_dir()]
    assert files == [cache.kept / DEB]


def test_a_checkout_in_a_folder_called_partial_keeps_packages_too(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    cache = Cache(tmp_path / "partial")
    (cache.own / DEB).parent.mkdir(parents=True)
    (cache.own / DEB).write_text(CONTENTS[DEB])

    keep(cache.own, cache.kept)

    assert (cache.kept / DEB).exists()
