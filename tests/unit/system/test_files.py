from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.system import files
from scripts.system.errors import HarnessError
from scripts.system.files import nearest, remove, write_text


def test_equal_text_is_not_written_again(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "text")
    before = (tmp_path / "file").stat()
    write_text(tmp_path / "file", "text")

    assert (tmp_path / "file").stat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_not_there_is_removed_already(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")


def test_a_folder_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "folder/in it").mkdir(parents=True)

    remove(tmp_path / "folder")

    assert not (tmp_path / "folder").exists()


def test_the_nearest_folder_is_the_path_itself_or_one_above_it(tmp_path: Path) -> None:
    assert nearest(tmp_path) == tmp_path
    assert nearest(tmp_path / "not/there") == tmp_path


def refuse(_: Path) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(("user", "hint"), [(0, ""), (1000, "sudo rm -rf '")])
def test_a_folder_that_cannot_be_removed_is_named_and_a_user_told_of_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, hint: str
) -> None:
    monkeypatch.setattr("scripts.system.files.shutil.rmtree", refuse)
    monkeypatch.setattr("scripts.system.files.os.geteuid", lambda: user)
    monkeypatch.setenv("PATH", "/nowhere")  # without unshare

    with pytest.raises(HarnessError, match="folder cannot be removed: ") as caught:
        remove(tmp_path / "folder")

    assert caught.value.hint.startswith(hint)
    assert bool(caught.value.hint) == bool(hint)


@pytest.mark.parametrize("write", [files.write_text, files.write_private])
def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(
    tmp_path: Path, write: Callable[[Path, str], None]
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("precious")
    for name in ("file", f".file.{os.getpid()}"):
        (tmp_path / name).symlink_to(victim)
    write(path, "precious")

    assert not path.is_symlink()
    assert victim.read_text() == path.read_text() == "precious"


def test_a_secret_is_for_this_user_only_even_where_a_file_was_for_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("MARK")
    (tmp_path / "file").chmod(0o666)
    files.write_private(tmp_path / "file", "MARK")

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder/in").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        files.write_private(tmp_path / "folder", "MARK")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_of_a_link_to_a_folder_only_the_link_is_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    files.remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a plain file"):
        files.open_plain(tmp_path / "pipe")


def test_folders_that_are_nested_more_deeply_than_python_goes_are_removed(tmp_path: Path) -> None:
    top = at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        if at != top:
            os.close(at)
        at = below
    os.close(at)
    os.close(top)
    remove(tmp_path / "d")
    assert not (tmp_path / "d").exists()
