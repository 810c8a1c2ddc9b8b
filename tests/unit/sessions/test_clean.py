"""What `clean` removes, and what it does not touch."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.sessions import clean
from scripts.system.errors import HarnessError, UsageError


def test_builds_and_what_is_kept_for_them_go_and_the_rest_stays(tmp_path: Path) -> None:
    for name in ("out/debian/x86_64/os-image.raw", ".work/debian/x86_64/stages/x", "mkosi.conf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    clean.clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mkosi.conf"]


def test_a_checkout_without_builds_is_clean(tmp_path: Path) -> None:
    clean.clean(tmp_path)


def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HarnessError, match="symbolic link"):
        clean.clean(tmp_path)
    assert (tmp_path / "elsewhere").exists()


def test_arguments_are_wrong_usage() -> None:
    with pytest.raises(UsageError):
        clean.main(["everything"])
