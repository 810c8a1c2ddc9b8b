"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.build import manifest
from scripts.build.manifest import Manifest
from tests import manifests

# Files whose tests share something on this machine, such as an environment of Nox or what they keep
# in .work, by that. Their tests run one after the other; two other files may run side by side.
SHARED = {
    "integration/test_bake.py": "programs",
    "integration/test_binfmt.py": "programs",
    "integration/test_docker_load.py": "programs",
    "integration/test_emulators.py": "programs",
    "integration/test_lab.py": "programs",
    "integration/test_nox_bootstrap.py": "nox",
    "integration/test_noxfile.py": "nox",
    "integration/test_publish.py": "publishing",
    "integration/test_publish_attacks.py": "publishing",
}


def pytest_configure() -> None:
    """Reset SIGINT for child processes, because a shell ignores it for background jobs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the tests, give each file to one, and the long ones first."""
    if not getattr(config.option, "loadgroup", False):  # xdist sets it where it runs tests
        return
    items.sort(key=lambda item: "integration" not in item.path.parts)
    for item in items:
        group = SHARED.get("/".join(item.path.parts[-2:]), str(item.path))
        item.add_marker(pytest.mark.xdist_group(group))


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
