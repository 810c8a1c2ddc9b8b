"""Fixtures that any test may use."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Let what tests start be interrupted, though a shell ignores Ctrl-C in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout that is under test."""
    return Path(__file__).resolve().parent.parent
