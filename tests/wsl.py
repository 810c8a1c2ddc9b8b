"""What Windows asks of a root file system that it is to import.

Rules: https://learn.microsoft.com/windows/wsl/build-custom-distro, and those of
../shared/DESIGN.md, section 9.
"""

from __future__ import annotations

import configparser
import gzip
import tarfile
from pathlib import Path

# Units that Microsoft asks to be disabled or masked: Windows does what they would do.
UNITS = (
    "systemd-resolved.service",
    "systemd-networkd.service",
    "systemd-tmpfiles-setup.service",
    "systemd-tmpfiles-clean.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
    "tmp.mount",
)

# What must be there, and what must not.
CONFIGURATION = ("etc/wsl.conf", "etc/wsl-distribution.conf")
FORBIDDEN = ("etc/resolv.conf", "init", "efi")
KERNELS = ("vmlinuz", "initrd", "initramfs")


def complaints(path: Path) -> list[str]:
    """Every rule that the tarball at path breaks, in words."""
    with gzip.open(path) as plain, tarfile.open(fileobj=plain, mode="r:") as tar:
        members = {member.name: member for member in tar}
        return [
            *_header(path),
            *_form(members),
            *(f"/{name} is there" for name in FORBIDDEN if name in members),
            *(
                f"/{name} is a kernel or an initramfs"
                for name, member in members.items()
                if name.startswith("boot/") and Path(name).name.startswith(KERNELS)
                and member.isreg()
            ),
            *_configuration(tar, members),
            *_passwords(tar, members),
            *(f"{unit} is neither disabled nor masked" for unit in UNITS if _runs(members, unit)),
        ]  # fmt: skip


def _header(path: Path) -> list[str]:
    """RFC 1952: neither a file name nor a time, which differ from build to build."""
    with path.open("rb") as file:
        head = file.read(10)
    flags, time = head[3], head[4:8]
    return ["the gzip header tells name or time"] if flags or any(time) else []


def _form(members: dict[str, tarfile.TarInfo]) -> list[str]:
    names = list(members)
    found = []
    if names != sorted(names):
        found.append("the members are not in the order of their names")
    if any(name.startswith(("/", "./", "../")) for name in names):
        found.append("the root of the file system is not the root of the archive")
    if any(member.uname or member.gname for member in members.values()):
        found.append("owners have names")
    if not {"etc", "usr", "usr/bin"} <= members.keys():
        found.append("that is no root file system")
    return found


def _configuration(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> list[str]:
    found = []
    for name in CONFIGURATION:
        member = members.get(name)
        if not member or not member.isreg():
            found.append(f"/{name} is not there")
        elif (member.uid, member.gid, member.mode & 0o7777) != (0, 0, 0o644):
            found.append(f"/{name} is not of root with mode 0644")
    if found:
        return found
    wsl, distribution = (_ini(tar, name) for name in CONFIGURATION)
    if not wsl.getboolean("boot", "systemd", fallback=False):
        found.append("/etc/wsl.conf does not start systemd")
    if not distribution.get("oobe", "defaultName", fallback=""):
        found.append("/etc/wsl-distribution.conf has no oobe.defaultName")
    return found


def _passwords(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> list[str]:
    """shadow(5): a field that is neither empty nor begins with ! or * is a password's hash."""
    found = []
    for name in ("etc/shadow", "etc/shadow-"):
        if name in members:
            fields = [line.split(":") for line in _text(tar, name).splitlines()]
            found += [
                f"/{name} has a password of {field[0]}"
                for field in fields
                if field[1] and field[1][0] not in "!*"
            ]
    return found


def _runs(members: dict[str, tarfile.TarInfo], unit: str) -> bool:
    """Whether systemd would start unit: it is there and wanted, and not masked."""
    mask = members.get(f"etc/systemd/system/{unit}")
    if mask and mask.issym() and mask.linkname == "/dev/null":
        return False
    return any(Path(name).name == unit for name in members)


def _ini(tar: tarfile.TarFile, name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read_string(_text(tar, name))
    return parser


def _text(tar: tarfile.TarFile, name: str) -> str:
    file = tar.extractfile(name)
    assert file
    return file.read().decode()
