"""Checks a root file system against the rules for importing it into WSL.

Microsoft's rules are in https://learn.microsoft.com/windows/wsl/build-custom-distro, and in the
program that checks what is offered to `wsl --install`: distributions/validate-modern.py in
github.com/microsoft/WSL, here as of WSL 2.7.10. The rules for cloud-init and for programs of masked
daemons are Lima's, which configures the distribution itself
(mkosi.images/wsl-rootfs/mkosi.extra/etc/cloud).
"""

from __future__ import annotations

import configparser
import gzip
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from scripts.emulation.elf import EM_X86_64, IDENT

# Microsoft asks for these units to be disabled or masked, because Windows does their work. The
# document speaks of units of the system and of users. The consoles are those of the one virtual
# machine that all distributions share: github.com/microsoft/WSL/issues/13595 for the first getty,
# and github.com/microsoft/azurelinux/pull/18140 for what WSL's maintainers said of the other two.
# WSL's kernel has no auditing, so that its units fail: github.com/runfinch/finch-core/issues/553.
UNITS = (
    "systemd-resolved.service",
    "systemd-networkd.service",
    "systemd-networkd-wait-online.service",
    "systemd-tmpfiles-setup.service",
    "systemd-tmpfiles-clean.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
    "tmp.mount",
    "NetworkManager.service",
    "NetworkManager-wait-online.service",
    "networking.service",
    "hypervkvpd.service",
    "console-getty.service",
    "getty@tty1.service",
    "systemd-vconsole-setup.service",
    "auditd.service",
    "audit-rules.service",
)

# systemd-getty-generator(8) starts this one in every container, whether it is enabled or not.
GENERATED = ("console-getty.service",)

# What each of these daemons is asked through. A script that finds such a program expects an answer.
CLIENTS: Mapping[str, tuple[str, ...]] = {
    "systemd-resolved.service": (
        "usr/bin/resolvectl",
        "usr/bin/systemd-resolve",
        "usr/sbin/resolvconf",
    ),
    "systemd-networkd.service": ("usr/bin/networkctl",),
    "NetworkManager.service": ("usr/bin/nmcli",),
}

# The services of nsswitch.conf(5) and the modules of pam(8) that ask a daemon.
NSS = {"resolve": "systemd-resolved.service", "mymachines": "systemd-machined.service"}
PAM = {"pam_systemd.so": "systemd-logind.service"}

# The folders of units by their manager, the first one decides; the files that must be there, and
# the ones that must not.
MANAGERS = {
    manager: tuple(f"{root}/systemd/{manager}" for root in ("etc", "usr/local/lib", "usr/lib"))
    for manager in ("system", "user")
}
CONFIGURATION = ("etc/wsl.conf", "etc/wsl-distribution.conf")
FORBIDDEN = ("etc/resolv.conf", "init", "efi")
KERNELS = ("vmlinuz", "initrd", "initramfs")

# The settings that WSL knows.
KEYS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "etc/wsl.conf": {
        "automount": ("cgroups", "enabled", "ldconfig", "mountfstab", "options", "root"),
        "boot": ("command", "protectbinfmt", "systemd"),
        "fileserver": ("enabled",),
        "filesystem": ("umask",),
        "general": ("hostname",),
        "gpu": ("appendlibpath", "enabled"),
        "interop": ("appendwindowspath", "enabled"),
        "network": ("generatehosts", "generateresolvconf", "hostname"),
        "time": ("usewindowstimezone",),
        "user": ("default",),
    },
    "etc/wsl-distribution.conf": {
        "oobe": ("command", "defaultname", "defaultuid"),
        "shortcut": ("enabled", "icon"),
        "windowsterminal": ("enabled", "profiletemplate"),
    },
}

# WSL 1 cannot set these attributes.
ATTRIBUTES = ("security.selinux", "security.ima", "security.evm")

# The largest icon and the largest template for Windows Terminal, in bytes.
LARGEST = 1 << 20

