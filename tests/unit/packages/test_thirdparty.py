"""Where third-party files come from; tests/integration downloads some."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.arch import AARCH64, X86_64, Arch
from scripts.packages import thirdparty
from scripts.packages.thirdparty import PinnedFile
from scripts.system.errors import UsageError
from scripts.system.url import Url

PIN = PinnedFile(
    "tool",
    "1.2",
    "https://example.org/v{version}/tool_{debian}.{arch}?raw=1",
    {"x86_64": "a" * 64, "aarch64": ""},
    path="/usr/bin/tool",
)


def test_placeholders_stand_for_version_and_both_names_of_the_architecture() -> None:
    assert PIN.address(AARCH64) == Url("https://example.org/v1.2/tool_arm64.aarch64?raw=1")


def test_a_mirror_has_the_file_below_its_host_and_path() -> None:
    mirrored = PIN.address(X86_64, Url("http://mirror.test/files/"))
    assert mirrored == Url("http://mirror.test/files/example.org/v1.2/tool_amd64.x86_64")


def test_a_file_is_called_as_at_the_end_of_its_path() -> None:
    assert PIN.file_name(X86_64) == "tool_amd64.x86_64"


def test_one_digest_may_be_that_of_every_architecture() -> None:
    pin = PinnedFile("tool", "1", "https://example.org/", {thirdparty.NOARCH: "b" * 64})
    assert pin.digest(X86_64) == pin.digest(AARCH64) == "b" * 64


@pytest.mark.parametrize(("arch", "digest"), [(X86_64, "a" * 64), (AARCH64, "")])
def test_a_digest_that_is_unknown_is_empty(arch: Arch, digest: str) -> None:
    assert PIN.digest(arch) == digest


@pytest.mark.parametrize(
    "url", ["https://me:MARK@files.test/x", "ftp://me:MARK@files.test/x", "//me:MARK@files.test/x"]
)
def test_a_password_in_a_pin_is_refused_and_not_shown(tmp_path: Path, url: str) -> None:
    (tmp_path / "pins.toml").write_text(
        f'[tool]\nversion = "1"\nurl = "{url}"\npath = "/usr/bin/tool"\nsha256 = {{}}\n'
    )
    with pytest.raises(UsageError, match=r"password in its URL|not an http") as caught:
        thirdparty.read_pins(tmp_path / "pins.toml")
    assert "MARK" not in caught.value.message
