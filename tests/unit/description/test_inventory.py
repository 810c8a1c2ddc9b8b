from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.description import inventory
from scripts.mkosi.sandbox import Tools
from scripts.system.errors import HarnessError
from scripts.system.process import Arg

NO_TOOLS = Tools(Path("/nowhere"), Path("/nowhere/sandbox.py"))

STATUS = """\
Package: zlib1g
Status: install ok installed
Architecture: amd64
Source: zlib (1:1.3)
Version: 1:1.3.1-1+b1
Installed-Size: 3
Homepage: http://zlib.net/
Description: compression library
 with more lines

Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: somebody
License: GPL-2+ or Expat

Files: contrib/*
Copyright: somebody else
License: Kazlib
 Its whole text
 .
 in lines.

License: BSD-3-clause
 A text that no file refers to.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    for name, text in {"zlib1g": COPYRIGHT, "bash": "This is free software.\n\nIndeed.\n"}.items():
        (tmp_path / "usr/share/doc" / name).mkdir(parents=True)
        (tmp_path / "usr/share/doc" / name / "copyright").write_text(text)
    return tmp_path


def test_what_dpkg_has_installed_is_listed_by_name(tree: Path) -> None:
    bash, zlib = inventory.of_tree(tree, NO_TOOLS)

    assert (bash.name, bash.version, bash.source, bash.size) == ("bash", "5.2", "bash", 0)
    assert (zlib.name, zlib.version, zlib.source) == ("zlib1g", "1:1.3.1-1+b1", "zlib")
    assert (zlib.kind, zlib.architecture, zlib.homepage, zlib.size) == (
        "deb",
        "amd64",
        "http://zlib.net/",
        3072,
    )


def test_licences_of_files_get_their_spdx_names_or_keep_debian_s(tree: Path) -> None:
    bash, zlib = inventory.of_tree(tree, NO_TOOLS)

    assert zlib.licences == ("GPL-2.0-or-later", "Kazlib", "MIT")
    assert bash.licences == ()


def test_a_tree_without_a_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no package database"):
        inventory.of_tree(tmp_path, NO_TOOLS)


def test_os_release_says_which_system_it_is(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text('ID="amzn"\nVERSION_ID="2023"\n')

    assert inventory.system(tmp_path).distro == "amzn-2023"


class Told(Tools):
    """A tools tree whose rpm tells what stands in the file at tree."""

    def command(
        self,
        argv: Sequence[Arg],
        *,
        read: Sequence[Path] = (),
        write: Sequence[Path] = (),
        network: bool = False,
    ) -> list[str]:
        assert argv[0] == "rpm"
        assert read
        assert not write
        assert not network
        return ["cat", str(self.tree)]


def test_what_rpm_has_installed_is_listed_without_its_keys(tmp_path: Path) -> None:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    rows = [
        ["gpg-pubkey", "(none)", "a", "b", "(none)", "pubkey", "(none)", "(none)", "0"],
        ["shadow-utils", "2", "4.9", "12", "x86_64", "BSD", "s.src.rpm", "http://a.b/", "10"],
        ["bash", "(none)", "5.2", "1", "x86_64", "GPLv3+", "bash-5.2-1.src.rpm", "(none)", "7"],
    ]
    (tmp_path / "told").write_text("".join("\t".join(row) + "\n" for row in rows))
    bash, shadow = inventory.of_tree(tmp_path, Told(tmp_path / "told", tmp_path))

    assert (bash.kind, bash.name, bash.version) == ("rpm", "bash", "5.2-1")
    assert (bash.licences, bash.homepage, bash.size) == (("GPLv3+",), "", 7)
    assert (shadow.version, shadow.source) == ("2:4.9-12", "s.src.rpm")


@pytest.mark.parametrize("line", ["bash", "a\tb\tc\td\te\tf\tg\th\t1\tone too many"])
def test_an_answer_of_rpm_that_is_not_a_package_is_shown(tmp_path: Path, line: str) -> None:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    (tmp_path / "told").write_text(f"{line}\n")
    with pytest.raises(HarnessError, match="cannot be read: rpm answered"):
        inventory.of_tree(tmp_path, Told(tmp_path / "told", tmp_path))


def test_a_tree_with_an_empty_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "var/lib/rpm").mkdir(parents=True)
    (tmp_path / "told").write_text("")
    with pytest.raises(HarnessError, match="no packages are installed in"):
        inventory.of_tree(tmp_path, Told(tmp_path / "told", tmp_path))