# Microsoft accepts that the group may write.
FILE, PROGRAM, TEMPLATE = (0o644, 0o664), (0o755, 0o775, 0o555), (0o640, 0o660)
SECRET = (0o640, 0o600, 0)

# As for the kernel.
MAX_LINKS = 40


def complaints(path: Path) -> list[str]:
    """Describe every rule that the tarball at path breaks."""
    with gzip.open(path) as plain, tarfile.open(fileobj=plain, mode="r:") as tar:
        root = Root(tar)
        return [
            *_header(path),
            *_form(root),
            *(f"/{name} is there" for name in FORBIDDEN if name in root.members),
            *(
                f"/{name} is a kernel or an initramfs"
                for name, member in root.members.items()
                if name.startswith("boot/") and Path(name).name.startswith(KERNELS)
                and member.isreg()
            ),
            *_configuration(root),
            *_programs(root),
            *_cloud_init(root),
            *_accounts(root),
            *_passwords(root),
            *_units(root),
            *_clients(root),
        ]  # fmt: skip


@dataclass(frozen=True)
class Root:
    """The root file system in a tarball."""

    tar: tarfile.TarFile

    @cached_property
    def members(self) -> Mapping[str, tarfile.TarInfo]:
        """The members by their names."""
        return {member.name: member for member in self.tar}

    def find(self, path: str) -> tarfile.TarInfo | None:
        """Return what is at path, with or without a slash before it, once links are followed."""
        for _ in range(MAX_LINKS):
            path = posixpath.normpath(path).lstrip("/")
            parts = path.split("/")
            heads = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
            link = next((head for head in heads if self._is_link(head)), None)
            if not link:
                return self.members.get(path)
            target = posixpath.join("/", posixpath.dirname(link), self.members[link].linkname)
            path = target + path.removeprefix(link)
        return None

    def _is_link(self, name: str) -> bool:
        return name in self.members and self.members[name].issym()

    def bytes(self, member: tarfile.TarInfo) -> bytes:
        """Return the content of a file."""
        file = self.tar.extractfile(member)
        assert file
        return file.read()

    def text(self, path: str) -> str:
        """Return the content of the file at path, as `find` does; "" if there is none."""
        member = self.find(path)
        return self.bytes(member).decode() if member and member.isreg() else ""

    def ini(self, name: str) -> configparser.ConfigParser:
        """Read the file called name. The parser knows keys by their small letters."""
        parser = configparser.ConfigParser()
        parser.read_string(self.text(name))
        return parser


def _header(path: Path) -> list[str]:
    """RFC 1952: the header must have no file name or time, because they differ between builds."""
    with path.open("rb") as file:
        head = file.read(10)
    flags, time = head[3], head[4:8]
    return ["the gzip header tells name or time"] if flags or any(time) else []


def _form(root: Root) -> list[str]:
    names, members = list(root.members), root.members
    found = []
    if names != sorted(names):
        found.append("the members are not in the order of their names")
    if any(name.startswith(("/", "./", "../")) for name in names):
        found.append("the root of the file system is not the root of the archive")
    if any(member.uname or member.gname for member in members.values()):
        found.append("owners have names")
    if not {"etc", "usr", "usr/bin"} <= members.keys():
        found.append("that is no root file system")
    found += [
        f"/{name} has the attribute {attribute}"
        for name, member in members.items()
        for attribute in ATTRIBUTES
        if f"SCHILY.xattr.{attribute}" in member.pax_headers
    ]
    return found


def _file(
    root: Root, path: str, modes: tuple[int, ...], *, largest: int | None = None
) -> Iterator[str]:
    """Describe what is wrong with a file that must be there, with root as its owner."""
    member = root.find(path)
    name = f"/{path.lstrip('/')}"
    if not member or not member.isreg():
        yield f"{name} is not there"
        return
    if (member.uid, member.gid) != (0, 0) or member.mode & 0o7777 not in modes:
        yield f"{name} is not of root with mode {' or '.join(f'{mode:04o}' for mode in modes)}"
    if largest is not None and member.size > largest:
        yield f"{name} has more than {largest} bytes"


