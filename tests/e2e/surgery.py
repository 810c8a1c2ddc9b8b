"""Breaks a copy of a disk image in one place, without mounting it.

Given an offset, mtools and e2fsprogs can work on a part of a file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import Arch
from scripts.formats import disk
from scripts.formats.disk import ESP_TYPE, Partition
from scripts.mkosi.sandbox import Tools
from scripts.system import process

BLOCK = 1 << 20


@dataclass(frozen=True)
class Patient:
    """A disk image that tests may change."""

    image: Path
    arch: Arch
    tools: Tools

    @property
    def esp(self) -> Partition:
        return self._partition(ESP_TYPE)

    @property
    def root(self) -> Partition:
        return self._partition(self.arch.root_type)

    def delete_from_esp(self, path: str) -> None:
        """Delete a file from the ESP."""
        self._run("mdel", "-i", f"{self.image}@@{self.esp.offset}", f"::/{path}")

    def zero_root(self) -> None:
        """Overwrite the root partition with zeros, but keep its entry in the GPT."""
        with self.image.open("r+b") as file:
            file.seek(self.root.offset)
            for _ in range(self.root.size // BLOCK):
                file.write(bytes(BLOCK))
            file.write(bytes(self.root.size % BLOCK))

    def edit_root(self, *requests: str) -> None:
        """Carry out debugfs requests on the root file system."""
        for request in requests:
            self._run("debugfs", "-w", "-R", request, self._root_file_system)

    def list_root(self, folder: str) -> list[str]:
        """Return the names in a folder of the root file system."""
        listing = self._run("debugfs", "-R", f"ls -p {folder}", self._root_file_system)
        lines = (line.split("/") for line in listing.splitlines() if line.startswith("/"))
        return [fields[5] for fields in lines if fields[5] not in (".", "..")]

    def attributes(self, path: str) -> str:
        """Return a file's extended attributes in the root file system, as debugfs shows them."""
        return self._run("debugfs", "-R", f"ea_list {path}", self._root_file_system)

    def write(self, path: str, text: str, *, append: bool = False) -> None:
        """Write a file of the root file system, or append to it. It belongs to root, mode 0644."""
        name, folder = Path(path).name, str(Path(path).parent)
        if name in self.list_root(folder):
            old = self._run("debugfs", "-R", f"cat {path}", self._root_file_system)
            text = old + text if append else text
            self.edit_root(f"rm {path}")
        source = self.image.with_name("written")
        source.write_text(text)
        source.chmod(0o644)
        self.edit_root(f"write {source} {path}")

    def add_unit(self, name: str, target: str, text: str) -> None:
        """Add a unit that systemd starts for target."""
        self.write(f"/usr/lib/systemd/system/{name}", text)
        wants = f"/etc/systemd/system/{target}.wants"
        if Path(wants).name not in self.list_root("/etc/systemd/system"):
            self.edit_root(f"mkdir {wants}")
        self.edit_root(f"symlink {wants}/{name} /usr/lib/systemd/system/{name}")

    def fill_root(self) -> None:
        """Fill the root file system to its last block with one file."""
        empty = self.image.with_name("empty")
        empty.touch()
        self.edit_root(f"write {empty} /filler")
        end = 0
        while free := self._free_blocks():
            # The file's extents may need blocks, too: then there is no room for all of it.
            for size in (free, free // 2, 1):
                self.edit_root(f"fallocate /filler {end} {end + size - 1}")
                if self._free_blocks() < free:
                    break
            end += size

    def _free_blocks(self) -> int:
        stats = self._run("debugfs", "-R", "stats -h", self._root_file_system)
        found = re.search(r"^Free blocks: +(\d+)$", stats, re.MULTILINE)
        assert found
        return int(found[1])

    def add_feature(self, feature: str) -> None:
        """Set a feature of the root file system, which is ext4."""
        self._run("tune2fs", "-O", feature, self._root_file_system)

    def write_root(self, file_system: Path) -> None:
        """Replace the root file system with another one."""
        with self.image.open("r+b") as file, file_system.open("rb") as source:
            file.seek(self.root.offset)
            shutil.copyfileobj(source, file, BLOCK)

    @property
    def _root_file_system(self) -> str:
        return f"{self.image}?offset={self.root.offset}"

    def _partition(self, type_: str) -> Partition:
        partition = disk.of_type(disk.partitions(self.image), type_)
        assert partition
        return partition

    def _run(self, *argv: process.Arg) -> str:
        done = process.run(self.tools.command(argv, write=[self.image.parent]))
        assert "File not found" not in done.stderr, done.stderr
        return done.stdout


def copy(source: Path, target: Path, arch: Arch, tools: Tools) -> Patient:
    """Copy an image so that a test may break it."""
    subprocess.run(
        ["cp", "--sparse=always", "--reflink=auto", source, target],
        check=True,
    )
    return Patient(target, arch, tools)
