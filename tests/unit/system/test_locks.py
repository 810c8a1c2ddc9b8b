from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.system.errors import HarnessError
from scripts.system.locks import only_build

HOLDER = """\
import sys, time
from pathlib import Path
from scripts.system.locks import only_build
with only_build(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_build(checkout: Path, work: Path) -> Iterator[subprocess.Popen[bytes]]:
    command: list[str | Path] = [sys.executable, "-c", HOLDER, work]
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"locked\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_build_is_told_which_process_has_the_lock(checkout: Path, tmp_path: Path) -> None:
    with (
        another_build(checkout, tmp_path) as process,
        pytest.raises(HarnessError, match=rf"another build .*process {process.pid}\)") as caught,
        only_build(tmp_path),
    ):
        pass

    assert caught.value.exit_code == 1


def test_the_lock_of_a_killed_build_is_free_at_once(checkout: Path, tmp_path: Path) -> None:
    with another_build(checkout, tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

        with only_build(tmp_path):
            pass


def test_a_build_that_failed_lets_go_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), only_build(tmp_path):
        raise ZeroDivisionError

    with only_build(tmp_path):
        pass


def test_builds_in_two_folders_do_not_wait_for_each_other(checkout: Path, tmp_path: Path) -> None:
    with another_build(checkout, tmp_path / "one"), only_build(tmp_path / "two"):
        pass


def test_a_folder_that_cannot_be_made_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(HarnessError, match="file/work"), only_build(tmp_path / "file/work"):
        pass


def test_other_users_cannot_look_into_the_folder_of_builds(tmp_path: Path) -> None:
    with only_build(tmp_path / "new/work"):
        assert (tmp_path / "new/work").stat().st_mode & 0o777 == 0o700
    (tmp_path / "new/work").chmod(0o755)
    with only_build(tmp_path / "new/work"):
        assert (tmp_path / "new/work").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_all_users_share_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with only_build(tmp_path):
        assert tmp_path.stat().st_mode & 0o7777 == 0o1777


@pytest.mark.parametrize("name", ["lock", "lock.pid"])
def test_a_lock_that_is_a_link_does_not_empty_what_it_leads_to(tmp_path: Path, name: str) -> None:
    victim, work = tmp_path / "victim", tmp_path / "work"
    victim.write_text("precious")
    work.mkdir()
    (work / name).symlink_to(victim)
    with pytest.raises(HarnessError, match="builds cannot be kept in"), only_build(work):
        pass

    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["lock", "lock.pid"])
def test_a_lock_that_is_another_name_of_a_file_does_not_change_it(
    tmp_path: Path, name: str
) -> None:
    victim, work = tmp_path / "victim", tmp_path / "work"
    victim.write_text("precious")
    work.mkdir()
    (work / name).hardlink_to(victim)
    with pytest.raises(HarnessError, match="builds cannot be kept in"), only_build(work):
        pass

    assert victim.read_text() == "precious"


@pytest.mark.parametrize("text", ["\x1b[2J", "root:x:0:0", "1" * 5000, ""])
def test_a_holder_that_is_no_number_is_not_printed(
    checkout: Path, tmp_path: Path, text: str
) -> None:
    with another_build(checkout, tmp_path):
        (tmp_path / "lock.pid").write_text(text)
        with pytest.raises(HarnessError, match=r"\(process (unknown|1{7})\)"), only_build(tmp_path):
            pass


def test_the_holder_is_not_read_through_a_link(checkout: Path, tmp_path: Path) -> None:
    with another_build(checkout, tmp_path):
        (tmp_path / "secret").write_text("4711")
        (tmp_path / "lock.pid").unlink()
        (tmp_path / "lock.pid").symlink_to(tmp_path / "secret")
        with pytest.raises(HarnessError, match=r"\(process unknown\)"), only_build(tmp_path):
            pass
