from __future__ import annotations

import pytest

from scripts import plain


@pytest.mark.parametrize(
    ("argv", "ours"),
    [
        (["--image-id", "os-image", "summary"], []),
        (["--distribution", "debian", "build"], ["--distribution", "debian"]),
        (["--distribution=debian"], ["--distribution", "debian"]),
        (["--architecture=arm64", "--release", "sid"], ["--release", "sid", "--arch", "arm64"]),
        (["--release"], []),
    ],
)
def test_what_decides_the_folders_is_taken_from_mkosis_arguments(
    argv: list[str], ours: list[str]
) -> None:
    assert plain._ours(argv) == ours
