"""The entries of binfmt_misc, by which Linux hands foreign programs to an emulator.

Documentation/admin-guide/binfmt-misc.rst in the sources of Linux describes them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from scripts.emulation.emulators import Emulated

MOUNT = Path("/proc/sys/fs/binfmt_misc")

# How the names of our entries begin: those that last, and those that the last build removes.
LASTING = "finch-"
OF_BUILDS = "finch-build-"


@dataclass(frozen=True)
class Entry:
    """An entry: a program whose first bytes equal magic, in the bits of mask, goes to interpreter.

    flags are the letters of binfmt_misc. is_enabled is false if an administrator switched the
    entry off.
    """

    name: str
    interpreter: str
    flags: str
    magic: bytes
    mask: bytes
    is_enabled: bool = True

    @classmethod
    def parse(cls, name: str, text: str) -> Entry | None:
        """Return the entry that the file name of binfmt_misc describes with text.

        Return None for an entry that matches file names or bytes other than the first, and for text
        that the kernel would not write.
        """
        with contextlib.suppress(ValueError, KeyError):
            return cls._parse(name, text)
        return None

    @classmethod
    def _parse(cls, name: str, text: str) -> Entry | None:
        lines = text.splitlines()
        fields = dict(line.split(" ", 1) for line in lines if " " in line)
        if "magic" not in fields or fields.get("offset", "0") != "0":
            return None
        flags = next((line for line in lines if line.startswith("flags:")), "")
        magic = bytes.fromhex(fields["magic"])
        mask = bytes.fromhex(fields["mask"]) if "mask" in fields else b"\xff" * len(magic)
        flags = flags.removeprefix("flags:").strip()
        return cls(name, fields["interpreter"], flags, magic, mask, lines[0] == "enabled")

    def takes(self, emulated: Emulated) -> bool:
        """Whether this entry is enabled and recognizes the programs of emulated."""
        return self.is_enabled and all(
            have & mask == want & mask
            for have, want, mask in zip(emulated.magic, self.magic, self.mask, strict=False)
        )

    @property
    def removal(self) -> str:
        """The command with which an administrator removes this entry."""
        return removal(MOUNT / self.name)

    @property
    def is_of_builds(self) -> bool:
        """Whether the last build that uses this entry removes it."""
        return self.name.startswith(OF_BUILDS)

    @property
    def is_ours(self) -> bool:
        """Whether this harness registered the entry."""
        return self.name.startswith(LASTING)


def removal(path: Path) -> str:
    """Return the command with which an administrator removes the entry at path."""
    return f"sudo sh -c 'echo -1 > {path}'"


def registered(folder: Path = MOUNT) -> list[Entry]:
    """Return all entries in folder, the newest first; none if binfmt_misc is not mounted.

    The kernel lists them in that order (dcache_readdir() in fs/libfs.c). The times of their files
    say nothing: `echo 1 >` changes them.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in ("register", "status"):
            continue
        with contextlib.suppress(OSError):  # another process has just removed it
            found.append(Entry.parse(path.name, path.read_text(errors="replace")))
    return [entry for entry in found if entry]


def find(emulated: Emulated, folder: Path = MOUNT) -> Entry | None:
    """Return the entry that takes the programs of emulated, or None.

    Of several it is the newest, as in the kernel (list_add() in fs/binfmt_misc.c).
    """
    return next((entry for entry in registered(folder) if entry.takes(emulated)), None)


def find_lasting(emulated: Emulated, folder: Path = MOUNT) -> Entry | None:
    """Return the entry that takes the programs of emulated when no build runs, or None."""
    found = registered(folder)
    return next((one for one in found if not one.is_of_builds and one.takes(emulated)), None)
