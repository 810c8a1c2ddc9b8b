"""Run programs of the tools tree in mkosi's sandbox, whatever the host has installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.system.process import Arg


@dataclass(frozen=True)
class Tools:
    """A tools tree, and mkosi's stand-alone sandbox.py to run its programs with.

    The sandbox needs no privileges and leaves no mount behind. It replaces itself with the program,
    so that signals and the exit status are the program's own.
    """

    tree: Path
    sandbox: Path

    def has(self, path: str) -> bool:
        """Return whether the tree has path, which is relative to its root."""
        return (self.tree / path.lstrip("/")).exists()

    def command(
        self,
        argv: Sequence[Arg],
        *,
        read: Sequence[Path] = (),
        write: Sequence[Path] = (),
    ) -> list[str]:
        """Return the command that runs argv with the tree's /usr and /etc.

        read and write are the files and folders of the host that the program may read or write,
        each under its own path. Apart from /dev and /proc, it sees nothing else of the host.
        """
        tree = self.tree
        options: list[Arg] = [
            # ssh refuses to run as a user who is missing in the tree's passwd.
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
    """Return options that mount a device on a file; the sandbox itself would make a folder."""
    return ["--write", "", path, "--bind", path, path] if path.exists() else []


def _usr_links(tree: Path) -> list[str]:
    return [
        name for name in ("bin", "sbin", "lib", "lib32", "lib64") if (tree / "usr" / name).is_dir()
    ]
