"""Which releases of Amazon Linux there are, asked of a mirror on loopback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import catalog
from scripts.arch import AARCH64, X86_64
from scripts.catalog import ROOT
from scripts.distributions import amazonlinux
from scripts.stages import places
from scripts.system.errors import HarnessError, UsageError
from scripts.system.fetch import Settings
from scripts.system.url import Url
from tests.unit.server import Server

RELEASE = "2023.12.20260930"

RELEASEMD = b"""\
<?xml version="1.0" ?>
<root><releases>
<release version="2023.9.20251208"><update><name>2023.12.20260930</name></update></release>
<release version="2023.12.20260930"></release>
<release version="2023.12.20260831"></release>
<release version="2023.10.20260202"></release>
<release version="2023.11.20260505"/>
</releases></root>
"""

NOBODY = Url("http://127.0.0.1:9/al2023")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazonlinux, "LOOK", Settings(attempts=2, pause=0, connect=2, stall=2))


@pytest.fixture
def mirror(server: Server) -> Url:
    """A mirror that has one release, for one architecture, and lists some."""
    server.files[f"/al2023/core/mirrors/{RELEASE}/x86_64/mirror.list"] = b"http://elsewhere/\n"
    server.files["/al2023/core/releasemd.xml"] = RELEASEMD
    return Url(f"{server.url}/al2023")


def test_a_release_that_the_mirror_has_is_good_to_build(mirror: Url) -> None:
    amazonlinux.check(RELEASE, X86_64, mirror)
    amazonlinux.check(RELEASE, X86_64, Url(f"{mirror}/"))


def test_a_release_that_the_mirror_lacks_is_answered_with_the_nearest_that_it_lists(
    mirror: Url,
) -> None:
    with pytest.raises(UsageError, match=r"no release 2023\.12\.20260901 ") as caught:
        amazonlinux.check("2023.12.20260901", X86_64, mirror)

    assert caught.value.hint == (
        "the nearest that exist: 2023.12.20260930, 2023.12.20260831, 2023.11.20260505"
    )


def test_a_release_that_the_mirror_has_for_another_architecture_is_called_so(mirror: Url) -> None:
    with pytest.raises(HarnessError, match="lacks the packages of the release") as caught:
        amazonlinux.check(RELEASE, AARCH64, mirror)

    assert f"{RELEASE} for aarch64" in caught.value.message
    assert f"{mirror}/core/mirrors/{RELEASE}/aarch64/mirror.list" in caught.value.message
    assert "nearest" not in caught.value.hint
    assert caught.value.exit_code == 1


def test_what_is_no_release_is_not_asked_for(mirror: Url, server: Server) -> None:
    with pytest.raises(UsageError, match="no release trixie") as caught:
        amazonlinux.check("trixie", X86_64, mirror)

    assert "2023.12.20260930, 2023.12.20260831" in caught.value.hint
    assert server.asked == ["/al2023/core/releasemd.xml"]


def test_a_release_with_thousands_of_digits_is_none(mirror: Url, server: Server) -> None:
    absurd = f"2023.{'9' * 5000}.20260930"
    server.files["/al2023/core/releasemd.xml"] += f'<release version="{absurd}"/>'.encode()
    assert amazonlinux.newest(mirror) == "2023.12.20260930"
    assert not amazonlinux.has_spal(absurd)


def test_where_the_mirror_lists_none_the_known_ones_are_named(mirror: Url, server: Server) -> None:
    del server.files["/al2023/core/releasemd.xml"]
    with pytest.raises(UsageError) as caught:
        amazonlinux.check("2023.9", X86_64, mirror)

    assert amazonlinux.known()[-1] in caught.value.hint


@pytest.mark.parametrize("status", [403, 404])
def test_a_server_that_refuses_all_is_not_said_to_lack_the_release(
    server: Server, status: int
) -> None:
    for path in (f"mirrors/{RELEASE}/x86_64/mirror.list", "releasemd.xml"):
        server.statuses[f"/typo/core/{path}"] = status
    with pytest.raises(HarnessError, match="does not list its releases") as caught:
        amazonlinux.check(RELEASE, X86_64, Url(f"{server.url}/typo"))

    assert f"{server.url}/typo/core/mirrors" in caught.value.message
    assert str(status) in caught.value.message
    assert "quickstart" in caught.value.hint
    assert f"--release takes {RELEASE}" in caught.value.hint
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("status", [403, 404, 410])
def test_amazon_s_way_to_say_that_a_file_is_not_there_is_understood(
    mirror: Url, server: Server, status: int
) -> None:
    server.statuses["/al2023/core/mirrors/2023.8.20250818/x86_64/mirror.list"] = status
    with pytest.raises(UsageError, match="no release"):
        amazonlinux.check("2023.8.20250818", X86_64, mirror)


def test_who_cannot_reach_the_mirror_learns_of_both_ways_on() -> None:
    with pytest.raises(HarnessError, match="cannot be reached") as caught:
        amazonlinux.check(RELEASE, X86_64, NOBODY)

    assert f"{NOBODY}/core/mirrors/{RELEASE}/x86_64/mirror.list" in caught.value.message
    assert "\n" not in caught.value.message
    assert "HTTPConnection" not in caught.value.message
    assert "--mirror" in caught.value.hint
    assert "quickstart" in caught.value.hint
    assert caught.value.exit_code == 1


def test_who_cannot_reach_amazon_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazonlinux, "CDN", NOBODY)
    with pytest.raises(HarnessError, match=r"Amazon's CDN cannot be reached"):
        amazonlinux.check(RELEASE, X86_64, None)


def test_a_busy_mirror_is_asked_again(mirror: Url, server: Server) -> None:
    path = f"/al2023/core/mirrors/{RELEASE}/x86_64/mirror.list"
    server.statuses[path] = 503
    with pytest.raises(HarnessError, match="503"):
        amazonlinux.check(RELEASE, X86_64, mirror)

    assert server.asked == [path, path]


@pytest.mark.parametrize(
    ("mirror", "url"),
    [
        (None, "https://cdn.amazonlinux.com/al2023/core/mirrors/R/x86_64/mirror.list"),
        ("http://m.test/a/", "http://m.test/a/core/mirrors/R/x86_64/mirror.list"),
        ("http://m.test/a/x86_64/", "http://m.test/a/x86_64/core/mirrors/R/x86_64/mirror.list"),
    ],
)
def test_a_mirror_has_the_layout_of_the_cdn_whatever_its_name(mirror: str | None, url: str) -> None:
    assert amazonlinux.probe("R", X86_64, Url(mirror) if mirror else None) == Url(url)


@pytest.mark.parametrize("name", ["x86_64", "al2023/os/"])
def test_a_single_repository_is_called_so_with_the_way_to_build_from_it(
    server: Server, name: str
) -> None:
    server.files[f"/{name.rstrip('/')}/repodata/repomd.xml"] = b"<repomd/>"
    with pytest.raises(UsageError, match="is a single repository") as caught:
        amazonlinux.check(RELEASE, X86_64, Url(f"{server.url}/{name}"))

    assert f"core/mirrors/{RELEASE}/x86_64/mirror.list" in caught.value.hint
    assert "--mirror" in caught.value.hint


def test_a_tree_with_just_a_list_that_leads_to_a_repository_is_good_to_build(
    server: Server,
) -> None:
    server.files[f"/own/core/mirrors/{RELEASE}/x86_64/mirror.list"] = b"http://elsewhere/x86_64\n"
    amazonlinux.check(RELEASE, X86_64, Url(f"{server.url}/own"))


def test_the_latest_release_is_the_newest_that_the_mirror_lists(mirror: Url) -> None:
    assert amazonlinux.newest(mirror) == RELEASE


@pytest.mark.parametrize("listed", [b"<html>", b'<release version="tomorrow"/>'])
def test_a_mirror_that_lists_no_release_has_no_latest(
    mirror: Url, server: Server, listed: bytes
) -> None:
    server.files["/al2023/core/releasemd.xml"] = listed
    with pytest.raises(HarnessError, match="latest") as caught:
        amazonlinux.newest(mirror)

    assert "--release" in caught.value.hint


def latest(mirror: Url, seen: Path, *listed: str, server: Server, allow_older: bool = False) -> str:
    """The latest release of a mirror that lists listed."""
    text = "".join(f'<release version="{name}"/>' for name in listed)
    server.files["/al2023/core/releasemd.xml"] = text.encode()
    return amazonlinux.latest(mirror, seen, allow_older=allow_older)


OLDER = "2023.12.20260831"


def test_a_mirror_that_goes_back_behind_its_newest_release_is_refused(
    mirror: Url, server: Server, tmp_path: Path
) -> None:
    seen = tmp_path / "seen.json"
    assert latest(mirror, seen, OLDER, server=server) == OLDER
    assert latest(mirror, seen, OLDER, RELEASE, server=server) == RELEASE
    with pytest.raises(HarnessError, match=f"lists {OLDER} .* but {RELEASE} before") as caught:
        latest(mirror, seen, OLDER, server=server)

    assert "--allow-older-index" in caught.value.hint
    assert latest(mirror, seen, OLDER, server=server, allow_older=True) == OLDER
    assert latest(mirror, seen, OLDER, server=server) == OLDER


def test_what_one_mirror_had_says_nothing_about_another(
    mirror: Url, server: Server, tmp_path: Path
) -> None:
    seen = tmp_path / "seen.json"
    latest(mirror, seen, RELEASE, server=server)
    server.files["/other/core/releasemd.xml"] = f'<release version="{OLDER}"/>'.encode()

    assert amazonlinux.latest(Url(f"{server.url}/other"), seen) == OLDER
    with pytest.raises(HarnessError, match="before"):
        latest(Url(f"{mirror}/"), seen, OLDER, server=server)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', '{"x": "2023.1.20269999"}'])
def test_a_damaged_memory_of_releases_is_no_error(
    mirror: Url, server: Server, tmp_path: Path, text: str
) -> None:
    seen = tmp_path / "seen.json"
    seen.write_text(text)

    assert latest(mirror, seen, RELEASE, server=server) == RELEASE


def test_no_address_of_a_mirror_is_written_down(
    mirror: Url, server: Server, tmp_path: Path
) -> None:
    latest(mirror, tmp_path / "seen.json", RELEASE, server=server)

    assert "127.0.0.1" not in (tmp_path / "seen.json").read_text()


@pytest.mark.parametrize(
    ("release", "signed"),
    [
        ("latest", True),
        (RELEASE, True),
        ("2023.11.20260406", True),
        ("2023.10.20260405", False),
        ("2023.9.20251208", False),
    ],
)
def test_metadata_is_signed_since_a_release(release: str, *, signed: bool) -> None:
    assert amazonlinux.signs_metadata(release) == signed


def test_mkosi_and_the_harness_agree_on_the_first_release_with_signed_metadata() -> None:
    [patch] = ROOT.glob("mkosi/0001-*.patch")

    assert (
        f'FIRST_DATED_RELEASE_WITH_SIGNED_METADATA = "{amazonlinux.FIRST_SIGNED}"'
        in patch.read_text()
    )


def test_mkosi_and_the_harness_agree_on_spal() -> None:
    [patch] = ROOT.glob("mkosi/0001-*.patch")
    listed = amazonlinux.spal_list("RELEASE", X86_64, Url("http://a.test")).bare
    path = listed.removeprefix("http://a.test/").removesuffix("/mirror.list")
    path = path.replace("RELEASE", "{}").replace("x86_64", "$basearch")

    assert re.search(rf'"{amazonlinux.SPAL}", +"{re.escape(path)}"', patch.read_text())


@pytest.mark.parametrize(
    ("release", "has"),
    [
        ("latest", True),
        (RELEASE, True),
        ("2023.9.20251117", True),
        ("2023.9.20251110", False),
        ("2023.8.20250915", False),
        ("2023", False),
    ],
)
def test_spal_is_there_since_a_release(release: str, *, has: bool) -> None:
    assert amazonlinux.has_spal(release) == has


def test_the_release_that_is_built_is_a_known_one() -> None:
    pinned = places.release_of(ROOT, catalog.DISTRIBUTIONS["amazonlinux"])
    assert pinned in amazonlinux.known()
    assert pinned in amazonlinux.nearest(pinned, amazonlinux.known())


def test_a_mirror_that_cannot_be_reached_has_no_latest() -> None:
    with pytest.raises(HarnessError, match="cannot be reached") as caught:
        amazonlinux.newest(NOBODY)

    assert "quickstart" in caught.value.hint


def test_a_release_of_a_day_that_there_is_not_is_no_release(mirror: Url) -> None:
    with pytest.raises(UsageError, match=r"no release 2023\.9\.20251399"):
        amazonlinux.check("2023.9.20251399", X86_64, mirror)
