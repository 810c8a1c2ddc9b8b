from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.system.errors import HarnessError, MachineError, UsageError, describe

PROGRAM = """\
from scripts.system import errors
def entry(argv):
    {body}
errors.main(entry)
"""


def ended(checkout: Path, body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_error_is_told_with_what_to_do_and_where_the_log_is() -> None:
    error = HarnessError("the mirror is down", hint="wait", log=Path("/out/build.log"))

    assert describe(error) == "error: the mirror is down\n hint: wait\n  log: /out/build.log"


def test_what_is_not_known_is_not_told() -> None:
    assert describe(HarnessError("the mirror is down")) == "error: the mirror is down"


@pytest.mark.parametrize(
    ("error", "status"), [(HarnessError, 1), (UsageError, 2), (MachineError, 3)]
)
def test_each_kind_of_error_has_its_exit_code_and_no_traceback(
    checkout: Path, error: type[HarnessError], status: int
) -> None:
    result = ended(checkout, f"print('out'); raise errors.{error.__name__}('why', hint='do')")

    assert result.returncode == status
    assert result.stderr == "error: why\n hint: do\n"
    assert result.stdout == "out\n"


def test_success_is_0(checkout: Path) -> None:
    assert ended(checkout, "pass").returncode == 0


def test_what_is_made_has_the_usual_modes_whatever_the_users_are(
    checkout: Path, tmp_path: Path
) -> None:
    program = PROGRAM.format(body=f"import os; os.mkdir({str(tmp_path / 'made')!r})")
    subprocess.run([sys.executable, "-c", program], cwd=checkout, umask=0o077, check=True)

    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o755


def test_a_defect_keeps_its_traceback(checkout: Path) -> None:
    result = ended(checkout, "1 / 0")

    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr


def test_a_reader_that_goes_away_is_no_defect(checkout: Path) -> None:
    program = PROGRAM.format(body="[print('x' * 80) for _ in range(100_000)]")
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()

        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_a_url_in_the_place_of_another_value_is_shown_without_its_password() -> None:
    path = Path("http://me:MARK@mirror.test/key")  # which has one slash less
    for given in ("http://me:MARK@mirror.test", path):
        assert "MARK" not in describe(UsageError(f"unknown {given}", hint=f"not {given}"))
