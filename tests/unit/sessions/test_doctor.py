"""The doctor session as a program."""

from __future__ import annotations

import pytest

from scripts.sessions import doctor
from scripts.system.errors import UsageError


def test_a_session_that_any_machine_can_run_lacks_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    doctor.main(["lint"])
    assert "lint" in capsys.readouterr().out


def test_a_session_that_there_is_not_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="nonsense"):
        doctor.main(["nonsense"])


def test_two_sessions_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="one session at a time"):
        doctor.main(["build", "publish"])
