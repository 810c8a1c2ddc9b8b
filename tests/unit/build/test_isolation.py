"""What mkosi is given of this machine while it builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import arch
from scripts.build import isolation
from scripts.catalog import DISTRIBUTIONS
from scripts.mkosi.sandbox import Tools
from scripts.stages.places import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "work/debian/x86_64"
    for part in ("sandbox/etc/apt/sources.list.d", "additions", "stages/base", "stages/initrd"):
        (folder / part).mkdir(parents=True)
    return Place(folder, DISTRIBUTIONS["debian"], "trixie", arch.native(), folder / "sandbox")


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    folder = tmp_path / "work/debian/x86_64/configuration"
    (folder / "mkosi.conf.d").mkdir(parents=True)
    (folder / "mkosi.conf").touch()
    return folder


def around(place: Place, configuration: Path) -> tuple[set[Path], set[Path]]:
    """What may be read and written in the confinement for a stage on base."""
    confinement = isolation.around(
        place,
        configuration,
        Tools(place.folder / "tools", place.folder / "sandbox.py"),
        read=[place.stage("base")],
        write=[place.folder / "building/own"],
        temporary=place.folder / "building/own.tmp",
    )
    return {*confinement.read}, {*confinement.write}


def test_a_stage_sees_its_configuration_and_its_dependencies_and_no_other_folder_of_builds(
    place: Place, configuration: Path
) -> None:
    read, write = around(place, configuration)

    assert read == {configuration, place.sandbox_tree, place.additions, place.stage("base")}
    assert write == {place.folder / "building/own"}


@pytest.mark.parametrize(
    "setting",
    [
        "ExtraTrees={0}:/opt",
        "ExtraTrees=one,{0}:/opt two",
        "PackageDirectories=\n        relative\n        {0}\n",
        "SandboxTrees={0}",
    ],
)
def test_what_the_configuration_names_of_this_machine_is_given(
    place: Place, configuration: Path, tmp_path: Path, setting: str
) -> None:
    (tmp_path / "mine").mkdir()
    local = configuration / "mkosi.conf.d/mine.conf"
    local.write_text(f"[Content]\n{setting.format(tmp_path / 'mine')}\nPackages=bash\n")

    assert tmp_path / "mine" in around(place, configuration)[0]


@pytest.mark.parametrize(
    "text",
    [
        "[Content]\nRemoveFiles=/etc/shadow\n",
        "[Content]\nExtraTrees=mine:/etc/shadow\n",
        "# ExtraTrees=/etc/shadow\n",
        "[Content]\nExtraTrees=mine\nRemoveFiles=\n        /etc/shadow\n",
    ],
)
def test_a_path_in_the_image_gives_nothing_of_this_machine_away(
    place: Place, configuration: Path, text: str
) -> None:
    (configuration / "mkosi.conf").write_text(text)

    assert Path("/etc/shadow") not in around(place, configuration)[0]


def make_link(path: Path) -> None:
    path.symlink_to("/usr/lib/only-in-the-image.conf")


def make_settings_of_another_program(path: Path) -> None:
    path.write_text("Include = /etc/shadow\n")


@pytest.mark.parametrize("make", [make_link, Path.mkdir, make_settings_of_another_program])
def test_what_a_tree_for_an_image_holds_is_not_a_setting_of_mkosi(
    place: Place, configuration: Path, make: Callable[[Path], None]
) -> None:
    etc = configuration / "mkosi.images/base/mkosi.extra/etc"
    etc.mkdir(parents=True)
    make(etc / "some.conf")

    assert Path("/etc/shadow") not in around(place, configuration)[0]


@pytest.mark.parametrize("uri", ["file://{0}", "file:{0}"])
def test_a_mirror_in_a_folder_is_given(
    place: Place, configuration: Path, tmp_path: Path, uri: str
) -> None:
    (tmp_path / "mirror").mkdir()
    sources = place.sandbox_tree / "etc/apt/sources.list.d/mkosi.sources"
    sources.write_text(f"Types: deb\nURIs: {uri.format(tmp_path / 'mirror')}\nSuites: trixie\n")

    assert tmp_path / "mirror" in around(place, configuration)[0]
