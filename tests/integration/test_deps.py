"""Writes finch-core's deps/*.conf from a release that a server on loopback has."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from scripts import catalog
from scripts.publish import deps as making
from scripts.sessions import deps
from scripts.system.errors import HarnessError, UsageError
from tests import services

RUN = "25872286438"

ARM = f"finch-al2023-os-image-arm64-{RUN}.qcow2"
AMD = f"finch-al2023-os-image-x86-64-{RUN}.qcow2"
ROOTFS = f"common/x86-64/finch-al2023-rootfs-x86-64-{RUN}.tar.gz"
KEYS = {("darwin", "arm64"): ARM, ("darwin", "amd64"): AMD, ("windows", "amd64"): ROOTFS}
MANIFEST = f"finch-al2023-manifest-{RUN}.json"

# As finch-core has had them before its images were made from Amazon Linux.
EARLIER = {
    "full-os.conf": """\
ARTIFACT_BASE_URL=https://deps.runfinch.com

# From Fedora
AARCH64_ARTIFACT=Fedora-Cloud-Base-Generic-42-1.1.aarch64-20251017205258.qcow2
AARCH64_512_DIGEST=0123

# From Fedora
X86_64_ARTIFACT=Fedora-Cloud-Base-Generic-42-1.1.x86_64-20251017213411.qcow2
X86_64_512_DIGEST=4567

# Cosign, for the build
COSIGN_VERSION=3.0.5-1
""",
    "rootfs.conf": """\
ARTIFACT_BASE_URL=https://deps.runfinch.com

