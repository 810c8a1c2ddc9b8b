from __future__ import annotations

from pathlib import Path

from scripts.system.files import remove, write_text


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
