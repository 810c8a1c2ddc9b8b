from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.arch import AARCH64, X86_64, Arch
from scripts.distributions import debian
from scripts.distributions.debian import Archive
from scripts.emulation import elf, emulators
from scripts.emulation.emulators import RECORD, TABLE, Bake, EmulationTable, Emulators
from scripts.options import BAKE, DEBIAN
from scripts.system.digests import file_digest, text_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import CommandError
from scripts.system.progress import Progress
from scripts.system.url import Url


@pytest.fixture
def table(checkout: Path) -> EmulationTable:
    return EmulationTable.read(checkout / TABLE)


@pytest.fixture
def downloaded(table: EmulationTable, tmp_path: Path) -> Emulators:
    """Emulators that are there, as far as their digests tell."""
    folder = tmp_path / "emulators"
    folder.mkdir()
    programs = [one.program for one in table.emulated.values()]
    for name in programs:
        (folder / name).write_text(name)
    return Emulators(folder, table, "a.deb", {name: text_digest(name) for name in programs})


@pytest.mark.parametrize(
    ("arch", "carried"), [(X86_64, {"aarch64", "arm"}), (AARCH64, {"x86_64", "i386", "arm"})]
)
def test_an_image_carries_what_its_kernel_does_not_run(
    table: EmulationTable, arch: Arch, carried: set[str]
) -> None:
    assert {one.name for one in table.foreign_to(arch)} == carried


def test_the_tree_holds_emulators_that_run_and_a_line_for_each(
    downloaded: Emulators, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    emulators.write_tree(downloaded, X86_64, tree)

    program = tree / "usr/bin/qemu-aarch64-static"
    assert program.read_text() == "qemu-aarch64"
    assert program.stat().st_mode & 0o777 == 0o755
    line = (tree / "usr/lib/binfmt.d/qemu-aarch64-static.conf").read_text()
    assert line.startswith(r":qemu-aarch64:M::\x7f\x45\x4c\x46\x02")
    assert line.endswith(":/usr/bin/qemu-aarch64-static:PCF\n")


def test_nothing_stays_of_an_earlier_tree(downloaded: Emulators, tmp_path: Path) -> None:
    emulators.write_tree(downloaded, AARCH64, tmp_path / "tree")
    emulators.write_tree(downloaded, X86_64, tmp_path / "tree")

    assert not list(tmp_path.rglob("tree/usr/bin/qemu-i386-static"))


def test_a_path_with_colons_is_registered_all_the_same(table: EmulationTable) -> None:
    line = table.emulated["aarch64"].registration("name", "/a:b/qemu", "F")

    assert line.startswith("|name|M||")
    assert line.endswith("|/a:b/qemu|F")


def test_what_has_been_downloaded_is_found_and_nothing_else_is_done(
    checkout: Path, tmp_path: Path, table: EmulationTable
) -> None:
    assert emulators.find(checkout, tmp_path, X86_64, DEBIAN) is None
    folder = emulators.folder_of(tmp_path, table, X86_64, DEBIAN)
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(json.dumps({"package": "q_1_amd64.deb", "digests": {"q": "0"}}))
    found = emulators.find(checkout, tmp_path, X86_64, DEBIAN)
    assert found is not None
    assert (found.package, found.digests) == ("q_1_amd64.deb", {"q": "0"})
    assert emulators.find(checkout, tmp_path, AARCH64, DEBIAN) is None
    assert emulators.find(checkout, tmp_path, X86_64, BAKE) is None


def test_a_corrupt_emulator_goes_into_no_image(downloaded: Emulators, tmp_path: Path) -> None:
    (downloaded.folder / "qemu-arm").write_text("another")

    with pytest.raises(HarnessError, match="is not the one that was downloaded") as caught:
        emulators.write_tree(downloaded, X86_64, tmp_path / "tree")

    assert str(downloaded.folder) in caught.value.hint


def test_what_has_been_downloaded_is_used_again_without_a_network(
    checkout: Path, table: EmulationTable, tmp_path: Path
) -> None:
    folder = emulators.folder_of(tmp_path, table, AARCH64, DEBIAN)
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(json.dumps({"package": "a.deb", "digests": {"qemu-arm": "1"}}))

    found = emulators.download(checkout, tmp_path, AARCH64, Progress(), offline=True)

    assert found.digests == {"qemu-arm": "1"}


def test_offline_says_that_they_have_not_been_downloaded(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="have not been downloaded yet"):
        emulators.download(checkout, tmp_path, AARCH64, Progress(), offline=True)


@pytest.mark.parametrize("text", ["", "flags = 1", "flags = ["])
def test_a_broken_table_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(text)

    with pytest.raises(UsageError, match="is not a table of emulators"):
        EmulationTable.read(path)


def package(folder: Path, *programs: str, arch: Arch = AARCH64) -> Path:
    """A Debian package with programs of these names, for arch, that print them."""
    tree = folder / "package"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: qemu-user\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: none\n"
    )
    (tree / "usr/bin").mkdir(parents=True)
    for name in programs:
        (tree / "usr/bin" / name).write_bytes(elf.says(arch, name))
    subprocess.run(["dpkg-deb", "--build", tree, folder / "qemu.deb"], check=True)
    return folder / "qemu.deb"