def _below(setting: str, path: str, *folders: str) -> Iterator[str]:
    if not path.startswith(tuple(f"/usr/{folder}/wsl/" for folder in folders)):
        yield f"{setting} is not below {' or '.join(f'/usr/{one}/wsl' for one in folders)}"


def _configuration(root: Root) -> list[str]:
    found: list[str] = []
    for name in CONFIGURATION:
        # A link would be allowed, but we have none.
        if not (member := root.members.get(name)) or not member.isreg():
            found.append(f"/{name} is not there")
        elif (member.uid, member.gid, member.mode & 0o7777) != (0, 0, 0o644):
            found.append(f"/{name} is not of root with mode 0644")
    if found:
        return found
    for name in CONFIGURATION:
        file = root.ini(name)
        found += [
            f"/{name} has the unknown setting {section}.{key}"
            for section in file.sections()
            for key in file[section]
            if key not in KEYS[name].get(section.lower(), ())
        ]
    wsl, distribution = (root.ini(name) for name in CONFIGURATION)
    if not wsl.getboolean("boot", "systemd", fallback=False):
        found.append("/etc/wsl.conf does not start systemd")
    if wsl.has_option("user", "default"):
        found.append("/etc/wsl.conf names a default user")
    if not distribution.get("oobe", "defaultname", fallback=""):
        found.append("/etc/wsl-distribution.conf has no oobe.defaultName")
    return [*found, *_settings(root, distribution)]


def _settings(root: Root, distribution: configparser.ConfigParser) -> Iterator[str]:
    """Check the files that /etc/wsl-distribution.conf names, and the user it speaks of."""
    if icon := distribution.get("shortcut", "icon", fallback=""):
        yield from _file(root, icon, FILE, largest=LARGEST)
        yield from _below("shortcut.icon", icon, "lib", "share")
    else:
        yield "/etc/wsl-distribution.conf has no shortcut.icon"
    if command := distribution.get("oobe", "command", fallback=""):
        yield from _file(root, command, PROGRAM[:2])
        yield from _below("oobe.command", command, "lib", "libexec")
    if template := distribution.get("windowsterminal", "profiletemplate", fallback=""):
        yield from _file(root, template, TEMPLATE, largest=LARGEST)
        yield from _below("windowsterminal.profileTemplate", template, "lib")
    if uid := distribution.get("oobe", "defaultuid", fallback=""):
        if uid != "1000":
            yield f"oobe.defaultUid is {uid} instead of 1000"
        if uid in (field[2] for field in _fields(root, "etc/passwd")):
            yield f"an account has the uid {uid} of oobe.defaultUid"


def _programs(root: Root) -> Iterator[str]:
    """The programs that WSL itself starts must be for x86-64 (System V ABI, chapter 4)."""
    for path in ("/bin/bash", "/bin/sh", "/sbin/init"):
        yield from _file(root, path, PROGRAM)
        member = root.find(path)
        head = root.bytes(member)[:20] if member and member.isreg() else b""
        if head and not (
            head.startswith(IDENT) and int.from_bytes(head[18:20], "little") == EM_X86_64
        ):
            yield f"{path} is no program for x86-64"


def _accounts(root: Root) -> Iterator[str]:
    yield from _file(root, "etc/passwd", FILE)
    accounts = _fields(root, "etc/passwd")
    yield from (
        f"/etc/passwd has a line with {len(account)} fields instead of 7"
        for account in accounts
        if len(account) != 7
    )
    uids = Counter(account[2] for account in accounts if len(account) == 7)
    yield from (f"/etc/passwd has the uid {uid} twice" for uid, count in uids.items() if count > 1)
    if not any(account[0] == "root" and account[2:3] == ["0"] for account in accounts):
        yield "/etc/passwd has no root with the uid 0"


def _fields(root: Root, name: str) -> list[list[str]]:
    return [line.split(":") for line in root.text(name).splitlines()]


