"""Packages from SPAL: which builds take them, what dnf is asked for, and which are left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import options
from scripts.catalog import ROOT
from scripts.options import Options
from scripts.packages import recipes, rpms, supplementary
from scripts.stages.additions import Additions
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Progress
from tests.unit.packages.given import opts, place
from tests.unit.packages.test_rpms import other_pins
from tests.unit.server import Server

OLD = "2023.8.20250915"
SSHFS = "fuse-sshfs-3.7.3-2.5.spal2023"


def choosing_spal(folder: Path) -> Options:
    """Options with the project's pins, but fuse-sshfs from SPAL."""
    own = (ROOT / options.PACKAGES).read_text()
    return other_pins(folder, own.replace('source = "fedora"', 'source = "spal"'))


def test_a_build_with_our_own_packages_takes_none(tmp_path: Path) -> None:
    assert supplementary.packages(opts(tmp_path), place(tmp_path)) == {}
    assert supplementary.repositories(opts(tmp_path), place(tmp_path)) == ()


def test_a_build_without_our_own_packages_takes_spals_sshfs(tmp_path: Path) -> None:
    given = opts(tmp_path, "--without-packages")

    assert supplementary.packages(given, place(tmp_path)) == {"fuse-sshfs": SSHFS}
    assert supplementary.repositories(given, place(tmp_path)) == ("spal",)


def test_a_package_whose_source_is_spal_is_installed_and_not_built(tmp_path: Path) -> None:
    given = choosing_spal(tmp_path)
    plan = rpms.plan(given, place(tmp_path))

    assert supplementary.packages(given, place(tmp_path)) == {"fuse-sshfs": SSHFS}
    assert plan
    assert [recipe.name for recipe in plan.pins.built] == ["cloud-init"]
    assert [path.name for path in (plan.context / "packages").iterdir()] == ["cloud-init"]
    assert {path.name for path in rpms.secrets(plan.context).iterdir()} == {"binary", "cloud-init"}
    dockerfile = (plan.context / "Dockerfile").read_text()
    assert "fuse-sshfs" not in dockerfile
    assert dockerfile.endswith("\nFROM scratch\nCOPY --from=cloud-init /build/out/ /\n")


def test_nothing_is_built_where_every_package_comes_from_spal(tmp_path: Path) -> None:
    own = (ROOT / options.PACKAGES).read_text()
    more = own.replace('source = "fedora"', 'source = "spal"').replace(
        'source = "amazonlinux"', 'source = "spal"'
    )
    more += '\n[supplementary.cloud-init]\nnevra = "cloud-init-22.2.2-1.spal2023"\n'

    assert rpms.plan(other_pins(tmp_path, more), place(tmp_path)) is None


def test_of_another_release_it_is_the_same_version(tmp_path: Path) -> None:
    given = opts(tmp_path, "--without-packages")
    other = place(tmp_path, release="2023.12.20260831")

    assert supplementary.packages(given, other) == {"fuse-sshfs": "fuse-sshfs-3.7.3"}


def test_of_a_release_before_spal_a_build_without_our_packages_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = opts(tmp_path, "--without-packages")
    added = supplementary.add(given, place(tmp_path, release=OLD), Progress(live=False))

    assert added == Additions()
    assert supplementary.repositories(given, place(tmp_path, release=OLD)) == ()
    said = " ".join(capsys.readouterr().err.split())
    reason = f"the release {OLD} is older than 2023.9.20251117, the first with SPAL"
    assert f"fuse-sshfs is left out: {reason}" in said


def test_where_there_is_no_spal_a_package_that_must_come_from_it_is_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match="fuse-sshfs cannot come from SPAL: the release") as caught:
        supplementary.packages(choosing_spal(tmp_path), place(tmp_path, release=OLD))
    assert "another source" in caught.value.hint
    assert "--allow-missing fuse-sshfs" in caught.value.hint


def test_it_is_left_out_where_that_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = opts(tmp_path, "--without-packages", "--allow-missing", "fuse-sshfs")

    assert supplementary.add(given, place(tmp_path), Progress(live=False)) == Additions()
    assert supplementary.repositories(given, place(tmp_path)) == ()
    assert "fuse-sshfs is left out: -- --allow-missing fuse-sshfs" in capsys.readouterr().err


def test_a_mirror_without_spal_is_named_before_a_build_begins(
    tmp_path: Path, server: Server
) -> None:
    given = opts(tmp_path, "--without-packages")
    where = place(tmp_path, server.url, "2023.12.20260930")
    with pytest.raises(HarnessError, match=r"no Supplementary Packages .* 2023\.12") as caught:
        supplementary.check(given, where)
    assert "--allow-missing fuse-sshfs" in caught.value.hint
    assert server.asked == ["/spal/mirrors/2023.12.20260930/x86_64/mirror.list"]

    server.files[server.asked[0]] = f"{server.url}/spal/guids/1/x86_64/\n".encode()
    supplementary.check(given, where)
    supplementary.check(opts(tmp_path), where)


def test_debian_needs_none(tmp_path: Path) -> None:
    given = opts(tmp_path, "--distribution", "debian", "--without-packages")

    assert supplementary.names(given) == []
    assert supplementary.packages(given, place(tmp_path)) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((SSHFS, "sshfs-3.7.3-1"), "nevra of supplementary.fuse-sshfs must be fuse-sshfs-VERSION-"),
        ((SSHFS, "fuse-sshfs"), "must be fuse-sshfs-VERSION-RELEASE, not 'fuse-sshfs'"),
        ((SSHFS, "fuse-sshfs-3 --x-1"), "must be fuse-sshfs-VERSION-RELEASE"),
        (
            (r"\[supplementary.fuse-sshfs\]", "[supplementary.other]\nnevra = 'other-1-1'\n[x]"),
            r"fuse-sshfs has the source 'spal', but there is no \[supplementary\.fuse-sshfs\]",
        ),
    ],
)
def test_pins_that_make_no_sense_are_one_sentence(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    own = (ROOT / options.PACKAGES).read_text().replace('source = "fedora"', 'source = "spal"')
    (tmp_path / "packages.toml").write_text(re.sub(*change, own))
    with pytest.raises(UsageError, match=said):
        recipes.read(tmp_path / "packages.toml")
