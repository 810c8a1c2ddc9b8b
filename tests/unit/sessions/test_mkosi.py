"""What of the mkosi session's arguments is for whom."""

from __future__ import annotations

import pytest

from scripts.sessions import mkosi


@pytest.mark.parametrize(
    ("argv", "alone", "rest"),
    [
        ([], [], []),
        (["--image-id", "base", "build"], [], ["--image-id", "base", "build"]),
        (
            ["--allow-missing", "tool", "--force", "build"],
            ["--allow-missing", "tool"],
            ["--force", "build"],
        ),
        (
            ["--third-party-mirror=http://a/b=c", "--allow-missing=x", "summary"],
            ["--third-party-mirror=http://a/b=c", "--allow-missing=x"],
            ["summary"],
        ),
        (["--without-packages", "build"], ["--without-packages"], ["build"]),
        (["build", "--third-party-pins"], ["--third-party-pins"], ["build"]),
    ],
)
def test_what_mkosi_does_not_know_is_kept_from_it(
    argv: list[str], alone: list[str], rest: list[str]
) -> None:
    assert mkosi.split(argv) == (alone, rest)