def _passwords(root: Root) -> list[str]:
    """shadow(5): a password field is a hash unless it is empty or begins with ! or *."""
    found = []
    member = root.find("etc/shadow")
    if not member or member.uid or member.mode & 0o7777 not in SECRET:
        found.append("/etc/shadow is not of root with mode 0640, 0600 or 0000")
    for name in ("etc/shadow", "etc/shadow-"):
        found += [
            f"/{name} has a password of {field[0]}"
            for field in _fields(root, name)
            if field[1] and field[1][0] not in "!*"
        ]
    return found


def _cloud_init(root: Root) -> list[str]:
    """Check cloud-init's configuration; the last file in order of names decides each setting.

    Unless the configuration lists users, cloud-init makes the distribution's default user.
    """
    settings: dict[str, Any] = {}
    drop_ins = (name for name in root.members if Path(name).match("etc/cloud/cloud.cfg.d/*.cfg"))
    for name in ("etc/cloud/cloud.cfg", *sorted(drop_ins)):
        settings |= YAML(typ="safe").load(root.text(name)) or {}
    found = []
    if settings.get("datasource_list") != ["None"]:
        found.append("cloud-init looks for another datasource than None")
    if settings.get("users", ["default"]) != []:
        found.append("cloud-init makes users")
    if settings.get("network") != {"config": "disabled"}:
        found.append("cloud-init configures the network")
    return found


def _units(root: Root) -> Iterator[str]:
    for manager in MANAGERS:
        for unit in UNITS:
            if _may_run(root, unit, manager):
                of = " for users" if manager == "user" else ""
                yield f"{unit} is neither disabled nor masked{of}"


def _clients(root: Root) -> Iterator[str]:
    """Name what expects an answer of a daemon that never runs."""
    for unit, programs in CLIENTS.items():
        if not _may_run(root, unit):
            yield from (
                f"/{program} expects {unit}, which never runs"
                for program in programs
                if program in root.members
            )
    nss = re.sub(r"#.*|\[[^]]*\]", "", root.text("etc/nsswitch.conf")).split()
    for service, unit in NSS.items():
        if service in nss and not _may_run(root, unit):
            yield f"{service} in /etc/nsswitch.conf expects {unit}, which never runs"
    pam = "".join(root.text(name) for name in root.members if Path(name).match("etc/pam.d/*"))
    for module, unit in PAM.items():
        is_used = re.search(rf"^[^#\n]*\s{re.escape(module)}\b", pam, re.MULTILINE)
        if is_used and not _may_run(root, unit):
            yield f"{module} in /etc/pam.d expects {unit}, which never runs"


def _may_run(root: Root, unit: str, manager: str = "system") -> bool:
    """Whether systemd may start unit: it exists, and is neither masked nor disabled.

    A unit is disabled if it has an [Install] section whose links are missing. Units without this
    section, and those that a generator starts, can only be masked (systemctl(1), is-enabled). The
    unit of a template exists with it.
    """
    template = re.sub("@.*(?=[.])", "@", unit)
    paths = [
        f"{folder}/{name}"
        for name in dict.fromkeys((unit, template))
        for folder in MANAGERS[manager]
        if f"{folder}/{name}" in root.members
    ]
    if not paths or _is_mask(root.members[paths[0]]):
        return False
    member = root.find(paths[0])
    can_be_disabled = member and member.isreg() and b"[Install]" in root.bytes(member)
    return unit in GENERATED or _is_linked(root, unit, manager) or not can_be_disabled


def _is_mask(member: tarfile.TarInfo) -> bool:
    """systemd.unit(5): a unit is masked by a link to /dev/null, or by an empty file."""
    return member.linkname == "/dev/null" if member.issym() else member.isreg() and not member.size


def _is_linked(root: Root, unit: str, manager: str) -> bool:
    """Whether unit is enabled: a link puts it into a target, or gives it another name."""
    return any(
        member.issym()
        and name.startswith(MANAGERS[manager])
        and unit in (Path(name).name, Path(member.linkname).name)
        for name, member in root.members.items()
    )
