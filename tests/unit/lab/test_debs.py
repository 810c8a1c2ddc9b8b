"""The lab's Debian packages, of an archive that shell scripts play, and without it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scripts.arch import X86_64
from scripts.distributions import debian
from scripts.system.errors import HarnessError
from scripts.system.url import Url
from tests.lab import debs, eras
from tests.lab.eras import Era

CONTENT = "a package"

# What apt would do with an archive of one package, as far as it is asked to.
APT_GET = """\
#!/bin/sh
case " $* " in
*" --simulate "*)
    echo "Inst bash (5.2 Debian:13/stable [amd64])"
    exit
    ;;
esac
if [ -e @down@ ]; then
    echo "E: Failed to fetch http://archive.invalid/debian: no route to host" >&2
    exit 100
fi
case " $* " in
*" --download-only "* | *" download "*) printf "@content@" >@deb@ ;;
esac
"""
APT_CACHE = f"""\
#!/bin/sh
echo "Package: bash"
echo "Version: 5.2"
echo "Architecture: amd64"
echo "SHA256: {hashlib.sha256(CONTENT.encode()).hexdigest()}"
"""


@dataclass
class Machine:
    """A machine with an archive that may be out of reach, and what the lab says on it."""

    folder: Path
    era: Era = eras.NEWEST
    said: list[str] = field(default_factory=list)

    @property
    def deb(self) -> Path:
        return self.folder / "apt/cache/archives/bash_5.2_amd64.deb"

    def archive(self) -> debs.Archive:
        return debs.Archive(self.folder / "apt", self.era, X86_64, self.said.append)

    def go_on_a_plane(self) -> None:
        """Have no archive from here on."""
        (self.folder / "down").touch()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose lists are always too old."""
    made = Machine(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    values = {"down": tmp_path / "down", "deb": made.deb, "content": CONTENT}
    script = APT_GET
    for mark, value in values.items():
        script = script.replace(f"@{mark}@", str(value))
    for name, text in (("apt-get", script), ("apt-cache", APT_CACHE)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    there = debian.Archive(Url("http://archive.invalid/debian"))
    monkeypatch.setattr(debian, "find", lambda: there)
    monkeypatch.setattr(debs, "LISTS_AGE", 0)
    return made


def test_packages_are_downloaded_with_what_they_depend_on(machine: Machine) -> None:
    [deb] = machine.archive().obtain(["bash"])

    assert (deb.name, deb.version, deb.path) == ("bash", "5.2", machine.deb)
    assert machine.said == []


def test_a_newer_release_is_asked_for_only_what_the_era_lacks(machine: Machine) -> None:
    machine.era = eras.AMAZON
    machine.archive()
    apt = machine.folder / "apt"

    assert (
        'APT::Default-Release "/^bookworm(|-updates|-security)$/";'
        in (apt / "apt.conf").read_text()
    )
    suites = [
        line.removeprefix("Suites: ").split()
        for line in (apt / "debian.sources").read_text().splitlines()
        if line.startswith("Suites: ")
    ]
    assert suites == [["bookworm", "bookworm-updates"], ["trixie", "trixie-updates"]]


def test_without_the_archive_what_is_there_serves_and_that_is_said_once(machine: Machine) -> None:
    before = machine.archive().obtain(["bash"])
    machine.go_on_a_plane()
    archive = machine.archive()

    assert archive.obtain(["bash"]) == before
    assert archive.obtain_alone(["bash"]) == before
    assert machine.said == [
        "apt cannot refresh its lists, so the lab uses the old ones: "
        "Failed to fetch http://archive.invalid/debian: no route to host"
    ]


def test_without_the_archive_a_package_that_is_not_there_is_missed(machine: Machine) -> None:
    machine.archive().obtain(["bash"])
    machine.go_on_a_plane()
    machine.deb.unlink()

    for obtain in (machine.archive().obtain, machine.archive().obtain_alone):
        with pytest.raises(HarnessError, match=r"cannot download .*: Failed to fetch .* no route"):
            obtain(["bash"])


def test_an_archive_that_was_never_asked_cannot_be_done_without(machine: Machine) -> None:
    machine.go_on_a_plane()

    with pytest.raises(HarnessError, match=r"cannot download .*: Failed to fetch"):
        machine.archive().obtain(["bash"])
    assert machine.said == []
