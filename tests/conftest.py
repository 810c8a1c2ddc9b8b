"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from scripts.build import manifest
from scripts.build.manifest import Manifest
from tests import manifests

# Files whose tests keep the same things in .work, by what that is: only one of them runs at a time.
SHARED = {
    "integration/test_bake.py": "programs",
    "integration/test_binfmt.py": "programs",
    "integration/test_docker_load.py": "programs",
    "integration/test_emulators.py": "programs",
    "integration/test_lab.py": "programs",
    "integration/test_publish.py": "publishing",
    "integration/test_publish_attacks.py": "publishing",
}


def pytest_configure() -> None:
    """Reset SIGINT for child processes, because a shell ignores it for background jobs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long tests first, so that no process is left with one when the others have ended."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture(scope="module", autouse=True)
def alone(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Keep the tests of two files that share something from running at the same time."""
    shared = SHARED.get("/".join(request.path.parts[-2:]))
    if not shared:
        yield
        return
    with FileLock(tmp_path_factory.getbasetemp().parent / f"{shared}.lock"):
        yield


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
