"""Reading ext4 without mounting it: file systems that mke2fs makes, and broken ones."""

from __future__ import annotations

import os
import random
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.formats.disk import DiskError, Partition
from scripts.formats.ext4 import Entry, Ext4, entries

MIB = 1 << 20
SIZE = 32 * MIB
OFFSET = MIB
PART = Partition(2, "", "", "root", OFFSET, SIZE)

Make = Callable[..., Path]

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, capture_output=True, env={**os.environ, "PATH": PATH})


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes an image with an ext4 file system of tree, in a partition that does not begin at 0."""

    def make(tree: Path, *options: str, requests: tuple[str, ...] = ()) -> Path:
        image = tmp_path / "image"
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(OFFSET + SIZE)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^orphan_file", *options, "-d", tree,
            "-E", f"offset={OFFSET}", image, str(SIZE // 1024) + "k")  # fmt: skip
        for request in requests:
            run("debugfs", "-w", "-R", request, f"{image}?offset={OFFSET}")
        return image

    return make


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with files, links, and 400 names, more than one block of a folder holds."""
    tree = tmp_path / "tree"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "many").mkdir()
    for number in range(400):
        (tree / f"many/a file with a name of some length {number:03}").touch()
    (tree / "usr/bin/sudo").write_bytes(b"program" * 100_000)
    (tree / "usr/bin/sudo").chmod(0o4755)
    (tree / "tmp").mkdir()
    (tree / "tmp").chmod(0o1777)
    (tree / "short").symlink_to("usr/bin/sudo")
    (tree / "long").symlink_to("/usr" * 40)
    (tree / "names ä").mkdir()
    return tree


def by_path(image: Path) -> dict[str, Entry]:
    return {one.path: one for one in entries(image, PART)}


@pytest.mark.parametrize("options", [(), ("-b", "1024"), ("-I", "128"), ("-O", "^64bit")])
def test_every_entry_is_found_with_its_mode_and_its_target(
    make: Make, tree: Path, options: tuple[str, ...]
) -> None:
    found = by_path(make(tree, *options))
    for path in tree.rglob("*"):
        one = found[f"/{path.relative_to(tree)}"]
        assert one.mode == path.lstat().st_mode
        assert one.target == (str(path.readlink()) if path.is_symlink() else "")
    assert found.keys() - {f"/{path.relative_to(tree)}" for path in tree.rglob("*")} == {
        "/lost+found"
    }
    assert found["/usr/bin/sudo"].mode & stat.S_ISUID


def test_the_contents_of_a_file_are_read(make: Make, tree: Path) -> None:
    image = make(tree, "-b", "1024")
    with image.open("rb") as file:
        system = Ext4(file, PART)
        sudo = next(one for one in system.walk() if one.path == "/usr/bin/sudo")
        assert b"".join(system.chunks(sudo)) == (tree / "usr/bin/sudo").read_bytes()
        assert system.read(sudo, 9) == b"programpr"


def test_owners_beyond_16_bits_are_read(make: Make, tree: Path) -> None:
    image = make(tree, requests=(
        "set_inode_field /usr/bin/sudo uid 70000", "set_inode_field /usr/bin/sudo gid 80000",
    ))  # fmt: skip
    sudo = by_path(image)["/usr/bin/sudo"]
    assert (sudo.uid, sudo.gid) == (70000, 80000)


@pytest.mark.parametrize("inode_size", ["256", "128"])
def test_capabilities_are_read_from_the_inode_and_from_a_block_of_their_own(
    make: Make, tree: Path, tmp_path: Path, inode_size: str
) -> None:
    # struct vfs_cap_data of linux/capability.h, version 2: CAP_NET_RAW and CAP_BPF.
    (tmp_path / "value").write_bytes(struct.pack("<5I", 0x02000001, 1 << 13, 0, 1 << 7, 0))
    request = f"ea_set -f {tmp_path}/value /usr/bin/sudo security.capability"
    found = by_path(make(tree, "-I", inode_size, requests=(request,)))
    assert found["/usr/bin/sudo"].capabilities == 1 << 13 | 1 << 39
    assert found["/short"].capabilities == 0


def test_what_is_no_ext4_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(OFFSET + SIZE))
    with pytest.raises(DiskError, match="no ext4"):
        entries(tmp_path / "image", PART)


def test_a_file_system_that_was_not_unmounted_is_refused(make: Make, tree: Path) -> None:
    image = make(tree, requests=("feature needs_recovery",))
    with pytest.raises(DiskError, match="features that are unknown"):
        entries(image, PART)


def test_an_image_that_is_cut_off_is_refused(make: Make, tree: Path) -> None:
    image = make(tree)
    with image.open("r+b") as file:
        file.truncate(OFFSET + 8192)
    with pytest.raises(DiskError, match="cut off"):
        entries(image, PART)


def test_a_folder_that_contains_itself_ends_the_walk(make: Make, tree: Path) -> None:
    image = make(tree, requests=("link /usr /usr/bin/again",))
    with pytest.raises(DiskError, match="contains itself"):
        entries(image, PART)


def test_an_extent_tree_of_one_block_again_and_again_ends_the_read(make: Make, tree: Path) -> None:
    """Five levels of 340 nodes that are all the same block would be read for ever."""
    image = make(tree)
    sudo = by_path(image)["/usr/bin/sudo"]
    with image.open("rb") as file:
        system = Ext4(file, PART)
        inode = system._inode(sudo.inode)
        block = struct.unpack_from("<I", inode.block, 20)[0]
    where = OFFSET + block * 4096
    # The root has depth 5 and points to the block, whose 340 entries point to itself.
    node = struct.pack("<4HI", 0xF30A, 340, 340, 4, 0) + struct.pack("<3I", 0, block, 0) * 340
    start = _find(image, inode.raw)
    with image.open("r+b") as file:
        file.seek(where)
        file.write(node[:4096])
        file.seek(start + 0x28)
        file.write(struct.pack("<4HI", 0xF30A, 1, 4, 5, 0) + struct.pack("<3I", 0, block, 0))
    with image.open("rb") as file, pytest.raises(DiskError, match=r"again and again|damaged"):
        list(Ext4(file, PART).chunks(sudo))


def _find(image: Path, raw: bytes) -> int:
    return image.read_bytes().index(raw)


def test_a_damaged_file_system_is_read_or_refused_but_never_ends_otherwise(
    make: Make, tree: Path
) -> None:
    image = make(tree, "-b", "1024")
    whole = image.read_bytes()
    used = [at for at in range(OFFSET, len(whole), 1024) if any(whole[at : at + 1024])]
    refused = 0
    for seed in range(100):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(seed):
            data[chance.choice(used) + chance.randrange(1024)] = chance.randrange(256)
        image.write_bytes(data)
        try:
            _read_all(image)
        except DiskError:
            refused += 1
    assert 0 < refused < 100


def _read_all(image: Path) -> None:
    with image.open("rb") as file:
        system = Ext4(file, PART)
        for one in system.walk():
            if one.is_file:
                sum(map(len, system.chunks(one)))


def test_a_file_system_that_may_hide_capabilities_in_other_inodes_is_refused(
    make: Make, tree: Path
) -> None:
    image = make(tree, "-O", "ea_inode")
    with pytest.raises(DiskError, match="features that are unknown"):
        by_path(image)
