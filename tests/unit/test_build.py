"""What a build makes of its options before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import build, options, releases
from scripts.errors import UsageError
from scripts.options import Options
from scripts.progress import Progress
from tests.unit.server import Server


def parse(*argv: str) -> Options:
    return options.parse(["--arch", "x86_64", *argv], {}, root=Path("/checkout"))


def test_the_latest_release_is_built_as_the_dated_one_that_it_is(server: Server) -> None:
    server.files["/core/releasemd.xml"] = b'<release version="2023.12.20260930"/>'
    opts = parse("--release", "latest", "--mirror", server.url)

    assert build.with_dated_release(opts, Progress()).release == "2023.12.20260930"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--release", "2023.12.20260930"],
        ["--distribution", "debian", "--release", "latest"],
    ],
)
def test_any_other_release_stays_what_it_is(
    argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "newest", lambda _: pytest.fail("nobody asked for the latest"))
    opts = parse(*argv)

    assert build.with_dated_release(opts, Progress()) == opts


def test_offline_the_latest_release_is_not_known() -> None:
    with pytest.raises(UsageError, match="--offline"):
        build.with_dated_release(parse("--release", "latest", "--offline"), Progress())
