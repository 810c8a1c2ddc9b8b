"""Quickstart: a build, then its boot test."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.options import Options
from scripts.sessions import boot_test, build, quickstart
from scripts.system.errors import HarnessError


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Options]]:
    """What quickstart did, in order, instead of building and booting."""
    done: list[tuple[str, Options]] = []
    monkeypatch.setattr(build, "run", lambda options, _: done.append(("build", options)))
    monkeypatch.setattr(boot_test, "run", lambda options, _: done.append(("boot", options)))
    return done


def test_what_was_built_is_booted(done: list[tuple[str, Options]], tmp_path: Path) -> None:
    quickstart.main(["--distribution", "debian", "--accel", "tcg", "--out", str(tmp_path)])

    assert [step for step, _ in done] == ["build", "boot"]
    assert {options.boot.accel for _, options in done} == {"tcg"}
    assert {options.artifacts.parent for _, options in done} == {tmp_path / "debian"}


def test_nothing_is_booted_if_the_build_failed(
    done: list[tuple[str, Options]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise HarnessError("no")

    monkeypatch.setattr(build, "run", fail)
    with pytest.raises(HarnessError):
        quickstart.main(["--distribution", "debian"])

    assert done == []
