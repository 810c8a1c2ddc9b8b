"""Values changed in files that keep everything else."""

from __future__ import annotations

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
    Edit(toml, "version", "2").apply()

    assert toml.read_text() == TOML.replace('"1"', '"2"')


def test_a_list_grows_by_the_value(toml: Path) -> None:
    Edit(toml, "table.below.list", "b").apply()

    assert edits.value(toml, "table.below.list") == ["a", "b"]


def test_a_key_that_was_not_there_is_added(toml: Path) -> None:
    Edit(toml, "table.below.new", "value").apply()

    assert edits.value(toml, "table.below.new") == "value"


def test_of_a_mkosi_conf_the_first_setting_of_that_name_changes(tmp_path: Path) -> None:
    path = tmp_path / "mkosi.conf"
    path.write_text("# Release=0\nRelease=1\n[Other]\nRelease=1\n")
    Edit(path, "Release", r"2\1").apply()

    assert path.read_text() == "# Release=0\nRelease=2\\1\n[Other]\nRelease=1\n"


@pytest.mark.parametrize("key", ["nothing", "version.below", "table.nothing"])
def test_a_key_that_a_file_lacks_is_named_with_the_file(toml: Path, key: str) -> None:
    with pytest.raises(HarnessError, match=rf"pins\.toml has no {key}: "):
        edits.value(toml, key)
