"""A tools tree of stand-ins for QEMU, mtools and SSH: programs that play a scripted guest.

They are started as the real ones are. What QEMU plays under each accelerator is a list: one play
for each start, the last one again and again. "ssh", "login", "keyscan", "mcopy", "mdir" and
"debugfs" may have such a list too; without one, they do what they should.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.boot.firmware import FIRMWARE
from scripts.mkosi.sandbox import Tools
from scripts.system.process import Arg

PROGRAM = Path(__file__).with_name("fake_program.py")

NAMES = (
    "qemu-system-x86_64",
    "qemu-system-aarch64",
    "qemu-img",
    "ssh",
    "ssh-keygen",
    "ssh-keyscan",
    "mcopy",
    "mdir",
    "debugfs",
)


@dataclass(frozen=True)
class FakeTools(Tools):
    """A tools tree of the programs above, started without a sandbox."""

    @property
    def bin(self) -> Path:
        return self.tree / "usr/bin"

    @property
    def qemu_runs(self) -> bool:
        """Whether a QEMU was started, and the last one is still there."""
        if not (self.bin / "qemu.pid").exists():
            return False
        status = Path("/proc") / (self.bin / "qemu.pid").read_text() / "status"
        return status.exists() and "zombie" not in status.read_text()

    def command(
        self,
        argv: Sequence[Arg],
        *,
        read: Sequence[Path] = (),
        write: Sequence[Path] = (),
        network: bool = False,
    ) -> list[str]:
        del read, write, network
        program, *rest = (os.fspath(arg) for arg in argv)
        return [str(self.bin / program), *rest]


def make_tools(tree: Path, uki: Path, **plays: Sequence[str]) -> FakeTools:
    """Fake tools at tree, which perform plays, and whose mcopy finds uki on the ESP."""
    tools = FakeTools(tree, Path("/nowhere"))
    tools.bin.mkdir(parents=True)
    for name in NAMES:
        program = tools.bin / name
        program.write_text(f"#!{sys.executable} -I\n{PROGRAM.read_text()}")
        program.chmod(0o755)
    for firmware, *_ in FIRMWARE.values():
        for path in (firmware.code, firmware.variables):
            file = tree / path.relative_to("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    shutil.copy(uki, tools.bin / "uki.efi")
    (tools.bin / "plays.json").write_text(json.dumps(plays))
    return tools
