"""Fixtures that any test may use."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout that is under test."""
    return Path(__file__).resolve().parent.parent
