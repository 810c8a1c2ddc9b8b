"""Runs programs that handle foreign data isolated from this machine.

Scripts of packages run as root. Here, that is root of a user namespace, which sees only its own
processes and only the named files of the host.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.mkosi import namespaces
from scripts.system.process import Arg

PROGRAM = Path(namespaces.__file__)

# Files that the programs of this machine need, as far as they exist. None is secret. A folder that
# also holds secrets of root, such as /etc/ssl, is not given as a whole.
HOST = (
    "/usr",
    "/nix/store",
    "/etc/alternatives",
    "/etc/apt/keyrings",
    "/etc/apt/trusted.gpg.d",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/group",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/rpm-gpg",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/resolv.conf",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/static",
    "/run/systemd/resolve/resolv.conf",
    "/run/systemd/resolve/stub-resolv.conf",
    "/var/lib/ca-certificates",
)
ROOT_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64")

HOME = "/home"

# Bits of a mode.
OTHERS, WRITABLE = 0o007, 0o222


@dataclass(frozen=True)
class Confinement:
    """The namespaces of a program, and the files of this machine that it can reach.

    sandbox is mkosi's sandbox.py. The program starts in folder. read and write are files and
    folders, each of which keeps its path. temporary becomes /var/tmp. If may_label is true and root
    runs it, there is no user namespace, because no process in one may label files for SELinux.
    """

    sandbox: Path
    folder: Path = Path("/")
    read: Sequence[Path] = ()
    write: Sequence[Path] = ()
    temporary: Path | None = None
    is_offline: bool = False
    may_label: bool = False

    def command(self, argv: Sequence[Arg]) -> list[str]:
        """Return the command that runs argv in this confinement with this machine's programs."""
        files = [*host(), *bind("--ro-bind", _python()), *self._files()]
        flags = ["--no-network"] if self.is_offline else []
        return enter(self.sandbox, files, argv, flags, may_label=self.may_label)

    def _files(self) -> list[Arg]:
        temporary: list[Arg] = ["--tmpfs", "/var/tmp"]
        if self.temporary:
            temporary = ["--bind", self.temporary, "/var/tmp"]
        return [
            *bind("--ro-bind", self.read),
            *bind("--bind", self.write),
            *temporary,
            "--setenv", "HOME", HOME,
            "--unsetenv", "TMPDIR",
            "--chdir", self.folder.absolute(),
        ]  # fmt: skip


def enter(
    sandbox: Path,
    files: Sequence[Arg],
    argv: Sequence[Arg],
    flags: Sequence[str] = (),
    *,
    may_label: bool = False,
) -> list[str]:
    """Return the command that runs argv in namespaces of its own.

    files are options of sandbox, flags those of PROGRAM.
    """
    is_root = os.geteuid() == 0
    command: list[Arg] = [
        sys.executable, "-IS", PROGRAM, sandbox.absolute(), *flags,
        *([] if is_root else ["--user"]),
        *(["--may-label"] if is_root and may_label else []),
        "--", *api(), *files,
        "--", *argv,
    ]  # fmt: skip
    return [os.fspath(arg) for arg in command]


def api() -> list[Arg]:
    """Return options for /proc, /dev and the folders that programs expect to be empty.

    root owns the files of /proc that concern the whole machine, such as kpageflags and
    kernel.core_pattern, so it may read and write them without any capability. Therefore all files
    that are not about a process become read-only, and those for root alone become empty.
    """
    options: list[Arg] = ["--bind", "/proc", "/proc", "--dev", "/dev"]
    for path in sorted(Path("/proc").glob("[!0-9]*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            continue
        if not mode & OTHERS:
            options += ["--ro-bind", "/dev/null", path]
        elif stat.S_ISDIR(mode) or mode & WRITABLE:
            options += ["--ro-bind", path, path]
    for folder in ("/tmp", "/run"):
        options += ["--tmpfs", folder]
    return [*options, "--dir", HOME]


def host() -> list[Arg]:
    """Return options for the programs of this machine, and what they need to find each other."""
    options: list[Arg] = []
    for path in map(Path, HOST):
        if path.exists():
            options += ["--ro-bind", path, path]
    for name in ROOT_FOLDERS:
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", path.readlink(), path]
        elif path.is_dir():
            options += ["--ro-bind", path, path]
    return options


def bind(flag: str, paths: Sequence[Path]) -> Iterator[Arg]:
    """Yield the options that show each path in the sandbox under its own name."""
    for path in paths:
        yield from (flag, path.absolute(), path.absolute())


def _python() -> list[Path]:
    """Return the folders of this Python and its environment, mkosi among them, outside /usr."""
    real = Path(sys.executable).resolve().parent.parent
    folders = {Path(sys.prefix), Path(sys.base_prefix), real}
    return sorted(path for path in folders if not path.is_relative_to("/usr"))
