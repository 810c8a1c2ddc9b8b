from __future__ import annotations

from pathlib import Path

import pytest

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
