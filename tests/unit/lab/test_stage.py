"""From a Debian package to the files of an RPM."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError
from tests.lab import stage
from tests.lab.debs import Deb
from tests.lab.stage import SOURCE_DATE_EPOCH
from tests.lab.tables import Edit, Recipe, Split

CONTROL = """\
Package: example
Version: 1-1
Architecture: all
Maintainer: Nobody <nobody@example.invalid>
Description: an example
"""

MakeDeb = Callable[..., Deb]


@pytest.fixture
def make_deb(tmp_path: Path) -> MakeDeb:
    def make(**modes: int) -> Deb:
        """A package with an empty file of each name (`__` for a slash) and mode."""
        tree = tmp_path / "deb"
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (tree / "DEBIAN/control").write_text(CONTROL)
        for name, mode in modes.items():
            path = tree / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text\n")
            path.chmod(mode)
        path = tmp_path / "example.deb"
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", tree, path],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return Deb("example", "1-1", (), (), "an example", file_digest(path), path)

    return make


def recipe(*debs: Deb, **fields: Any) -> Recipe:
    return Recipe("example", "1", "1", "x86_64", "an example", debs, **fields)


def lines(tmp_path: Path, made: Recipe) -> dict[str, list[str]]:
    tree = stage.stage(made, tmp_path / "tree", {})
    return {
        name: [entry.line() for entry in entries]
        for name, entries in stage.entries(tree, made).items()
    }


def test_modes_come_along_and_all_belongs_to_root(tmp_path: Path, make_deb: MakeDeb) -> None:
    made = recipe(make_deb(usr__bin__su=0o4755), common_folders=frozenset({"/usr"}))
    assert lines(tmp_path, made)["example"] == [
        '%dir %attr(0755, root, root) "/usr/bin"',
        '%attr(4755, root, root) "/usr/bin/su"',
    ]


def test_a_program_gets_the_capabilities_that_the_table_gives_it(
    tmp_path: Path, make_deb: MakeDeb
) -> None:
    modes = {"/usr/bin/newuidmap": "0755 root root cap_setuid=ep"}
    made = recipe(make_deb(usr__bin__newuidmap=0o4755), modes=modes)
    assert lines(tmp_path, made)["example"][-1] == (
        '%attr(0755, root, root) %caps(cap_setuid=ep) "/usr/bin/newuidmap"'
    )


def test_configuration_and_licences_are_marked(tmp_path: Path, make_deb: MakeDeb) -> None:
    deb = make_deb(etc__conf=0o644, usr__share__doc__example__copyright=0o644)
    found = lines(tmp_path, recipe(deb, remove=("/usr/share/doc",)))["example"]
    assert '%attr(0644, root, root) %config(noreplace) "/etc/conf"' in found
    assert '%attr(0644, root, root) %license "/usr/share/licenses/example/example"' in found


def test_what_is_removed_goes_with_all_below_it(tmp_path: Path, make_deb: MakeDeb) -> None:
    deb = make_deb(usr__share__man__man1__su=0o644, usr__share__manner=0o644)
    tree = stage.stage(recipe(deb, remove=("/usr/share/man",)), tmp_path / "tree", {})
    assert tree.paths() == ["/usr", "/usr/share", "/usr/share/manner"]


@pytest.fixture
def make_split_deb(make_deb: MakeDeb, tmp_path: Path) -> Deb:
    """A package of before /lib and /sbin were links, with links out of them."""
    tree = tmp_path / "deb"
    for folder, name, to in (
        ("lib/systemd/system", "a.service", "../../../usr/lib/helper"),
        ("sbin", "init", "/lib/systemd/systemd"),
        ("sbin", "halt", "../bin/systemctl"),
        ("library", "link", "../lib"),
    ):
        (tree / folder).mkdir(parents=True, exist_ok=True)
        (tree / folder / name).symlink_to(to)
    return make_deb(bin__systemctl=0o755, lib__udev__rule=0o600)


def test_what_was_beside_usr_goes_below_it_and_links_lead_to_the_same_files(
    tmp_path: Path, make_split_deb: Deb
) -> None:
    made = recipe(make_split_deb, remove=("/usr/lib/nothing",))
    tree = stage.stage(made, tmp_path / "tree", {})
    links = {
        path: str((tree / path).readlink()) for path in tree.paths() if (tree / path).is_symlink()
    }

    assert links == {
        "/library/link": "../lib",
        "/usr/lib/systemd/system/a.service": "../../helper",
        "/usr/sbin/halt": "../bin/systemctl",
        "/usr/sbin/init": "/lib/systemd/systemd",
    }
    assert not {"/bin", "/lib", "/sbin"} & {*tree.paths()}
    assert tree.modes["/usr/lib/udev/rule"] == 0o600


def test_what_is_left_out_below_usr_is_left_out_beside_it(
    tmp_path: Path, make_split_deb: Deb
) -> None:
    tree = stage.stage(recipe(make_split_deb, remove=("/usr/lib/udev",)), tmp_path / "tree", {})
    assert not [path for path in tree.paths() if "udev" in path]


def test_files_of_an_era_come_after_the_common_ones(tmp_path: Path, make_deb: MakeDeb) -> None:
    for name, text in (("common", "old"), ("own", "new")):
        (tmp_path / name / "etc").mkdir(parents=True)
        (tmp_path / name / "etc/conf").write_text(text)
    made = recipe(make_deb(), files=(tmp_path / "common", tmp_path / "own"))
    tree = stage.stage(made, tmp_path / "tree", {})
    assert (tree / "/etc/conf").read_text() == "new"


def test_a_file_keeps_its_mode_where_it_is_moved(tmp_path: Path, make_deb: MakeDeb) -> None:
    made = recipe(
        make_deb(boot__config_6=0o600), move={"/boot/(config)_(.)": "/usr/lib/modules/\\2/\\1"}
    )
    assert '%attr(0600, root, root) "/usr/lib/modules/6/config"' in lines(tmp_path, made)["example"]


def test_modes_and_owners_of_the_table_win(tmp_path: Path, make_deb: MakeDeb) -> None:
    made = recipe(make_deb(helper=0o755), modes={"/helper": "4754 root messagebus"})
    assert lines(tmp_path, made)["example"] == ['%attr(4754, root, messagebus) "/helper"']


def test_a_split_gets_its_paths_and_the_rest_stays(tmp_path: Path, make_deb: MakeDeb) -> None:
    split = Split("example-net", "", ("/usr/bin/net*",), (), (), "", independent=False)
    deb = make_deb(usr__bin__netctl=0o755, usr__bin__ctl=0o755)
    found = lines(tmp_path, recipe(deb, splits=(split,)))
    assert found["example-net"] == ['%attr(0755, root, root) "/usr/bin/netctl"']
    assert any("/usr/bin/ctl" in line for line in found["example"])


def test_an_edit_that_finds_nothing_is_an_error(tmp_path: Path, make_deb: MakeDeb) -> None:
    made = recipe(make_deb(conf=0o644), edit=(Edit("/conf", "absent", "present"),))
    with pytest.raises(HarnessError, match="has nothing that matches 'absent'"):
        stage.stage(made, tmp_path / "tree", {})


def test_no_file_is_newer_than_the_epoch(tmp_path: Path, make_deb: MakeDeb) -> None:
    tree = stage.stage(recipe(make_deb(conf=0o644)), tmp_path / "tree", {"/new": b""})
    (tree / "/new").touch()
    stage.clamp_times(tree)
    assert all((tree / path).stat().st_mtime <= SOURCE_DATE_EPOCH for path in tree.paths())
