"""Run programs of the tools tree in mkosi's sandbox, whatever the host has installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.mkosi import confinement
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
        network: bool = False,
    ) -> list[str]:
        """Return the command that runs argv with the tree's /usr and /etc.

        read and write are the files and folders of the host that the program may read or write,
        each under its own path. It sees nothing else of the host, no other process, of the
        environment only the search path, and no network unless network is true.
        """
        tree = self.tree
        files: list[Arg] = [
            # ssh refuses to run as a user who is missing in the tree's passwd.
            "--become-root",
            "--ro-bind", tree / "usr", "/usr",
            "--ro-bind", tree / "etc", "/etc",
            *(arg for name in _usr_links(tree) for arg in ("--symlink", f"usr/{name}", f"/{name}")),
            *_device(Path("/dev/kvm")),
            "--tmpfs", "/var/tmp",
            "--setenv", "PATH", "/usr/bin:/usr/sbin",
            "--setenv", "LC_ALL", "C.UTF-8",
            "--setenv", "HOME", confinement.HOME,
            *confinement.bind("--ro-bind", read),
            *confinement.bind("--bind", write),
        ]  # fmt: skip
        flags = ["--bare", *([] if network else ["--no-network"])]
        return confinement.enter(self.sandbox, files, argv, flags)


def _device(path: Path) -> list[Arg]:
    """Return options that mount a device on a file; the sandbox itself would make a folder."""
    return ["--write", "", path, "--bind", path, path] if path.exists() else []


def _usr_links(tree: Path) -> list[str]:
    return [
        name for name in ("bin", "sbin", "lib", "lib32", "lib64") if (tree / "usr" / name).is_dir()
    ]
