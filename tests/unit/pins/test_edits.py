"""Values changed in files that keep everything else."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest

from scripts.pins import edits
from scripts.pins.edits import Edit
from scripts.system.errors import HarnessError

TOML = """\
# Why.
version = "1"  # the first

[table.below]
list = ["a"]
"""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "pins.toml"
    path.write_text(TOML)
    return path


def test_a_value_is_replaced_and_its_comment_stays(toml: Path) -> None:
    edits.apply([Edit(toml, "version", "2")])

    assert toml.read_text() == TOML.replace('"1"', '"2"')


def test_a_list_grows_by_the_value(toml: Path) -> None:
    edits.apply([Edit(toml, "table.below.list", "b")])

    assert edits.value(toml, "table.below.list") == ["a", "b"]


def test_a_key_that_was_not_there_is_added(toml: Path) -> None:
    edits.apply([Edit(toml, "table.below.new", "value")])

    assert edits.value(toml, "table.below.new") == "value"


def test_of_a_mkosi_conf_the_first_setting_of_that_name_changes(tmp_path: Path) -> None:
    path = tmp_path / "mkosi.conf"
    path.write_text("# Release=0\nRelease=1\n[Other]\nRelease=1\n")
    edits.apply([Edit(path, "Release", r"2\1")])

    assert path.read_text() == "# Release=0\nRelease=2\\1\n[Other]\nRelease=1\n"


@pytest.mark.parametrize("key", ["nothing", "version.below", "table.nothing"])
def test_a_key_that_a_file_lacks_is_named_with_the_file(toml: Path, key: str) -> None:
    with pytest.raises(HarnessError, match=rf"pins\.toml has no {key}: "):
        edits.value(toml, key)


def test_all_values_of_a_file_change_at_once(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(edits, "write_text", lambda _, text: written.append(text))
    edits.apply([Edit(toml, "version", "2"), Edit(toml, "table.below.list", "b")])

    assert written == [TOML.replace('"1"', '"2"').replace('["a"]', '["a", "b"]')]


def test_if_one_file_cannot_be_read_none_changes(toml: Path) -> None:
    broken = toml.with_name("broken.toml")
    broken.write_text("version = ")
    for other in (broken, toml.with_name("missing.toml")):
        with pytest.raises(HarnessError, match=rf"{other.name} cannot be changed: "):
            edits.apply([Edit(toml, "version", "2"), Edit(other, "version", "2")])
    assert toml.read_text() == TOML


def test_a_file_that_cannot_be_written_is_named(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a checkout that is read-only, but for root too.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", ".pins.toml.x")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(HarnessError, match=r"/pins\.toml cannot be changed: Permission denied$"):
        edits.apply([Edit(toml, "version", "2")])