X86_64_ARTIFACT_PATHING=common/x86-64
X86_64_ARTIFACT=finch-rootfs-production-amd64-1759948377.tar.gz
X86_64_512_DIGEST=89ab
""",
}


def sha512(text: str) -> str:
    return hashlib.sha512(text.encode()).hexdigest()


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """The folder that the server has."""
    folder = tmp_path / "bucket"
    for key in KEYS.values():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_text(key)
        (folder / f"{key}.sha512sum").write_text(sha512(key))
    return folder


@pytest.fixture
def url(bucket: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=os.fspath(bucket))

        def log_message(self, *_: object) -> None:
            pass

    with services.serving(Handler) as url:
        announce(bucket, url)
        yield url


def announce(bucket: Path, url: str, change: Callable[[dict[str, Any]], object] = len) -> None:
    """Write the release manifest, after change."""
    now = datetime.now(UTC)
    data = {
        "published_at": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "expires_at": (now + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "artifacts": [
            {
                "platform": platform,
                "arch": arch,
                "url": f"{url}/{key}",
                "sha512": sha512(key),
                "digest": f"sha512:{sha512(key)}",
            }
            for (platform, arch), key in KEYS.items()
        ],
        "container_images": [],
    }
    change(data)
    (bucket / MANIFEST).write_text(json.dumps(data, indent=2) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deps"


@pytest.fixture
def write(url: str, folder: Path) -> Callable[..., None]:
    """Runs the session."""
    return lambda *more: deps.main(
        ["--run-id", RUN, "--base-url", url, "--into", os.fspath(folder), *more]
    )


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.exists() else {}


def test_the_two_files_name_the_release(write: Callable[..., None], folder: Path, url: str) -> None:
    write()

    assert contents(folder) == {
        "full-os.conf": f"ARTIFACT_BASE_URL={url}\n"
        f"\nAARCH64_ARTIFACT={ARM}\nAARCH64_512_DIGEST={sha512(ARM)}\n"
        f"\nX86_64_ARTIFACT={AMD}\nX86_64_512_DIGEST={sha512(AMD)}\n",
        "rootfs.conf": f"ARTIFACT_BASE_URL={url}\n"
        f"\nX86_64_ARTIFACT_PATHING=common/x86-64\nX86_64_ARTIFACT={Path(ROOTFS).name}\n"
        f"X86_64_512_DIGEST={sha512(ROOTFS)}\n",
    }


def test_what_else_is_in_the_files_stays(write: Callable[..., None], folder: Path) -> None:
    folder.mkdir()
    for name, text in EARLIER.items():
        (folder / name).write_text(text)
    (folder / "lima-bundles.conf").write_text("LIMA=1\n")

    write()

    found = contents(folder)
    assert "# Cosign, for the build\nCOSIGN_VERSION=3.0.5-1\n" in found["full-os.conf"]
    assert ARM in found["full-os.conf"]
    assert "production" not in found["rootfs.conf"]
    assert found["lima-bundles.conf"] == "LIMA=1\n"


def test_the_same_again_writes_nothing(
    write: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    before = {path: path.stat() for path in folder.iterdir()}
    capsys.readouterr()
    write()

    assert {path: path.stat() for path in folder.iterdir()} == before
    assert capsys.readouterr().out.count(f"already names run {RUN}") == 2


def test_all_platforms_that_download_have_a_file() -> None:
    platforms = {one for image in catalog.IMAGES.values() for one in image.platforms.values()}
    assert {*making.FILES} == platforms


def without_arm(data: dict[str, Any]) -> None:
    del data["artifacts"][0]


def of_another_run(data: dict[str, Any]) -> None:
    for one in data["artifacts"]:
        one["url"] = one["url"].replace(RUN, "25872286437")


def elsewhere(data: dict[str, Any]) -> None:
    data["artifacts"][2]["url"] = f"https://evil.example/{ROOTFS}"


def twice(data: dict[str, Any]) -> None:
    data["artifacts"].append(data["artifacts"][1])


def expired(data: dict[str, Any]) -> None:
    data["expires_at"] = data["published_at"]


def two_digests(data: dict[str, Any]) -> None:
    data["artifacts"][2]["sha512"] = "0" * 128


def other_digest(data: dict[str, Any]) -> None:
    data["artifacts"][2]["digest"] = f"sha256:{'0' * 64}"


def no_list(data: dict[str, Any]) -> None:
    data["artifacts"] = 5


def no_names(data: dict[str, Any]) -> None:
    data["artifacts"] = [[]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_arm, "is not whole: it lacks the download for darwin/arm64"),
        (of_another_run, rf"run {RUN} would not list .*25872286437\.qcow2"),
        (elsewhere, rf"run {RUN} would not list 'https://evil\.example/"),
        (twice, rf"run {RUN} would not list .*{AMD}"),
        (expired, "it expired at"),
        (two_digests, "it is not in the form in which releases are published"),
        (other_digest, "it is not in the form in which releases are published"),
        (no_list, "is not a release manifest of run"),
        (no_names, "is not a release manifest of run"),
    ],
)
def test_a_release_that_is_not_whole_and_its_own_is_refused(
    write: Callable[..., None], folder: Path, bucket: Path, url: str,
    change: Callable[[dict[str, Any]], None], message: str,
) -> None:  # fmt: skip
    announce(bucket, url, change)
    with pytest.raises(HarnessError, match=message):
        write()
    assert contents(folder) == {}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (ROOTFS, "other", "is not the published file: its sha512 is"),
        (ROOTFS, None, "cannot be downloaded: the server answers 404"),
        (f"{ROOTFS}.sha512sum", "0" * 128, "does not hold the sha512 that the release manifest"),
        (f"{ROOTFS}.sha512sum", f"{sha512(ROOTFS)}  {ROOTFS}", "does not hold the sha512"),
        (f"{ROOTFS}.sha512sum", None, "cannot be downloaded: the server answers 404"),
        (MANIFEST, None, f"run {RUN} has not published a release"),
        (MANIFEST, "{", "is not a release manifest of run"),
    ],
)
def test_what_cannot_be_verified_is_refused(
    write: Callable[..., None], folder: Path, bucket: Path,
    name: str, data: str | None, message: str,
) -> None:  # fmt: skip
    (bucket / name).unlink()
    if data is not None:
        (bucket / name).write_text(data)
    with pytest.raises(HarnessError, match=message):
        write()
    assert contents(folder) == {}


def test_a_checksum_may_end_its_line(write: Callable[..., None], bucket: Path) -> None:
    (bucket / f"{ARM}.sha512sum").write_text(f"{sha512(ARM)}\n")
    write()


@pytest.mark.parametrize("end", ["", " # pinned by hand", "; export X86_64_ARTIFACT", "\r"])
def test_finch_never_goes_back_to_an_older_release(
    write: Callable[..., None], folder: Path, end: str
) -> None:
    folder.mkdir()
    (folder / "rootfs.conf").write_bytes(
        f"X86_64_ARTIFACT=finch-al2023-rootfs-x86-64-99999999999.tar.gz{end}\n".encode()
    )
    before = contents(folder)
    with pytest.raises(HarnessError, match=f"names run 99999999999, which is newer than {RUN}"):
        write()
    assert contents(folder) == before


def test_a_check_only_compares(
    write: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(HarnessError, match="does not name what run"):
        write("--check")
    assert contents(folder) == {}
    write()
    write("--check")
    (folder / "rootfs.conf").write_text((folder / "rootfs.conf").read_text().replace("=c", "=d"))
    capsys.readouterr()
    with pytest.raises(HarnessError, match=r"^rootfs\.conf in .* does not name what run"):
        write("--check")
    told = capsys.readouterr().out.splitlines()
    assert "-X86_64_ARTIFACT_PATHING=dommon/x86-64" in told
    assert "+X86_64_ARTIFACT_PATHING=common/x86-64" in told


def test_a_check_finds_line_ends_that_would_become_part_of_the_values(
    write: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    path = folder / "rootfs.conf"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(HarnessError, match=r"^rootfs\.conf in .* does not name what run"):
        write("--check")
    assert "-X86_64_ARTIFACT_PATHING=common/x86-64\\r" in capsys.readouterr().out.splitlines()


def test_a_check_without_a_run_is_of_the_one_that_the_files_name(
    write: Callable[..., None], folder: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write()
    deps.main(["--check", "--base-url", url, "--into", os.fspath(folder)])
    assert f"name what run {RUN} has published" in capsys.readouterr().out


def test_the_run_that_the_files_name_is_printed_alone(
    write: Callable[..., None], folder: Path
) -> None:
    write()
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "scripts.sessions.deps",
        "--show-run",
        "--into",
        folder,
    ]
    told = subprocess.run(command, cwd=catalog.ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == f"{RUN}\n"


def test_files_of_two_runs_name_none(write: Callable[..., None], folder: Path) -> None:
    write()
    (folder / "rootfs.conf").write_text(contents(folder)["rootfs.conf"].replace(RUN, "7"))
    with pytest.raises(HarnessError, match=f"name different runs: 7, {RUN}"):
        deps.main(["--show-run", "--into", os.fspath(folder)])


@pytest.mark.parametrize("texts", [EARLIER, {"full-os.conf": EARLIER["full-os.conf"]}])
def test_files_without_a_release_of_ours_name_none(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    with pytest.raises(HarnessError, match="does not name a whole release of al2023"):
        deps.main(["--show-run", "--into", os.fspath(folder)])


@pytest.mark.parametrize("option", ["--show-run", "--check"])
def test_a_folder_without_the_files_is_not_finch_core_s(folder: Path, option: str) -> None:
    with pytest.raises(UsageError, match=r"has no full-os\.conf and no rootfs\.conf") as caught:
        deps.main([option, "--into", os.fspath(folder)])
    assert "-- --into FOLDER" in caught.value.hint


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://deps.example", "is not encrypted"),
        ("https://user:secret@deps.example", "has a password in it"),
        ("https://deps.example/$(id)", "has a character that means something to a shell"),
        ("ftp://deps.example", "is not a URL of http or https"),
    ],
)
def test_an_address_that_no_one_should_download_from_is_refused(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        deps.main(["--run-id", RUN, "--base-url", address])
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("run", ["latest", "-1", "1; id", "007", "0", "1" * 19])
def test_a_run_is_a_number(run: str) -> None:
    with pytest.raises(UsageError, match="the run ID must be a number"):
        deps.main([f"--run-id={run}"])


def test_without_a_run_it_says_which_option_names_one() -> None:
    with pytest.raises(UsageError, match="the run ID is missing") as caught:
        deps.main([])
    assert "-- --run-id NUMBER" in caught.value.hint


def test_a_failure_is_one_sentence_and_status_1(folder: Path, url: str) -> None:
    command: list[str | Path] = [
        sys.executable, "-m", "scripts.sessions.deps", "--run-id", "1", "--base-url", url,
        "--into", folder,
    ]  # fmt: skip
    told = subprocess.run(command, cwd=catalog.ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "\nerror: run 1 has not published a release: " in told.stderr
    assert "Traceback" not in told.stderr
