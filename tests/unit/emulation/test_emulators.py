from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.arch import AARCH64, X86_64, Arch
from scripts.emulation import emulators
from scripts.emulation.emulators import RECORD, TABLE, Emulators, Table
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError, UsageError


@pytest.fixture
def table(checkout: Path) -> Table:
    return Table.read(checkout / TABLE)


@pytest.fixture
def fetched(table: Table, tmp_path: Path) -> Emulators:
    """Emulators that are there, as far as their digests tell."""
    folder = tmp_path / "emulators"
    folder.mkdir()
    programs = [target.program for target in table.targets.values()]
    for name in programs:
        (folder / name).write_text(name)
    return Emulators(folder, table, "a.deb", {name: text_digest(name) for name in programs})


@pytest.mark.parametrize(
    ("arch", "carried"), [(X86_64, {"aarch64", "arm"}), (AARCH64, {"x86_64", "i386", "arm"})]
)
def test_an_image_carries_what_its_kernel_does_not_run(
    table: Table, arch: Arch, carried: set[str]
) -> None:
    assert {target.name for target in table.foreign_to(arch)} == carried


def test_the_tree_holds_emulators_that_run_and_a_line_for_each(
    fetched: Emulators, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    emulators.write_tree(fetched, X86_64, tree)

    program = tree / "usr/bin/qemu-aarch64-static"
    assert program.read_text() == "qemu-aarch64"
    assert program.stat().st_mode & 0o777 == 0o755
    line = (tree / "usr/lib/binfmt.d/qemu-aarch64-static.conf").read_text()
    assert line.startswith(r":qemu-aarch64:M::\x7f\x45\x4c\x46\x02")
    assert line.endswith(":/usr/bin/qemu-aarch64-static:PCF\n")


def test_nothing_stays_of_an_earlier_tree(fetched: Emulators, tmp_path: Path) -> None:
    emulators.write_tree(fetched, AARCH64, tmp_path / "tree")
    emulators.write_tree(fetched, X86_64, tmp_path / "tree")

    assert not list(tmp_path.rglob("tree/usr/bin/qemu-i386-static"))


def test_a_path_with_colons_is_registered_all_the_same(table: Table) -> None:
    line = table.targets["aarch64"].entry("name", "/a:b/qemu", "F")

    assert line.startswith("|name|M||")
    assert line.endswith("|/a:b/qemu|F")


def test_a_corrupt_emulator_goes_into_no_image(fetched: Emulators, tmp_path: Path) -> None:
    (fetched.folder / "qemu-arm").write_text("another")

    with pytest.raises(HarnessError, match="is not what was fetched") as caught:
        emulators.write_tree(fetched, X86_64, tmp_path / "tree")

    assert str(fetched.folder) in caught.value.hint


def test_what_has_been_fetched_is_used_again_without_a_network(
    checkout: Path, table: Table, tmp_path: Path
) -> None:
    folder = tmp_path / "emulators" / f"arm64-{table.digest[:16]}"
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(json.dumps({"package": "a.deb", "digests": {"qemu-arm": "1"}}))

    found = emulators.obtain(checkout, tmp_path, AARCH64, offline=True)

    assert found.digests == {"qemu-arm": "1"}


def test_offline_says_that_they_have_not_been_fetched(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="have not been fetched yet"):
        emulators.obtain(checkout, tmp_path, AARCH64, offline=True)


@pytest.mark.parametrize("text", ["", "flags = 1", "flags = ["])
def test_a_broken_table_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(text)

    with pytest.raises(UsageError, match="is no table of emulators"):
        Table.read(path)
