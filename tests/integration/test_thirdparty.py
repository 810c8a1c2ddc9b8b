"""Downloads third-party files from a real server on loopback that misbehaves on demand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.arch import X86_64
from scripts.catalog import ROOT
from scripts.options import Options
from scripts.packages import thirdparty
from scripts.sessions import arguments
from scripts.stages.additions import Additions
from scripts.system.errors import HarnessError, UsageError
from scripts.system.fetch import DigestError
from scripts.system.progress import Progress
from tests.integration.answers import (
    BODY,
    QUICK,
    SHA256,
    TRUNCATED,
    TRUNCATED_SHA256,
    Answer,
    Server,
    page,
    stalled,
    status,
    truncated,
    whole,
)

Serve = Callable[..., Server]

RPM = """
[tool]
version = "1.2"
url = "https://example.org/releases/v{version}/tool-{version}-1.{arch}.rpm"
package = "tool"
sha256 = { x86_64 = "%s" }
"""
SCRIPT = """
[script]
version = "3"
url = "https://example.org/{version}/script.sh?raw={debian}"
path = "/usr/bin/script"
requires = ["bash"]
sha256 = { noarch = "%s" }
"""


def given(tmp_path: Path, text: str, *argv: str, arch: str = "x86_64") -> Options:
    """Return the options of an Amazon Linux build with text as its pins."""
    pins = tmp_path / "pins.toml"
    pins.write_text(text)
    return arguments.parse(
        [
            "--arch", arch, "--work", os.fspath(tmp_path / "work"),
            "--third-party-pins", os.fspath(pins), *argv,
        ],
        {},
    )  # fmt: skip


def obtain(opts: Options) -> Additions:
    return thirdparty.download(opts, Progress(live=False), settings=QUICK)


def mirror(server: Server) -> tuple[str, str]:
    return "--third-party-mirror", f"{server.base}/mirror/"


def stored(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "work").rglob("*") if path.is_file()]


def test_an_rpm_is_installed_by_its_name_and_a_file_goes_where_it_belongs(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(whole)
    opts = given(tmp_path, RPM % SHA256 + SCRIPT % SHA256, *mirror(server))
    added = obtain(opts)

    assert server.paths == [
        "/mirror/example.org/releases/v1.2/tool-1.2-1.x86_64.rpm",
        "/mirror/example.org/3/script.sh",
    ]
    [rpm] = added.rpms
    assert rpm.name == "tool-1.2-1.x86_64.rpm"
    assert rpm.read_bytes() == BODY
    assert added.packages == ("tool", "bash")
    assert added.files["/usr/bin/script"].read_bytes() == BODY


def test_what_is_in_the_cache_is_not_downloaded_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(whole)
    opts = given(tmp_path, RPM % SHA256, *mirror(server))
    assert thirdparty.lacking(opts)
    first = obtain(opts)

    assert not thirdparty.lacking(opts)
    assert obtain(opts) == first
    assert obtain(given(tmp_path, RPM % SHA256, *mirror(server), "--offline")) == first
    assert len(server.paths) == 1


def test_what_was_altered_in_the_cache_is_downloaded_again(serve: Serve, tmp_path: Path) -> None:
    opts = given(tmp_path, RPM % SHA256, *mirror(serve(whole)))
    [rpm] = obtain(opts).rpms
    rpm.write_bytes(BODY[:-1])
    obtain(opts)

    assert rpm.read_bytes() == BODY


def test_a_file_of_two_versions_is_kept_twice(serve: Serve, tmp_path: Path) -> None:
    opts = given(tmp_path, RPM % SHA256, *mirror(serve(whole)))
    [rpm] = obtain(opts).rpms

    assert rpm.parent.name == SHA256


def test_a_broken_transfer_goes_on_where_it_broke(serve: Serve, tmp_path: Path) -> None:
    server = serve(truncated, whole)
    obtain(given(tmp_path, RPM % SHA256, *mirror(server)))

    assert server.ranges == [None, "bytes=131072-"]


def test_a_transfer_that_stalls_is_taken_up_again(serve: Serve, tmp_path: Path) -> None:
    server = serve(stalled, whole)
    [rpm] = obtain(given(tmp_path, RPM % SHA256, *mirror(server))).rpms

    assert server.ranges == [None, "bytes=131072-"]
    assert rpm.read_bytes() == BODY


def test_the_next_build_goes_on_where_this_one_was_broken_off(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(HarnessError):
        obtain(given(tmp_path, RPM % SHA256, *mirror(serve(stalled, status(503)))))
    server = serve(whole)
    [rpm] = obtain(given(tmp_path, RPM % SHA256, *mirror(server))).rpms

    assert server.ranges == ["bytes=131072-"]
    assert rpm.read_bytes() == BODY


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (status(404), "404 Not Found"),
        (status(503), "503 Service Unavailable"),
        (stalled, "nothing came for 0.3 s"),
    ],
    ids=["404", "503", "stalled"],
)
def test_a_file_that_cannot_be_had_is_named_with_cause_and_a_way_on(
    serve: Serve, tmp_path: Path, answer: Answer, cause: str
) -> None:
    server = serve(answer)
    with pytest.raises(HarnessError) as caught:
        obtain(given(tmp_path, RPM % SHA256, *mirror(server)))

    assert caught.value.message.startswith(f"tool 1.2: {server.base}/mirror/example.org/")
    assert cause in caught.value.message
    assert "--third-party-mirror" in caught.value.hint
    assert [path for path in stored(tmp_path) if path.suffix != ".part"] == []


@pytest.mark.parametrize("answer", [whole, page], ids=["altered", "a portal's page"])
def test_another_file_shows_both_digests_and_nothing_is_kept(
    serve: Serve, tmp_path: Path, answer: Answer
) -> None:
    pinned = "0" * 64
    with pytest.raises(DigestError) as caught:
        obtain(given(tmp_path, RPM % pinned, *mirror(serve(answer))))

    assert pinned in caught.value.message
    assert "its sha256 is" in caught.value.message
    assert ("HTML page" in caught.value.hint) == (answer is page)
    assert stored(tmp_path) == []


def test_a_transfer_that_is_always_truncated_shows_both_digests_and_a_part_is_all_there_is(
    serve: Serve, tmp_path: Path
) -> None:
    with pytest.raises(HarnessError, match=r"tool 1\.2") as caught:
        obtain(given(tmp_path, RPM % SHA256, *mirror(serve(truncated))))

    assert TRUNCATED_SHA256 in caught.value.message
    assert SHA256 in caught.value.message
    [part] = stored(tmp_path)
    assert part.suffix == ".part"
    assert part.read_bytes() == BODY[:TRUNCATED]


def test_offline_what_is_not_there_is_an_error_without_a_look_at_the_network(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(whole)
    with pytest.raises(HarnessError, match=r"tool 1\.2 has not been downloaded yet"):
        obtain(given(tmp_path, RPM % SHA256, *mirror(server), "--offline"))
    assert server.paths == []


def test_a_digest_that_is_not_known_stops_before_anything_is_downloaded(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(whole)
    text = SCRIPT % SHA256 + RPM % SHA256
    with pytest.raises(UsageError, match=r"tool 1\.2 cannot be verified: .* for aarch64") as caught:
        obtain(given(tmp_path, text, *mirror(server), arch="aarch64"))

    assert "add it there" in caught.value.hint
    assert "--allow-missing tool" in caught.value.hint
    assert server.paths == []


def test_a_file_without_a_digest_is_left_out_where_that_is_allowed(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SCRIPT % SHA256 + RPM % SHA256
    added = obtain(
        given(
            tmp_path, text, *mirror(serve(whole)), "--allow-missing", "tool", arch="aarch64"
        )
    )  # fmt: skip

    assert added.rpms == ()
    assert added.packages == ("bash",)
    assert "tool is left out" in capsys.readouterr().err


def test_a_known_digest_is_used_whatever_may_be_missing(serve: Serve, tmp_path: Path) -> None:
    opts = given(tmp_path, RPM % SHA256, *mirror(serve(whole)), "--allow-missing", "tool")
    assert obtain(opts).packages == ("tool",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[tool", "cannot be read as pins"),
        ("tool = 1", "tool is not a pin"),
        ('[tool]\nversion = "1"', "tool is not a pin"),
        (RPM % SHA256 + "colour = 1", "tool is not a pin"),
        (RPM % "abc", "'abc' for x86_64, which is not a sha256"),
        ((RPM % SHA256).replace("x86_64 =", "amd64 ="), "sha256 for amd64"),
        ((RPM % SHA256).replace('package = "tool"', ""), "either a package or a path"),
        ((SCRIPT % SHA256).replace("/usr/bin/script", "../script"), "not absolute"),
        ((RPM % SHA256).replace("{arch}", "{machine}"), "tool is not a pin"),
        ((RPM % SHA256).replace("https://", "ftp://"), "not an http or https URL"),
    ],
)
def test_pins_that_make_no_sense_are_refused_with_file_and_reason(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(UsageError, match=r"pins\.toml") as caught:
        obtain(given(tmp_path, text))
    assert complaint in caught.value.message


def test_debian_has_all_of_it_in_its_archive(tmp_path: Path) -> None:
    opts = given(tmp_path, RPM % SHA256, "--distribution", "debian")
    assert obtain(opts) == Additions()
    assert not thirdparty.lacking(opts)


def test_the_projects_own_pins_are_in_order_and_complete_on_x86_64(checkout: Path) -> None:
    pins = thirdparty.read_pins(checkout / thirdparty.PINS)
    assert [pin.name for pin in pins] == ["cosign", "docker-credential-pass", "pass"]
    assert all(pin.digest(X86_64) for pin in pins)


def test_a_mirror_without_amazon_linux_is_named_before_anything_is_downloaded(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(status(404))
    pins = tmp_path / "pins.toml"
    pins.write_text(RPM % SHA256)
    done = build(
        "--mirror", server.base, *mirror(server), "--third-party-pins", os.fspath(pins),
        "--without-packages", "--work", os.fspath(tmp_path / "work"),
    )  # fmt: skip

    assert done.returncode == 1
    assert "the mirror of Amazon Linux lacks the first file of the release" in done.stderr
    assert f"{server.base}/core/mirrors/" in done.stderr
    assert not [path for path in server.paths if path.startswith("/mirror/")]


def build(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run the build session in its own process; argv must stop it before it builds anything."""
    command = [sys.executable, "-m", "scripts.sessions.build", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--allow-missing", "tol"], "--allow-missing tol: nothing of that name is pinned"),
        (["--allow-missing", "base-image"], "--allow-missing base-image: nothing of that name"),
        (["--third-party-pins", "/nowhere"], "--third-party-pins /nowhere is not a file"),
        (["--third-party-mirror", "file:///srv"], "'file:///srv' is not a URL of http or https"),
    ],
)
def test_options_that_make_no_sense_end_with_2_and_no_traceback(
    argv: list[str], complaint: str
) -> None:
    done = build(*argv)

    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
