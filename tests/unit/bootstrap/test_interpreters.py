"""Where interpreters are looked for, with shell scripts in their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.bootstrap import interpreters


def put(path: Path, *, version: str = "3.12", status: int = 0) -> Path:
    """A program that answers as an interpreter of version does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\necho '{path}'\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "bin")}


def test_path_comes_first(tmp_path: Path, environ: dict[str, str]) -> None:
    put(tmp_path / "home/.pyenv/versions/3.12.9/bin/python3.12")
    on_path = put(tmp_path / "bin/python3.12")
    assert interpreters.find("3.12", environ) == on_path


def test_a_shim_that_fails_is_passed_over(tmp_path: Path, environ: dict[str, str]) -> None:
    put(tmp_path / "bin/python3.12", status=127)
    real = put(tmp_path / "home/.pyenv/versions/3.12.9/bin/python3.12")
    assert interpreters.find("3.12", environ) == real


def test_a_program_of_the_name_but_another_version_is_passed_over(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    put(tmp_path / "bin/python3.12", version="3.13")
    assert interpreters.find("3.12", environ) is None


def test_the_newest_patch_of_pyenv_s_is_taken(tmp_path: Path, environ: dict[str, str]) -> None:
    put(tmp_path / "elsewhere/versions/3.12.9/bin/python3.12")
    newest = put(tmp_path / "elsewhere/versions/3.12.10/bin/python3.12")
    environ["PYENV_ROOT"] = str(tmp_path / "elsewhere")
    assert interpreters.find("3.12", environ) == newest


def test_what_uv_has_fetched_before_is_found(tmp_path: Path, environ: dict[str, str]) -> None:
    folder = tmp_path / "home/.local/share/uv/python/cpython-3.12.4-linux-x86_64-gnu"
    fetched = put(folder / "bin/python3.12")
    assert interpreters.find("3.12", environ) == fetched


def test_where_there_is_none_uv_is_asked_for_one(tmp_path: Path, environ: dict[str, str]) -> None:
    fetched = tmp_path / "fetched/python3.12"
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\necho '{fetched}'\n")
    uv.chmod(0o755)
    assert interpreters.find_or_fetch("3.12", uv, environ) == fetched


def test_where_uv_fails_too_its_reason_and_other_ways_are_told(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'error: no\n  cause: the network is down' >&2\nexit 1\n")
    uv.chmod(0o755)
    with pytest.raises(interpreters.Lacking, match=r"\(the network is down\)") as caught:
        interpreters.find_or_fetch("3.12", uv, environ)
    assert "pyenv install 3.12" in caught.value.hint


def test_where_uv_fails_without_a_word_its_status_is_told(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    uv = put(tmp_path / "uv", status=7)
    with pytest.raises(interpreters.Lacking, match=r"could not fetch it \(status 7\)"):
        interpreters.find_or_fetch("3.12", uv, environ)


def test_where_uv_itself_does_not_run_that_is_told(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(interpreters.Lacking, match="No such file or directory"):
        interpreters.find_or_fetch("3.12", tmp_path / "no uv", environ)


def test_a_program_that_says_nothing_is_passed_over(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    program = put(tmp_path / "bin/python3.12")
    program.write_text("#!/bin/sh\n")
    assert interpreters.find("3.12", environ) is None


def test_where_downloads_are_forbidden_uv_is_not_asked(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    with pytest.raises(interpreters.Lacking):
        interpreters.find_or_fetch("3.12", tmp_path / "no uv", environ, download=False)


@pytest.mark.parametrize(
    ("text", "expected"), [("3.12", True), ("3.12.1", False), ("pypy3.11", False), ("/x", False)]
)
def test_only_minor_versions_are_looked_for(text: str, expected: bool) -> None:
    assert interpreters.is_version(text) is expected
