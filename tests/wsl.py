"""Checks a root file system against the rules for importing it into WSL.

Microsoft's rules: https://learn.microsoft.com/windows/wsl/build-custom-distro. The rules for
cloud-init are Lima's, which configures the distribution itself
(mkosi.images/wsl-rootfs/mkosi.extra/etc/cloud).
"""

from __future__ import annotations

import configparser
import gzip
import tarfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

# Microsoft asks for these units to be disabled or masked, because Windows does their work.
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

# The folders of units, the required files, and the forbidden ones.
UNIT_FOLDERS = ("etc/systemd/system", "usr/lib/systemd/system")
CONFIGURATION = ("etc/wsl.conf", "etc/wsl-distribution.conf")
FORBIDDEN = ("etc/resolv.conf", "init", "efi")
KERNELS = ("vmlinuz", "initrd", "initramfs")


def complaints(path: Path) -> list[str]:
    """Describe every rule that the tarball at path breaks."""
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
            *_cloud_init(tar, members),
            *_passwords(tar, members),
            *(
                f"{unit} is neither disabled nor masked"
                for unit in UNITS
                if _may_run(tar, members, unit)
            ),
        ]  # fmt: skip


def _header(path: Path) -> list[str]:
    """RFC 1952: the header must have no file name or time, because they differ between builds."""
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
    """shadow(5): a password field is a hash unless it is empty or begins with ! or *."""
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


def _cloud_init(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> list[str]:
    """Check cloud-init's configuration; the last file in order of names decides each setting.

    Unless the configuration lists users, cloud-init makes the distribution's default user.
    """
    settings: dict[str, Any] = {}
    drop_ins = (name for name in members if Path(name).match("etc/cloud/cloud.cfg.d/*.cfg"))
    for name in ("etc/cloud/cloud.cfg", *sorted(drop_ins)):
        if name in members:
            settings |= YAML(typ="safe").load(_text(tar, name)) or {}
    found = []
    if settings.get("datasource_list") != ["None"]:
        found.append("cloud-init looks for another datasource than None")
    if settings.get("users", ["default"]) != []:
        found.append("cloud-init makes users")
    if settings.get("network") != {"config": "disabled"}:
        found.append("cloud-init configures the network")
    return found


def _may_run(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], unit: str) -> bool:
    """Whether systemd may start unit: it exists, and is neither masked nor disabled.

    A unit is disabled if it has an [Install] section whose links are missing. Units without this
    section can only be masked (systemctl(1), is-enabled: static).
    """
    paths = [f"{folder}/{unit}" for folder in UNIT_FOLDERS if f"{folder}/{unit}" in members]
    if not paths or _is_mask(members[paths[0]]):
        return False
    return _is_linked(members, unit) or "[Install]" not in _text(tar, paths[0])


def _is_mask(member: tarfile.TarInfo) -> bool:
    """systemd.unit(5): a unit is masked by a link to /dev/null, or by an empty file."""
    return member.linkname == "/dev/null" if member.issym() else member.isreg() and not member.size


def _is_linked(members: dict[str, tarfile.TarInfo], unit: str) -> bool:
    """Whether unit is enabled: a link puts it into a target, or gives it another name."""
    return any(
        member.issym()
        and name.startswith(UNIT_FOLDERS)
        and unit in (Path(name).name, Path(member.linkname).name)
        for name, member in members.items()
    )


def _ini(tar: tarfile.TarFile, name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read_string(_text(tar, name))
    return parser


def _text(tar: tarfile.TarFile, name: str) -> str:
    file = tar.extractfile(name)
    assert file
    return file.read().decode()
