from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.distributions import debian, programs
from scripts.distributions.programs import Source
from scripts.system.errors import MachineError
from scripts.system.process import Arg
from scripts.system.progress import Progress

SOURCE = Source("usr/bin/no-such-program", ("no-such-package",))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose apt knows no archive of Debian; its PATH."""
    monkeypatch.setattr(debian, "find", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_where_there_is_no_debian_the_program_on_path_is_taken(elsewhere: Path) -> None:
    (elsewhere / "skopeo").touch(mode=0o755)

    found = programs.obtain("skopeo", SOURCE, elsewhere / "work", Progress(live=False))
    assert found == [str(elsewhere / "skopeo")]


def test_a_program_that_is_nowhere_is_named(elsewhere: Path) -> None:
    with pytest.raises(MachineError, match="skopeo is not installed"):
        programs.obtain("skopeo", SOURCE, elsewhere / "work", Progress(live=False))


def test_two_threads_may_obtain_the_same_program_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = threading.Barrier(2, timeout=10)

    def unpack(_debs: Sequence[Path], partial: Path) -> None:
        linker = partial / "usr/lib/any-linux-gnu"
        linker.mkdir(parents=True)
        both.wait()
        (linker / "ld-linux-any.so.2").touch()

    monkeypatch.setattr(debian, "find", lambda: "apt")
    monkeypatch.setattr(debian, "download_all", lambda *_: [])
    monkeypatch.setattr(programs, "extract_packages", unpack)

    def obtain(_number: int) -> list[Arg]:
        return programs.obtain("skopeo", SOURCE, tmp_path, Progress(live=False))

    with ThreadPoolExecutor(2) as pool:
        commands = list(pool.map(obtain, range(2)))
    [root] = (tmp_path / "programs").iterdir()
    assert [command[-1] for command in commands] == [root / SOURCE.path] * 2


def test_a_table_names_each_program_with_its_path_and_packages(tmp_path: Path) -> None:
    table = tmp_path / "programs.toml"
    table.write_text('[skopeo]\npath = "usr/bin/skopeo"\npackages = ["skopeo", "libc6"]\n')

    assert programs.read(table) == {"skopeo": Source("usr/bin/skopeo", ["skopeo", "libc6"])}
