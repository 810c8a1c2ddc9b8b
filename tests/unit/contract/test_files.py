"""Many small files, written here and read here, as on either side of a mount."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from scripts.contract import files


def test_files_are_not_written_faster_than_asked_for(tmp_path: Path) -> None:
    written, seconds = files.write(str(tmp_path), "salt", 100, 0.5)
    assert 0 < written <= 50
    assert written == len(list(tmp_path.iterdir()))
    assert written / seconds <= 105


def test_whoever_cannot_keep_up_the_rate_stops_in_time(tmp_path: Path) -> None:
    began = time.monotonic()
    written, _ = files.write(str(tmp_path), "salt", 1_000_000, 0.3)
    assert written < 300_000
    assert time.monotonic() - began < 2


def test_the_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    files.write(str(tmp_path / "one"), "salt", 100, 0.5)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    number, digest = files.digest(str(tmp_path / "one"))
    assert files.expected("salt", number) == (number, digest)
    assert files.digest(str(tmp_path / "other")) == (number, digest)
    (tmp_path / "other/000001").write_bytes(files.content("salt", 1)[:-1] + b"x")
    assert files.digest(str(tmp_path / "other")) != (number, digest)
    (tmp_path / "one/000001").rename(tmp_path / "one/000001 ")
    assert files.digest(str(tmp_path / "one")) != (number, digest)


def test_files_differ_from_each_other_and_by_salt() -> None:
    assert len({files.content("a", number) for number in range(1, 256)}) == 255
    assert files.content("a", 7) != files.content("b", 7)
