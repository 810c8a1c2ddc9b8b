from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.distributions import debian
from scripts.mkosi import installation, package, source
from scripts.mkosi.patches import apply_series
from scripts.mkosi.pin import Pin
from scripts.mkosi.source import Mkosi
from scripts.system.errors import HarnessError, MachineError, UsageError
from scripts.system.progress import Progress
from tests.unit.server import Server

CONFIG = "".join(f"line {number}\n" for number in range(1, 41))

# To the second and to the last but one line of mkosi/config.py: two hunks.
PATCH = """\
From: Somebody <somebody@example.org>
Subject: [PATCH] Know of a distribution

---
 mkosi/config.py | 4 ++--
 1 file changed, 2 insertions(+), 2 deletions(-)

diff --git a/mkosi/config.py b/mkosi/config.py
--- a/mkosi/config.py
+++ b/mkosi/config.py
@@ -1,5 +1,5 @@
 line 1
-line 2
+line two
 line 3
 line 4
 line 5
@@ -36,5 +36,5 @@
 line 36
 line 37
 line 38
-line 39
+line thirty-nine
 line 40
"""


def make_package(folder: Path, version: str = "27.1") -> Path:
    """Something like mkosi's source tree, in folder."""
    package = folder / "mkosi"
    package.mkdir(parents=True)
    (package / "sandbox.py").write_text(f'import os\n\n__version__ = "{version}"\n')
    (package / "config.py").write_text(CONFIG)
    (package / "__main__.py").write_text(
        "from mkosi.sandbox import __version__\nprint('mkosi', __version__)\n"
    )
    return folder


