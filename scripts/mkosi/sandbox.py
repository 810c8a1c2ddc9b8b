"""Programs out of the tools tree: mkosi's sandbox puts them in front of the host's."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.system.process import Arg


@dataclass(frozen=True)
class Tools:
    """A tools tree, and mkosi's stand-alone sandbox.py to enter it with.

    The sandbox needs no privileges, replaces itself by the program (so signals
    and the exit status are the program's own) and leaves no mount behind.
    """

    tree: Path
    sandbox: Path

    def has(self, path: str) -> bool:
        """Whether path, relative to the root of the tree, is there."""
        return (self.tree / path.lstrip("/")).exists()

    def command(
        self,
        argv: Sequence[Arg],
        *,
        read: Sequence[Path] = (),
        write: Sequence[Path] = (),
    ) -> list[str]:
        """The command that runs argv with the tree's /usr and /etc.

        read and write are the host's files and folders that the program sees,
        each under its own path, everything else of the host but /dev and /proc
        being out of its sight.
        """
        tree = self.tree
        options: list[Arg] = [
            # ssh refuses to run as a user that the tree's passwd does not know.
            "--become-root",
            "--ro-bind", tree / "usr", "/usr",
            "--ro-bind", tree / "etc", "/etc",
            *(arg for name in _usr_links(tree) for arg in ("--symlink", f"usr/{name}", f"/{name}")),
            "--ro-bind", "/proc", "/proc",
            "--dev", "/dev",
            *_device(Path("/dev/kvm")),
            "--tmpfs", "/tmp",
            "--tmpfs", "/var/tmp",
            "--tmpfs", "/run",
        ]  # fmt: skip
        for flag, paths in (("--ro-bind", read), ("--bind", write)):
            for path in paths:
                options += [flag, path.absolute(), path.absolute()]
        environment = ["--setenv", "PATH", "/usr/bin:/usr/sbin", "--setenv", "LC_ALL", "C.UTF-8"]
        command = [sys.executable, "-I", self.sandbox, *options, *environment, "--", *argv]
        return [os.fspath(arg) for arg in command]


def _device(path: Path) -> list[Arg]:
    """Options that show a device, mounted on a file: the sandbox would make a folder of its own."""
    return ["--write", "", path, "--bind", path, path] if path.exists() else []


def _usr_links(tree: Path) -> list[str]:
    return [
        name for name in ("bin", "sbin", "lib", "lib32", "lib64") if (tree / "usr" / name).is_dir()
    ]
