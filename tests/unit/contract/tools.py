"""A tools tree that is none: the programs of this machine, without a sandbox."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.mkosi.sandbox import Tools
from scripts.system.process import Arg


@dataclass(frozen=True)
class HostTools(Tools):
    """Tools of this machine; those in the folder tree come first."""

    def command(
        self,
        argv: Sequence[Arg],
        *,
        read: Sequence[Path] = (),
        write: Sequence[Path] = (),
        network: bool = False,
    ) -> list[str]:
        del read, write, network
        path = f"PATH={self.tree}:/usr/sbin:/sbin:{os.environ['PATH']}"
        return ["env", path, *(os.fspath(arg) for arg in argv)]