def pack(tree: Path, archive: Path) -> Path:
    """A tarball as upstream's: all in one folder."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree, "mkosi-27.1")
    return archive


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_package(tmp_path / "source")


@pytest.fixture
def asked_for(tmp_path: Path, server: Server, tree: Path) -> Path:
    """A folder mkosi/ with the pin of a tarball that the server has."""
    archive = pack(tree, tmp_path / "v27.1.tar.gz").read_bytes()
    server.files["/v27.1.tar.gz"] = archive
    folder = tmp_path / "mkosi"
    folder.mkdir()
    pin(folder, server, hashlib.sha256(archive).hexdigest())
    return folder


def pin(folder: Path, server: Server, sha256: str) -> None:
    (folder / "pin.toml").write_text(
        f'version = "27.1"\n'
        f'[upstream]\nurl = "{server.url}/v27.1.tar.gz"\nsha256 = "{sha256}"\n'
        f'newest = "{server.url}/main.tar.gz"\npatched = ""\n'
        f'[debian]\npackage = "mkosi"\nsuites = ["testing"]\npatched = ""\n'
        f'[patches]\nfull-tree = ["0002-Test.patch"]\n'
    )


def renew(asked_for: Path) -> None:
    """Pin the digest that the tarball has with the patches as they are now, if they apply."""
    path = asked_for / "pin.toml"
    with contextlib.suppress(HarnessError):
        digest = source.digest_of_release(asked_for, asked_for.parent / "v27.1.tar.gz")
        path.write_text(re.sub('patched = ".*"', f'patched = "{digest}"', path.read_text()))


def obtain(asked_for: Path, given: Path | None = None, *, offline: bool = False) -> Mkosi:
    renew(asked_for)
    return obtain_as_pinned(asked_for, given, offline=offline)


def obtain_as_pinned(asked_for: Path, given: Path | None = None, *, offline: bool = False) -> Mkosi:
    work = asked_for.parent / "work"
    return source.obtain(asked_for, work, Progress(live=False), given=given, offline=offline)


def config(made: Mkosi) -> str:
    return (made.folder / "mkosi/config.py").read_text()


def test_the_pinned_tarball_is_fetched_and_unpacked(asked_for: Path, server: Server) -> None:
    made = obtain(asked_for)

    assert config(made) == CONFIG
    assert (made.version, made.source) == ("27.1", "upstream's tarball")
    assert server.asked == ["/v27.1.tar.gz"]


def test_a_second_time_nothing_is_downloaded(asked_for: Path, server: Server) -> None:
    first = obtain(asked_for)
    server.files.clear()

    assert obtain(asked_for) == first
    assert obtain(asked_for, offline=True) == first
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", ["mkosi/config.py", "mkosi.json"])
def test_what_was_written_to_since_is_not_used_again(
    asked_for: Path, server: Server, name: str
) -> None:
    first = obtain(asked_for)
    [path] = (asked_for.parent / "work/mkosi").glob(f"*/{name}")
    path.write_text("other\n")

    assert obtain(asked_for) == first
    assert config(first) == CONFIG
    assert len(server.asked) == 2


def test_a_tarball_that_is_not_the_pinned_one_is_deleted(asked_for: Path, server: Server) -> None:
    came = hashlib.sha256(server.files["/v27.1.tar.gz"]).hexdigest()
    pinned = "0" * 64
    pin(asked_for, server, pinned)

    with pytest.raises(HarnessError, match="is not the pinned file") as caught:
        obtain(asked_for)

    assert came in caught.value.message
    assert pinned in caught.value.message
    work = asked_for.parent / "work"
    assert not [path for path in work.rglob("*") if path.is_file()]


def test_where_no_source_answers_each_is_told(
    asked_for: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files.clear()

    def no_debian(*_: object, **__: object) -> Path:
        raise MachineError("this machine has no Debian archive")

    monkeypatch.setattr(debian, "download", no_debian)
    with pytest.raises(HarnessError, match=r"no source of mkosi 27\.1 answers") as caught:
        obtain(asked_for)

    assert f"{server.url}/v27.1.tar.gz" in caught.value.message
    assert "no Debian archive" in caught.value.message
    assert "MKOSI_SOURCE" in caught.value.hint


def test_offline_nothing_is_asked_for(asked_for: Path, server: Server) -> None:
    with pytest.raises(HarnessError, match="--offline"):
        obtain(asked_for, offline=True)

    assert server.asked == []


def test_a_patch_that_applies_is_applied_and_described(asked_for: Path) -> None:
    (asked_for / "0001-Know.patch").write_text(PATCH)
    made = obtain(asked_for)

    assert "line two\n" in config(made)
    assert "line thirty-nine\n" in config(made)
    assert made.patches == {"0001-Know.patch": hashlib.sha256(PATCH.encode()).hexdigest()}


def test_a_patch_applies_inside_a_git_checkout(asked_for: Path) -> None:
    subprocess.run(["git", "init", "--quiet", asked_for.parent], check=True)
    (asked_for / "0001-Know.patch").write_text(PATCH)

    assert "line two\n" in config(obtain(asked_for))


def test_patches_apply_in_the_order_of_their_names(asked_for: Path) -> None:
    (asked_for / "0001-Know.patch").write_text(PATCH)
    second = PATCH.replace("-line 2\n+line two", "-line two\n+line 2.0").replace(
        "-line 39\n+line thirty-nine", "-line thirty-nine\n+line 39.0"
    )
    (asked_for / "0002-Number.patch").write_text(second)

    assert "line 2.0\n" in config(obtain(asked_for))


def test_a_patch_of_the_source_tree_is_left_out_where_there_is_only_the_package(
    asked_for: Path,
) -> None:
    (asked_for / "0001-Know.patch").write_text(PATCH)
    (asked_for / "0002-Test.patch").write_text(PATCH.replace("config.py", "tests.py"))

    assert list(obtain(asked_for).patches) == ["0001-Know.patch"]


def test_a_patch_of_the_source_tree_is_applied_to_a_full_one(asked_for: Path, tree: Path) -> None:
    (tree / "pyproject.toml").touch()
    (tree / "tests").mkdir()
    (tree / "tests/config.py").write_text(CONFIG)
    (asked_for / "0002-Test.patch").write_text(PATCH.replace("mkosi/config.py", "tests/config.py"))
    made = obtain(asked_for, given=tree)
    apply_series(asked_for, Pin.read(asked_for / "pin.toml"), tree)

    assert list(made.patches) == ["0002-Test.patch"]
    assert "line two\n" in (tree / "tests/config.py").read_text()


def test_the_tree_before_the_patches_is_upstream_s_tarball(asked_for: Path, tmp_path: Path) -> None:
    (asked_for / "0001-Know.patch").write_text(PATCH)
    made = obtain(asked_for)
    before, reason = source.unpatched(
        made, asked_for, tmp_path / "scratch", given=None, offline=False
    )

    assert (before / "mkosi/config.py").read_text() == CONFIG
    assert reason == ""


def test_without_the_tarball_the_patches_are_taken_out_of_the_package(
    asked_for: Path, tmp_path: Path, server: Server
) -> None:
    (asked_for / "0001-Know.patch").write_text(PATCH)
    made = obtain(asked_for)
    server.files.clear()
    for offline in (True, False):
        before, reason = source.unpatched(
            made, asked_for, tmp_path / f"scratch-{offline}", given=None, offline=offline
        )

        assert (before / "mkosi/config.py").read_text() == CONFIG
        assert "tarball" in reason or "v27.1.tar.gz" in reason
    assert "line two\n" in config(made)


def test_the_tree_before_the_patches_is_the_one_that_the_user_named(
    asked_for: Path, tmp_path: Path, tree: Path
) -> None:
    (tree / "pyproject.toml").touch()
    made = obtain(asked_for, given=tree)
    (tmp_path / "scratch").mkdir()
    before, _ = source.unpatched(made, asked_for, tmp_path / "scratch", given=tree, offline=True)

    assert (before / "pyproject.toml").exists()


def test_another_patch_makes_another_mkosi(asked_for: Path) -> None:
    plain = obtain(asked_for)
    (asked_for / "0001-Know.patch").write_text(PATCH)
    patched = obtain(asked_for)

    assert patched.digest != plain.digest
    assert config(plain) == CONFIG


def test_a_patch_that_does_not_apply_names_file_and_hunk(asked_for: Path) -> None:
    (asked_for / "0001-Know.patch").write_text(PATCH.replace("line 38", "line XXXVIII"))

    with pytest.raises(HarnessError) as caught:
        obtain(asked_for)

    assert caught.value.message == (
        "0001-Know.patch does not apply to mkosi 27.1: hunk 2 of mkosi/config.py"
    )


def test_a_patch_of_a_file_that_is_not_there_says_so(asked_for: Path) -> None:
    (asked_for / "0001-Know.patch").write_text(PATCH.replace("config.py", "gone.py"))

    with pytest.raises(HarnessError, match=r"mkosi/gone\.py is not there"):
        obtain(asked_for)


def test_a_patch_that_is_none_says_so(asked_for: Path) -> None:
    (asked_for / "0001-Know.patch").write_text("<html>\n")

    with pytest.raises(HarnessError, match=r"0001-Know\.patch does not apply .*No valid patches"):
        obtain(asked_for)


def test_what_failed_is_not_taken_for_done(asked_for: Path) -> None:
    patch = asked_for / "0001-Know.patch"
    patch.write_text(PATCH.replace("line 38", "line XXXVIII"))
    with pytest.raises(HarnessError):
        obtain(asked_for)
    with pytest.raises(HarnessError, match="hunk 2"):
        obtain(asked_for)

    assert not list((asked_for.parent / "work/mkosi").iterdir())


def debian_package(tree: Path) -> Path:
    """A Debian package as Debian's mkosi."""
    root = tree.parent / "deb"
    shutil.copytree(tree / "mkosi", root / "usr/lib/python3/dist-packages/mkosi")
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: mkosi\nVersion: 27.1-1\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        "Description: x\n"
    )
    package = tree.parent / "mkosi_27.1-1_all.deb"
    command: list[str | Path] = [
        "dpkg-deb",
        "--root-owner-group",
        "-Znone",
        "--build",
        root,
        package,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return package


@pytest.mark.parametrize("kind", ["folder", "tarball", "package"])
def test_mkosi_is_taken_from_what_mkosi_source_names(
    asked_for: Path, server: Server, tree: Path, kind: str
) -> None:
    if kind == "package" and not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    given = {
        "folder": lambda: tree,
        "tarball": lambda: pack(tree, tree.parent / "own.tar.gz"),
        "package": lambda: debian_package(tree),
    }[kind]()
    (asked_for / "0001-Know.patch").write_text(PATCH)
    made = obtain(asked_for, given)

    assert "line two\n" in config(made)
    assert made.source == str(given)
    assert server.asked == []
    assert (tree / "mkosi/config.py").read_text() == CONFIG


def test_equal_mkosis_are_equal_wherever_they_came_from(asked_for: Path, tree: Path) -> None:
    assert obtain(asked_for, tree).digest == obtain(asked_for).digest


def test_a_change_in_the_folder_that_mkosi_source_names_is_noticed(
    asked_for: Path, tree: Path
) -> None:
    before = obtain(asked_for, tree)
    (tree / "mkosi/config.py").write_text("changed\n")

    assert obtain(asked_for, tree).digest != before.digest


@pytest.mark.parametrize("name", ["broken.tar.gz", "truncated.tar.gz", "broken.deb"])
def test_an_archive_that_is_none_is_named(asked_for: Path, tree: Path, name: str) -> None:
    given = tree.parent / name
    (tree / "mkosi/big").write_bytes(hashlib.shake_128(b"x").digest(100_000))
    whole = pack(tree, given).read_bytes()
    given.write_bytes(whole[:50_000] if "truncated" in name else b"<html>")

    with pytest.raises(HarnessError, match=f"{name} cannot be unpacked: "):
        obtain(asked_for, given)


def test_a_folder_without_mkosi_is_named(asked_for: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(HarnessError, match="empty does not contain mkosi"):
        obtain(asked_for, tmp_path / "empty")


def test_a_source_that_does_not_exist_is_wrong_usage(asked_for: Path) -> None:
    with pytest.raises(UsageError, match="MKOSI_SOURCE=/nowhere does not exist"):
        obtain(asked_for, Path("/nowhere"))


@pytest.mark.parametrize("text", ["", "version = 27", "[upstream]\n", "not toml"])
def test_a_broken_pin_is_wrong_usage(asked_for: Path, text: str) -> None:
    (asked_for / "pin.toml").write_text(text)

    with pytest.raises(UsageError, match=r"pin\.toml is not a pin of mkosi"):
        obtain(asked_for)


def test_mkosi_is_installed_as_a_distribution_that_runs(asked_for: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    installation.install(obtain(asked_for), site)
    result = subprocess.run(
        ["python3", "-m", "mkosi"], env={"PYTHONPATH": str(site)}, capture_output=True, check=True
    )

    assert result.stdout == b"mkosi 27.1\n"
    assert (site / "mkosi-27.1.dist-info/METADATA").exists()


def test_the_same_mkosi_is_not_installed_again(asked_for: Path, tmp_path: Path) -> None:
    made = obtain(asked_for)
    installation.install(made, tmp_path)
    before = (tmp_path / "mkosi/config.py").stat()
    installation.install(made, tmp_path)

    assert (tmp_path / "mkosi/config.py").stat() == before


def test_another_mkosi_takes_the_place_of_the_one_before(asked_for: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    installation.install(obtain(asked_for), site)
    (site / "mkosi/stale.py").touch()
    installation.install(obtain(asked_for, make_package(tmp_path / "newer", "28~devel")), site)

    assert not (site / "mkosi/stale.py").exists()
    assert '"28~devel"' in (site / "mkosi/sandbox.py").read_text()
    assert [path.name for path in site.glob("*.dist-info")] == ["mkosi-28~devel.dist-info"]


def test_an_installation_that_broke_off_is_made_again(asked_for: Path, tmp_path: Path) -> None:
    made = obtain(asked_for)
    installation.install(made, tmp_path)
    (tmp_path / "mkosi/config.py").unlink()
    installation.install(made, tmp_path)

    assert (tmp_path / "mkosi/config.py").read_text() == CONFIG


def test_builds_that_share_a_venv_do_not_disturb_each_other(
    asked_for: Path, tmp_path: Path
) -> None:
    made = obtain(asked_for)
    for number in range(200):
        (made.folder / f"mkosi/module{number}.py").touch()
    made = replace(made, digest=package.digest(made.folder / "mkosi"))
    site = tmp_path / "site"
    site.mkdir()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: installation.install(made, site), range(4)))

    assert len(list((site / "mkosi").glob("module*.py"))) == 200