def answer(monkeypatch: pytest.MonkeyPatch, reply: Callable[[], Path]) -> None:
    """Have the Debian archive, which apt would ask, answer so."""
    monkeypatch.setattr(debian, "find", lambda _: Archive(Url("http://nowhere.test/")))
    monkeypatch.setattr(debian, "download", lambda *_, **__: reply())


def test_what_is_downloaded_is_recorded_with_its_digests(
    checkout: Path, table: EmulationTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = [one.program for one in table.emulated.values()]
    deb = package(tmp_path, "qemu-riscv64", *programs)
    answer(monkeypatch, lambda: deb)

    found = emulators.download(checkout, tmp_path / "work", AARCH64, Progress(live=False))

    assert found.package == "qemu.deb"
    assert found.source == DEBIAN
    assert found.digests == {name: file_digest(found.folder / name) for name in programs}
    assert [found.program(one).name for one in table.emulated.values()] == programs
    assert not (found.folder / "qemu-riscv64").exists()
    again = emulators.download(checkout, tmp_path / "work", AARCH64, Progress(), offline=True)
    assert again == found


def test_a_package_for_another_architecture_is_refused_and_nothing_kept(
    checkout: Path, table: EmulationTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deb = package(tmp_path, *(one.program for one in table.emulated.values()), arch=X86_64)
    answer(monkeypatch, lambda: deb)

    with pytest.raises(HarnessError, match=r"/usr/bin/qemu-aarch64 of qemu\.deb cannot be an emu"):
        emulators.download(checkout, tmp_path / "work", AARCH64, Progress(live=False))

    assert list((tmp_path / "work/emulators").iterdir()) == []


def test_a_package_without_an_emulator_is_named_and_nothing_kept(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deb = package(tmp_path, "qemu-aarch64")
    answer(monkeypatch, lambda: deb)

    with pytest.raises(HarnessError, match=r"qemu\.deb does not contain /usr/bin/qemu-x86_64"):
        emulators.download(checkout, tmp_path / "work", AARCH64, Progress(live=False))

    assert list((tmp_path / "work/emulators").iterdir()) == []


@pytest.mark.parametrize(
    ("output", "cause"), [("one\nE: no such package\n\n", "E: no such package"), ("", "status 100")]
)
def test_an_archive_that_does_not_answer_is_told_by_the_last_line_or_the_status(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, cause: str
) -> None:
    def fail() -> Path:
        raise CommandError(["apt-get"], 100, output)

    answer(monkeypatch, fail)

    with pytest.raises(HarnessError, match=f"for aarch64 cannot be downloaded: .*{cause}$"):
        emulators.download(checkout, tmp_path, AARCH64, Progress(live=False))


def edited(checkout: Path, folder: Path, old: str, new: str) -> EmulationTable:
    """The table of the checkout with old replaced by new."""
    text = (checkout / TABLE).read_text()
    assert old in text
    path = folder / "targets.toml"
    path.write_text(text.replace(old, new))
    return EmulationTable.read(path)


@pytest.mark.parametrize("commit", ["main", "e29e7d7", ""])
def test_a_branch_or_an_abbreviation_pins_no_commit(
    checkout: Path, table: EmulationTable, tmp_path: Path, commit: str
) -> None:
    with pytest.raises(UsageError, match="is not the digest of a commit"):
        edited(checkout, tmp_path, table.bake.commit, commit)


def test_emulators_are_obtained_again_only_where_their_own_pin_changes(
    checkout: Path, table: EmulationTable, tmp_path: Path
) -> None:
    baked = edited(checkout, tmp_path, table.bake.commit, "0" * 40)
    assert baked.key(BAKE) != table.key(BAKE)
    assert baked.key(DEBIAN) == table.key(DEBIAN)
    packaged = edited(checkout, tmp_path, '["trixie"]', '["sid"]')
    assert packaged.key(BAKE) == table.key(BAKE)
    assert packaged.key(DEBIAN) != table.key(DEBIAN)
    assert edited(checkout, tmp_path, "\n# ", "\n# more ").key(BAKE) == table.key(BAKE)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"PCF"', '"PF"'), ('native = ["aarch64"]', "native = []"), ("ffb700", "ffb701")],
)
def test_how_an_emulator_is_registered_is_in_the_digest_of_what_images_get(
    checkout: Path, table: EmulationTable, downloaded: Emulators, tmp_path: Path, old: str, new: str
) -> None:
    old, new = (text.replace("ffb7", "0200b7") for text in (old, new))
    other = replace(downloaded, table=edited(checkout, tmp_path, old, new))
    assert other.digest != downloaded.digest
    pinned = edited(checkout, tmp_path, table.bake.commit, "0" * 40)
    assert replace(downloaded, table=pinned).digest == downloaded.digest


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://github.com/a/b.git", f"pkg:github/a/b@{'0' * 40}"),
        ("git://host/b", f"pkg:generic/b@{'0' * 40}?vcs_url=git%2Bgit://host/b%40{'0' * 40}"),
    ],
)
def test_what_is_baked_has_a_package_url(address: str, url: str) -> None:
    assert Bake(address, "0" * 40, "desktop", "MIT").package_url == url


