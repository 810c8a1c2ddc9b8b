"""Checks that sessions without other tests find their imports in their own environments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import Checkout


@pytest.mark.parametrize("session", ["ci-matrix", "diff", "publish"])
def test_a_session_tells_its_options(checkout: Path, session: str) -> None:
    answer = Checkout(checkout).nox("-s", session, "--", "--help")

    assert answer.returncode == 0, answer.stderr
    assert f"usage: ./nox -s {session} --" in answer.stdout
