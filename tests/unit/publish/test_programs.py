from __future__ import annotations

from pathlib import Path

import pytest

from scripts.distributions import debian
from scripts.publish import programs
from scripts.system.errors import MachineError
from scripts.system.progress import Progress


def test_the_package_of_a_program_comes_with_it() -> None:
    for name, source in programs.known().items():
        assert {"qemu-img": "qemu-utils"}.get(name, name) in source.packages
        assert source.path == f"usr/bin/{name}"


def test_whoever_prepares_has_all_programs_before_there_are_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(debian, "find", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    names = [*programs.known()]
    for name in names[1:]:
        (tmp_path / name).touch(mode=0o755)
    with pytest.raises(MachineError, match=f"{names[0]} is not installed"):
        programs.prepare(tmp_path / "work", Progress(live=False))
    (tmp_path / names[0]).touch(mode=0o755)

    programs.prepare(tmp_path / "work", Progress(live=False))