def test_a_link_to_a_file_of_this_machine_is_not_kept(
    table: EmulationTable, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.write_bytes(elf.says(X86_64, "own"))
    tree = tmp_path / "tree"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/qemu-arm").symlink_to(own)

    with pytest.raises(HarnessError, match="does not contain /usr/bin/qemu-arm"):
        emulators.keep([table.emulated["arm"]], X86_64, tree, "baked", tmp_path / "kept")

    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("folder", ["usr", "usr/bin"])
def test_a_link_in_the_place_of_a_folder_leads_to_nothing_that_is_kept(
    table: EmulationTable, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "own/usr/bin").mkdir(parents=True)
    (tmp_path / "own/usr/bin/qemu-arm").write_bytes(elf.says(X86_64, "own"))
    tree = tmp_path / "tree"
    (tree / folder).parent.mkdir(parents=True)
    (tree / folder).symlink_to(tmp_path / "own" / folder)

    with pytest.raises(HarnessError, match="does not contain /usr/bin/qemu-arm"):
        emulators.keep([table.emulated["arm"]], X86_64, tree, "baked", tmp_path / "kept")

    assert not (tmp_path / "kept").exists()


def test_a_giant_file_is_not_copied(table: EmulationTable, tmp_path: Path) -> None:
    path = tmp_path / "tree/usr/bin/qemu-arm"
    path.parent.mkdir(parents=True)
    path.write_bytes(elf.says(X86_64, "large"))
    os.truncate(path, emulators.LARGEST + 1)

    with pytest.raises(HarnessError, match=r"cannot be an emulator .* larger than 512 MiB"):
        emulators.keep(
            [table.emulated["arm"]], X86_64, tmp_path / "tree", "baked", tmp_path / "kept"
        )
    assert not any((tmp_path / "made").iterdir())
