from __future__ import annotations

from pathlib import Path

import pytest

from scripts.build import runner


@pytest.fixture
def common(tmp_path: Path) -> Path:
    """A package cache that several share."""
    folder = tmp_path / "common"
    folder.mkdir()
    return folder


def test_a_deb_is_shared_without_a_copy(common: Path, tmp_path: Path) -> None:
    (common / "bash.deb").write_text("bash")

    runner.share(common, tmp_path / "own")

    assert (tmp_path / "own/bash.deb").samefile(common / "bash.deb")


def test_an_rpm_that_is_written_over_stays_as_it_was_for_others(
    common: Path, tmp_path: Path
) -> None:
    (common / "dnf").mkdir()
    (common / "dnf/bash.rpm").write_text("bash")

    runner.share(common, tmp_path / "own")
    (tmp_path / "own/dnf/bash.rpm").write_text("another bash")

    assert (common / "dnf/bash.rpm").read_text() == "bash"


def test_a_package_that_is_still_on_its_way_is_not_shared(common: Path, tmp_path: Path) -> None:
    (common / "archives/partial").mkdir(parents=True)
    (common / "archives/partial/bash.deb").write_text("ba")

    runner.share(common, tmp_path / "own")

    assert not [path for path in tmp_path.glob("own/**/*") if path.is_file()]


def test_what_is_no_package_is_not_shared(common: Path, tmp_path: Path) -> None:
    (common / "lock").touch()

    runner.share(common, tmp_path / "own")

    assert not list(tmp_path.glob("own/*"))
