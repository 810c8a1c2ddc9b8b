from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.arch import native
from scripts.emulation import standins
from scripts.system.errors import HarnessError

TRIPLET = f"{native()}-linux-gnu"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A tools tree, as far as stand-ins need one, with echo for a loader."""
    root = tmp_path / "tools"
    libraries = root / "usr/lib" / TRIPLET
    (libraries / "perl-base").mkdir(parents=True)
    (libraries / "perl-base/strict.pm").write_text("1;")
    for name in standins.PERL[1:]:
        (libraries / name).write_text(name)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/perl").write_text("perl")
    (root / "usr/lib/ld-linux-native.so.1").write_text("loader")
    return root


@pytest.mark.parametrize("name", standins.DO_NOTHING)
def test_what_is_done_natively_later_does_nothing_and_well(
    tmp_path: Path, tools: Path, name: str
) -> None:
    standins.write_tree(tmp_path / "tree", tools)

    ran = subprocess.run(
        [tmp_path / "tree" / standins.FOLDER / name, "--all"], capture_output=True, check=True
    )

    assert ran.stdout == b""


def test_what_is_in_perl_runs_with_the_perl_and_libraries_of_the_tools_tree(
    tmp_path: Path, tools: Path
) -> None:
    standins.write_tree(tmp_path / "tree", tools)

    folder = tmp_path / "tree" / standins.FOLDER
    first = (folder / "deb-systemd-helper").read_text().splitlines()[0]
    assert first == f"#!/{standins.FOLDER}/ld.so /{standins.FOLDER}/perl"
    assert (folder / "ld.so").read_text() == "loader"
    assert (tmp_path / "tree/usr/lib" / TRIPLET / "perl-base/strict.pm").exists()


def test_a_tools_tree_without_a_loader_is_named_with_what_to_do(
    tmp_path: Path, tools: Path
) -> None:
    (tools / "usr/lib/ld-linux-native.so.1").unlink()

    with pytest.raises(HarnessError, match="has no loader") as caught:
        standins.write_tree(tmp_path / "tree", tools)

    assert caught.value.hint.startswith(f"rm -r '{tmp_path}'")


def test_an_up_to_date_build_stays_so_because_stand_ins_have_the_digest_they_had() -> None:
    """It is among the inputs of stage keys: a change rebuilds every image of the other kind."""
    digest = "e049f6572ff8b4ca892e19468c06b75cc2bf1829bc22ad0ecfb55ca8515cdfc7"
    assert digest == standins.DIGEST


def test_the_launcher_runs_the_program_of_its_own_name(tmp_path: Path) -> None:
    """The paths below /usr are put into a folder of the test's, all else is as in an image."""
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/deb-systemd-helper").write_text('print "$0: @ARGV\\n"; exit 3;')
    launcher = tmp_path / "deb-systemd-helper"
    launcher.write_text(standins.LAUNCHER.replace("/usr/sbin", f"{tmp_path}/sbin"))

    ran = subprocess.run(
        ["perl", launcher, "enable", "a.service"], capture_output=True, text=True, check=False
    )

    assert ran.stdout == f"{tmp_path}/sbin/deb-systemd-helper: enable a.service\n"
    assert ran.returncode == 3
