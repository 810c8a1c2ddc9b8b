"""Where the files of an image that belong to no package come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from packageurl import PackageURL

from scripts.arch import X86_64
from scripts.catalog import ROOT
from scripts.description import singles
from scripts.emulation.emulators import TABLE, EmulationTable, Emulators
from scripts.options import BAKE
from scripts.packages import thirdparty
from scripts.packages.thirdparty import PinnedFile
from scripts.stages.inputs import Input, Kind, from_labels
from scripts.system.digests import describe, text_digest

PIN = PinnedFile(
    "tool", "1.2", "https://example.org/{version}", {"x86_64": "ab" * 32},
    path="/usr/bin/tool", licence="MIT", purl="pkg:github/owner/tool@v{version}",
)  # fmt: skip


@pytest.fixture
def table() -> EmulationTable:
    return EmulationTable.read(ROOT / TABLE)


@pytest.fixture
def tree(tmp_path: Path, table: EmulationTable) -> Path:
    """The tree of an image that carries emulators."""
    for one in table.foreign_to(X86_64):
        for path, text in ((one.path, one.program), (one.registration_path, "line")):
            file = tmp_path / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    return tmp_path


def kept(table: EmulationTable, package: str = "qemu-user_10.0.2+ds-2_amd64.deb") -> Emulators:
    programs = [one.program for one in table.emulated.values()]
    return Emulators(Path("/x"), table, package, {name: text_digest(name) for name in programs})


def test_an_emulator_has_the_version_licence_and_package_url_of_its_package(
    tree: Path, table: EmulationTable
) -> None:
    found = {one.path: one for one in singles.emulators(tree, X86_64, table, kept(table))}
    program = found["/usr/bin/qemu-aarch64-static"]
    assert program.sha256 == text_digest("qemu-aarch64")
    assert program.version == "10.0.2+ds-2"
    assert program.licences == "GPL-2.0-only AND LGPL-2.1-or-later"
    url = PackageURL.from_string(program.purl)
    assert (url.type, url.namespace, url.name, url.version) == (
        "deb", "debian", "qemu-user", "10.0.2+ds-2",
    )  # fmt: skip
    assert url.qualifiers == {"arch": "amd64", "distro": "trixie", "upstream": "qemu"}
    assert found["/usr/lib/binfmt.d/qemu-arm-static.conf"].sha256 == text_digest("line")
    assert len(found) == 4


def test_an_epoch_in_a_file_name_is_read(tree: Path, table: EmulationTable) -> None:
    known = kept(table, "qemu-user_1%3a10.0-1_amd64.deb")
    [first, *_] = singles.emulators(tree, X86_64, table, known)
    assert first.version == "1:10.0-1"


def test_an_emulator_of_another_download_is_not_given_its_version(
    tree: Path, table: EmulationTable
) -> None:
    (tree / "usr/bin/qemu-arm-static").write_text("another")
    for known in (kept(table), None):
        found = {one.path: one for one in singles.emulators(tree, X86_64, table, known)}
        assert found["/usr/bin/qemu-arm-static"].sha256 == text_digest("another")
        assert found["/usr/bin/qemu-arm-static"].version == ""
        assert found["/usr/bin/qemu-arm-static"].purl == ""
        assert found["/usr/bin/qemu-arm-static"].origin == ""


def test_an_emulator_that_was_baked_has_the_commit_it_was_made_of(
    tree: Path, table: EmulationTable
) -> None:
    known = replace(kept(table, table.bake.reference), source=BAKE)
    [first, *_] = singles.emulators(tree, X86_64, table, known)
    assert first.version == table.bake.commit
    assert first.purl == f"pkg:github/tonistiigi/binfmt@{table.bake.commit}"
    assert first.licences == table.bake.licences
    assert first.origin.endswith(f"bake {table.bake.address}#{table.bake.commit} desktop")


def test_what_an_image_does_not_carry_is_not_listed(tmp_path: Path, table: EmulationTable) -> None:
    assert list(singles.emulators(tmp_path, X86_64, table, kept(table))) == []


def test_a_third_party_file_has_what_its_pin_says() -> None:
    held = [Input(Kind.FILE, "/usr/bin/tool", "ab" * 32)]
    [found] = singles.added(held, {"/usr/bin/tool": PIN})
    assert (found.version, found.purl, found.licences) == (
        "1.2", "pkg:github/owner/tool@v1.2", "MIT",
    )  # fmt: skip


def test_a_file_that_is_not_the_pinned_one_is_not_taken_for_it() -> None:
    held = [Input(Kind.FILE, "/usr/bin/tool", "cd" * 32)]
    [found] = singles.added(held, {"/usr/bin/tool": PIN})
    assert (found.sha256, found.version, found.purl) == ("cd" * 32, "", "")
    [found] = singles.added(held, {})
    assert (found.sha256, found.version) == ("cd" * 32, "")


def test_our_own_files_are_listed_as_they_were_when_they_were_copied(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ours")
    (tmp_path / "link").symlink_to("/dev/null")
    held = from_labels({
        "mkosi.images/base/mkosi.extra/etc/x": describe(tmp_path / "file"),
        "mkosi.images/base/mkosi.extra/etc/masked": describe(tmp_path / "link"),
        "mkosi.images/base/mkosi.debian/etc/y": describe(tmp_path / "file"),
        "mkosi.images/base/mkosi.sandbox/etc/x": describe(tmp_path / "file"),
        "mkosi.images/base/mkosi.conf": describe(tmp_path / "file"),
        "mkosi.extra/z": describe(tmp_path / "file"),
        "release": "trixie",
    })  # fmt: skip
    found = {one.path: one for one in singles.ours(held, "debian")}
    assert {path: (one.licences, one.origin) for path, one in found.items()} == {
        "/etc/x": ("Apache-2.0", "mkosi.images/base/mkosi.extra/etc/x"),
        "/etc/y": ("Apache-2.0", "mkosi.images/base/mkosi.debian/etc/y"),
        "/z": ("Apache-2.0", "mkosi.extra/z"),
    }
    assert {one.sha256 for one in found.values()} == {text_digest("ours")}


def test_every_single_file_that_we_pin_has_a_licence_and_a_package_url() -> None:
    pins = [pin for pin in thirdparty.read_pins(ROOT / thirdparty.PINS) if pin.path]
    assert pins
    for pin in pins:
        url = PackageURL.from_string(pin.package_url)
        assert pin.version in str(url.version)
        assert pin.licence
        assert PackageURL.from_string(replace(pin, version="9").package_url) != url
