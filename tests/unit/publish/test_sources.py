"""Files of a build are read for what they are, never for what they lead to."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from scripts.publish import sources
from scripts.system.errors import HarnessError


@pytest.mark.parametrize("name", ["os-image.raw", "container-with-kernel/blobs/sha256/ab", "ä b"])
def test_names_that_builds_make_stay_in_their_folder(name: str) -> None:
    assert sources.is_inside(name)


@pytest.mark.parametrize(
    "name", ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\\b", "a\0", "\x9b"]
)
def test_names_that_leave_their_folder_or_a_terminal_s_line_do_not(name: str) -> None:
    assert not sources.is_inside(name)


def test_a_file_is_copied_with_the_digest_that_it_should_have(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_text("text")
    digest = hashlib.sha512(b"text").hexdigest()
    assert sources.digest(tmp_path, "a/b") == digest
    sources.copy(tmp_path, "a/b", tmp_path / "c/d", digest)
    assert (tmp_path / "c/d").read_text() == "text"
    with pytest.raises(HarnessError, match="a/b has been changed since it was built"):
        sources.copy(tmp_path, "a/b", tmp_path / "c/d", "0" * 128)


def test_a_folder_or_a_file_in_place_of_the_other_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(HarnessError, match="folder is not a regular file"):
        sources.opened(tmp_path, "folder")
    with pytest.raises(HarnessError, match="file/x leads through a symbolic link"):
        sources.opened(tmp_path, "file/x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0)
    with pytest.raises(HarnessError, match="secret cannot be read: Permission denied"):
        sources.opened(tmp_path, "secret")
