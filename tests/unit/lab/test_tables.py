"""The tables: from Debian's packages to Amazon Linux's."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.arch import AARCH64, X86_64
from tests.lab import eras
from tests.lab.debs import Deb
from tests.lab.eras import Era
from tests.lab.tables import Recipe, Tables, glob, merged

RELEASE = "2023.12.20260930"


def deb(name: str, *depends: str, version: str = "1.0-1", provides: str = "") -> Deb:
    return Deb(
        name=name,
        version=version,
        depends=tuple(tuple(group.split("|")) for group in depends),
        provides=tuple(filter(None, [provides])),
        summary=f"what {name} is",
        sha256="00",
        path=Path("/nowhere"),
    )


def recipes(*debs: Deb) -> dict[str, Recipe]:
    return {recipe.name: recipe for recipe in Tables(X86_64, RELEASE).recipes(debs)}


def test_packages_of_debian_go_into_the_rpm_of_amazon_linux() -> None:
    made = recipes(deb("libc6"), deb("libc-bin"), deb("grep"))
    assert [each.name for each in made["glibc"].debs] == ["libc-bin", "libc6"]
    assert [each.name for each in made["grep"].debs] == ["grep"]


def test_dependencies_are_those_of_the_debs_under_their_new_names() -> None:
    made = recipes(deb("iproute2", "libc6", "libselinux1"), deb("libc6"), deb("libselinux1"))
    assert {"glibc", "libselinux"} <= set(made["iproute"].requires)


def test_what_is_dropped_is_required_no_more() -> None:
    made = recipes(deb("file", "libc6", "dpkg|debconf"), deb("libc6"), deb("dpkg"), deb("debconf"))
    assert made["file"].requires == ("filesystem", "glibc")
    assert not {"dpkg", "debconf"} & made.keys()


def test_an_alternative_is_met_by_the_package_that_is_there_or_provides_it() -> None:
    made = recipes(deb("file", "absent|virtual"), deb("grep", provides="virtual"))
    assert "grep" in made["file"].requires


def test_an_rpm_does_not_require_itself() -> None:
    assert "glibc" not in recipes(deb("libc-bin", "libc6"), deb("libc6"))["glibc"].requires


def test_systemd_networkd_is_split_off_systemd() -> None:
    assert "systemd-networkd" in recipes(deb("systemd"))["systemd"].names


@pytest.mark.parametrize(
    ("debian", "version", "release"),
    [
        ("5.2.37-2+b10", "5.2.37", "2+b10.amzn2023"),
        ("1:10.0p1-7+deb13u4", "10.0p1", "7+deb13u4.amzn2023"),
        ("2026f-0+deb13u1", "2026f", "0+deb13u1.amzn2023"),
        ("20250419", "20250419", "0.amzn2023"),
        ("1:1.3.dfsg+really1.3.1-1", "1.3.dfsg+really1.3.1", "1.amzn2023"),
        ("1.0-rc1-2", "1.0.rc1", "2.amzn2023"),
    ],
)
def test_a_version_of_debian_becomes_one_of_rpm(debian: str, version: str, release: str) -> None:
    made = recipes(deb("grep", version=debian))["grep"]
    assert (made.version, made.release) == (version, release)


def test_the_release_is_the_version_of_system_release() -> None:
    made = recipes()["system-release"]
    assert made.version == RELEASE
    assert f"system-release(releasever) = {RELEASE}" in made.provides


def test_each_architecture_has_a_kernel_which_debian_13_has_new_enough() -> None:
    assert "linux-image-cloud-amd64/trixie*" in Tables(X86_64, RELEASE).roots
    assert "linux-image-cloud-arm64/trixie*" in Tables(AARCH64, RELEASE).roots
    assert "linux-image-cloud-arm64" in Tables(AARCH64, RELEASE, eras.NEWEST).roots
    tables = Tables(X86_64, RELEASE)
    assert tables.rpm_of("linux-image-6.12.117+deb13-cloud-amd64") == "kernel6.18"
    assert tables.rpm_of("linux-image-cloud-amd64") is None


def test_the_tables_of_an_era_add_to_the_common_ones() -> None:
    common = {"names": {"a": "x"}, "rpm": {"b": {"edit": [1], "post": "old"}}}
    own = {"names": {"c": "y"}, "rpm": {"b": {"edit": [2], "post": "new"}}}

    assert merged(common, own) == {
        "names": {"a": "x", "c": "y"},
        "rpm": {"b": {"edit": [1, 2], "post": "new"}},
    }
    assert common["rpm"] == {"b": {"edit": [1], "post": "old"}}


@pytest.mark.parametrize(
    ("era", "debian", "rpm"),
    [
        (eras.AMAZON, "libssl3", "openssl-libs"),
        (eras.AMAZON, "python3.11", "python3"),
        (eras.NEWEST, "libssl3t64", "openssl-libs"),
        (eras.NEWEST, "python3.13", "python3"),
    ],
)
def test_each_era_knows_the_names_of_its_own_debian(era: Era, debian: str, rpm: str) -> None:
    assert Tables(X86_64, RELEASE, era).rpm_of(debian) == rpm


def test_each_era_has_the_patch_that_fits_its_cloud_init() -> None:
    patches = {
        era: next(iter(recipe.patches.values()))
        for era in eras.ERAS
        for recipe in Tables(X86_64, RELEASE, eras.ERAS[era]).recipes([deb("cloud-init")])
        if recipe.name == "cloud-init"
    }
    assert {path.name for path in patches.values()} == {"0010-Repair-mounts-module.patch"}
    assert patches["amazon"].read_text() != patches["newest"].read_text()


def test_a_pattern_ends_at_a_slash() -> None:
    assert glob("/usr/lib/*/gconv").fullmatch("/usr/lib/x86_64-linux-gnu/gconv")
    assert not glob("/usr/lib/*").fullmatch("/usr/lib/a/b")
    assert glob("/a/(b|c)*").fullmatch("/a/cd")
    assert not glob("a.b").fullmatch("axb")
