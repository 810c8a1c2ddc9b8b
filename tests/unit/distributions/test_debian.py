from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from scripts.distributions import debian
from scripts.distributions.debian import Archive
from scripts.system.url import Url

ARCHIVE = Archive(
    Url("http://mirror.example.org/debian"), Url("http://mirror.example.org/security")
)


def suites(text: str) -> dict[str, str]:
    """The suites by URI."""
    fields = [line.split(": ", 1) for line in text.splitlines() if line]
    uris = [value for name, value in fields if name == "URIs"]
    return dict(zip(uris, [value for name, value in fields if name == "Suites"], strict=True))


def test_a_release_comes_with_its_updates_and_security_fixes() -> None:
    assert suites(ARCHIVE.sources("trixie")) == {
        "http://mirror.example.org/debian": "trixie trixie-updates",
        "http://mirror.example.org/security": "trixie-security",
    }


@pytest.mark.parametrize("release", ["sid", "unstable"])
def test_the_rolling_suite_has_neither(release: str) -> None:
    assert suites(ARCHIVE.sources(release)) == {"http://mirror.example.org/debian": release}


def test_without_a_security_archive_none_is_named() -> None:
    text = Archive(Url("http://mirror.example.org/debian")).sources("trixie")

    assert suites(text) == {"http://mirror.example.org/debian": "trixie trixie-updates"}


@pytest.mark.parametrize("mirror", ["http://mirror.example.org", "http://mirror.example.org/"])
def test_a_mirror_takes_the_place_of_the_machines_archive(mirror: str) -> None:
    found = debian.find(Url(mirror))

    assert found
    assert found.main == Url("http://mirror.example.org/debian")


@pytest.mark.skipif(not shutil.which("apt-get"), reason="apt is not installed")
def test_apt_reads_what_is_written_for_it(tmp_path: Path) -> None:
    tree = debian.write_sandbox_tree(tmp_path / "a tree", ARCHIVE, "trixie")
    options = {
        "Dir::Etc": tree / "etc/apt",
        "Dir::Etc::SourceParts": tree / "etc/apt/sources.list.d",
        "Dir::Etc::Parts": tree / "etc/apt/apt.conf.d",
    }
    listed = subprocess.run(
        [
            "apt-get", "indextargets", "--no-release-info",
            "--option", "Dir::State::Lists=/dev/null/",
            "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)",
            *(arg for key, value in options.items() for arg in ("-o", f"{key}={value}")),
            "Created-By: Packages",
        ],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    assert sorted(set(listed.splitlines())) == [
        "trixie main http://mirror.example.org/debian/",
        "trixie-security main http://mirror.example.org/security/",
        "trixie-updates main http://mirror.example.org/debian/",
    ]


def test_an_unknown_archive_is_left_to_mkosi(tmp_path: Path) -> None:
    tree = debian.write_sandbox_tree(tmp_path, None, "trixie")

    assert not list(tree.rglob("*.sources"))
    assert (tree / "etc/apt/apt.conf.d/90-finch.conf").exists()


def test_nothing_stays_of_an_earlier_mirror(tmp_path: Path) -> None:
    debian.write_sandbox_tree(tmp_path, ARCHIVE, "trixie")
    debian.write_sandbox_tree(tmp_path, None, "trixie")

    assert not list(tmp_path.rglob("*.sources"))


def test_passwords_are_copied_for_the_same_eyes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tmp_path / "etc-apt"
    rule = machine / "auth.conf.d/archive.conf"
    rule.parent.mkdir(parents=True)
    rule.write_text("machine mirror.example.org login me password secret\n")
    rule.chmod(0o600)
    monkeypatch.setattr(debian, "APT", machine)
    tree = debian.write_sandbox_tree(tmp_path / "tree", ARCHIVE, "trixie")

    [copy] = tree.rglob("archive.conf")
    assert copy.read_text() == rule.read_text()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


@pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="this is no Debian machine")
def test_on_debian_the_machines_own_archive_is_used() -> None:
    found = debian.find()

    assert found
    assert "://" in found.main.bare
    assert not found.main.bare.endswith("/")
