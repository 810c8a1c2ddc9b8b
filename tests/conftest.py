"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.build import manifest
from scripts.build.manifest import Manifest
from tests import manifests


def pytest_configure() -> None:
    """Reset SIGINT for child processes, because a shell ignores it for background jobs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout under test."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def written_manifests_keep_to_their_schema() -> Iterator[None]:
    """Check every manifest that a test writes against the schema that is shipped."""
    write = Manifest.write

    def write_and_check(self: Manifest, folder: Path) -> None:
        write(self, folder)
        manifests.check(folder / manifest.NAME)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "write", write_and_check)
        yield
