"""How the Debian archive is asked, with a script in the place of apt-get."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.distributions import debian
from scripts.distributions.debian import Archive
from scripts.system.errors import MachineError
from scripts.system.process import CommandError
from scripts.system.url import Url

ARCHIVE = Archive(Url("http://mirror.example.org/debian"))

LISTED = """\
trixie main http://mirror.example.org/debian/
trixie contrib http://elsewhere.example.org/debian/
trixie main http://second.example.org/debian/
trixie-security main http://mirror.example.org/security
trixie-updates main file:///media/cdrom
"""


class Apt:
    """A script that writes down its arguments and does what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def does(self, script: str) -> None:
        program = self.folder / "apt-get"
        program.write_text(f'#!/bin/sh\necho "$@" >> {self.folder}/asked\n{script}\n')
        program.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Apt]:
    """The only apt-get there is, on a machine with Debian 13 and the archive's keys."""
    apt = Apt(tmp_path / "bin")
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setenv("PATH", f"{apt.folder}:/bin")
    monkeypatch.setattr(debian, "KEYRING", keyring)
    release = {"ID": "debian", "VERSION_CODENAME": "trixie"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    debian._of_this_machine.cache_clear()
    yield apt
    debian._of_this_machine.cache_clear()


def test_the_machine_s_archive_is_the_first_of_its_release_that_has_an_address(apt: Apt) -> None:
    apt.does(f"cat <<END\n{LISTED}END")
    assert debian.find() == Archive(
        Url("http://mirror.example.org/debian"), Url("http://mirror.example.org/security")
    )


def test_security_fixes_come_from_the_machine_s_archive_beside_a_mirror_too(apt: Apt) -> None:
    apt.does(f"cat <<END\n{LISTED}END")
    found = debian.find(Url("http://own.example.org"))
    assert found == Archive(
        Url("http://own.example.org/debian"), Url("http://mirror.example.org/security")
    )


def test_an_archive_of_another_release_is_not_the_machine_s(apt: Apt) -> None:
    apt.does("echo bookworm main http://mirror.example.org/debian")
    assert debian.find() is None


@pytest.mark.parametrize("release", [{"ID": "fedora"}, None])
def test_a_machine_that_is_not_debian_has_no_archive(
    apt: Apt, monkeypatch: pytest.MonkeyPatch, release: dict[str, str] | None
) -> None:
    def read() -> dict[str, str]:
        if release is None:
            raise OSError("no os-release")
        return release

    apt.does(f"cat <<END\n{LISTED}END")
    monkeypatch.setattr(platform, "freedesktop_os_release", read)
    assert debian.find() is None


def test_an_apt_that_is_broken_is_the_machine_s_to_mend(apt: Apt) -> None:
    apt.does("echo 'E: Malformed entry 1 in list file' >&2; exit 100")
    with pytest.raises(MachineError, match="Malformed entry 1") as told:
        debian.find()
    assert "apt-get update" in told.value.hint


def test_a_machine_without_apt_has_no_archive(
    apt: Apt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.fspath(apt.folder))
    assert debian.find() is None
    with pytest.raises(MachineError, match="no Debian archive"):
        debian.download("mkosi", ["testing"], tmp_path / "apt")


def test_a_package_is_downloaded_into_the_folder_by_an_apt_of_its_own(
    apt: Apt, tmp_path: Path
) -> None:
    apt.does('case "$*" in *download*) touch mkosi_27.1-1_all.deb;; esac')
    folder = tmp_path / "apt"

    path = debian.download("mkosi", ["testing", "sid"], folder, arch="arm64", archive=ARCHIVE)

    assert path == folder / "mkosi_27.1-1_all.deb"
    update, download = apt.asked
    assert update.endswith(" update")
    assert download.endswith(" download mkosi")
    configuration = (folder / "apt.conf").read_text()
    for option in (f'Dir::State::Lists "{folder}/lists"', 'APT::Architecture "arm64"'):
        assert f"{option};\n" in configuration
    assert "Suites: testing sid" in (folder / "debian.sources").read_text()


def test_a_package_that_apt_does_not_find_is_apt_s_own_error(apt: Apt, tmp_path: Path) -> None:
    apt.does("echo 'E: Unable to locate package mkosi' >&2; exit 100")
    with pytest.raises(CommandError) as told:
        debian.download("mkosi", ["testing"], tmp_path / "apt", archive=ARCHIVE)
    assert "Unable to locate" in told.value.output


def test_without_the_archive_s_keys_nothing_is_downloaded(
    apt: Apt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt.does("")
    monkeypatch.setattr(debian, "KEYRING", tmp_path / "nowhere.gpg")
    with pytest.raises(MachineError, match="lacks the keys") as told:
        debian.download("mkosi", ["testing"], tmp_path / "apt", archive=ARCHIVE)
    assert "debian-archive-keyring" in told.value.hint
