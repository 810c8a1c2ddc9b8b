"""Gather the facts about this machine that `scripts.doctor.doctor` judges."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from scripts import arch, catalog
from scripts.bootstrap import interpreters
from scripts.distributions import debian
from scripts.emulation import binfmt
from scripts.packages import engine
from scripts.system import process
from scripts.system.errors import MachineError
from scripts.system.files import nearest

# linux/kvm.h: _IO(KVMIO, 0x00). The answer has been 12 since Linux 2.6.22.
KVM_GET_API_VERSION = 0xAE00
KVM_API_VERSION = 12

# The programs that the lab session needs, each with the Debian package that contains it.
LAB_PROGRAMS = {
    "rpmbuild": "rpm",
    "rpmsign": "rpm",
    "createrepo_c": "createrepo-c",
    "gpg": "gnupg",
    "dnf": "dnf",
    "dpkg-deb": "dpkg",
}

PROGRAMS = ("apt-get", "dnf", "git", "newuidmap", "newgidmap", *LAB_PROGRAMS)


@dataclass(frozen=True)
class Lack:
    """Something that a machine lacks: the reason why it is unavailable, and how to mend that."""

    reason: str
    mend: str = ""


@dataclass(frozen=True)
class Machine:
    """Facts about a machine, as gathered by `look` and `look_closely`.

    Attributes:
        user: the name of the user who runs the harness.
        is_root: whether that user is root.
        programs: those of PROGRAMS that are on PATH.
        sub_uids: the size of the user's largest range of subordinate UIDs.
        sub_gids: the same for GIDs.
        free_bytes: the free disk space where builds are kept.
        is_first: whether nothing has been built there yet.
        has_keyring: whether the keys of the Debian archive are installed.
        namespaces: why the kernel refuses the namespaces that mkosi's sandbox needs, if it does.
        native: the name of the machine's own architecture.
        python: the interpreter that mkosi runs in, if there is one.
        kvm: why there is no KVM, if there is none.
        emulated: the foreign architectures whose programs run here, in chroots too.
        binfmt: what keeps even a build by root from running the others' programs, if anything.
        engine: the container engine that answers, with its version.
        docker: why no engine can build packages, if none can.
        buildx: why there is no buildx, if there is none.

    """

    user: str
    is_root: bool
    programs: frozenset[str]
    sub_uids: int
    sub_gids: int
    free_bytes: int
    is_first: bool
    has_keyring: bool = True
    namespaces: Lack | None = None
    native: str = "x86_64"
    python: Path | None = None
    kvm: Lack | None = None
    emulated: frozenset[str] = frozenset()
    binfmt: Lack | None = None
    engine: str = ""
    docker: Lack | None = None
    buildx: Lack | None = None


def look(work: Path) -> Machine:
    """Return what a build in the folder work needs to know about this machine, in milliseconds.

    KVM, emulation, Python and the container engine are left out; see `look_closely`.
    """
    user, is_root = _user(), os.geteuid() == 0
    return Machine(
        user=user,
        is_root=is_root,
        programs=frozenset(name for name in PROGRAMS if shutil.which(name)),
        sub_uids=_sub_ids(Path("/etc/subuid"), user),
        sub_gids=_sub_ids(Path("/etc/subgid"), user),
        free_bytes=_free_bytes(work),
        is_first=not any(work.glob("*/*/stages/*")),
        has_keyring=debian.KEYRING.exists(),
        namespaces=_namespaces(is_root=is_root),
    )


def look_closely(work: Path, environ: Mapping[str, str]) -> Machine:
    """Return all facts about this machine, which may take seconds.

    work is the folder in which builds are kept.
    """
    quick = look(work)
    emulated, no_binfmt = _emulation(work)
    found, no_engine = _engine(environ)
    return replace(
        quick,
        native=arch.native().name,
        python=interpreters.find(catalog.MKOSI_PYTHON, environ),
        kvm=_kvm(Path("/dev/kvm"), quick),
        emulated=emulated,
        binfmt=no_binfmt,
        engine=found,
        docker=no_engine,
        buildx=_buildx(environ),
    )


def sub_ids(table: str, user: str, uid: int) -> int:
    """Return the size of user's largest range in table, the text of /etc/subuid or /etc/subgid.

    subuid(5) has the format: an owner, who may be named by UID, the first ID and the size.
    """
    rows = (line.split(":") for line in table.splitlines())
    sizes = [row[2] for row in rows if len(row) == 3 and row[0] in {user, str(uid)}]
    return max((int(size) for size in sizes if size.isdecimal()), default=0)


def refused_namespaces(cause: str, *, is_root: bool) -> Lack:
    """Return what a machine lacks whose kernel refuses namespaces for cause."""
    reason = f"namespaces are refused ({cause})"
    if is_root:
        return Lack(
            reason,
            "in a container: docker run --privileged; outside, if the kernel allows none: "
            "sudo sysctl -w user.max_user_namespaces=65536",
        )
    settings = (
        "user.max_user_namespaces=65536 kernel.unprivileged_userns_clone=1 "
        "kernel.apparmor_restrict_unprivileged_userns=0"
    )
    return Lack(reason, f"sudo sysctl -w {settings} (leave out those that your kernel lacks)")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container that was started with a bare UID
        return str(os.geteuid())


def _sub_ids(path: Path, user: str) -> int:
    try:
        return sub_ids(path.read_text(), user, os.geteuid())
    except OSError:
        return 0


def _namespaces(*, is_root: bool) -> Lack | None:
    """Try to make the namespaces in which mkosi runs (scripts/mkosi/namespaces.py)."""
    user = ["--user", "--map-root-user"]
    kinds = ["--mount", "--mount-proc", "--pid", "--fork", "--ipc", "--uts", "--cgroup"]
    inner = ["unshare", *user, "--mount", "true"]
    try:
        process.run(["unshare", *([] if is_root else user), *kinds, *inner])
    except process.CommandError as error:
        return refused_namespaces(error.output.strip(), is_root=is_root)
    except FileNotFoundError:
        return None  # util-linux is missing, which says nothing about the kernel
    return None


def _free_bytes(path: Path) -> int:
    status = os.statvfs(nearest(path))
    return status.f_bavail * status.f_frsize


def _kvm(device: Path, machine: Machine) -> Lack | None:
    """Return why KVM at device cannot be used by the user of machine."""
    off = (
        "turn on virtualization in the firmware's setup, or nested virtualization if this is a "
        "virtual machine"
    )
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Lack(f"there is no {device}", off)
    except PermissionError as error:
        joining = f"sudo usermod --append --groups kvm {machine.user}, then log in again"
        container = "give the container the device: docker run --privileged"
        return Lack(f"{device}: {error.strerror}", container if machine.is_root else joining)
    except OSError as error:
        return Lack(f"{device}: {error.strerror}", off)
    try:
        version = fcntl.ioctl(descriptor, KVM_GET_API_VERSION)
    except OSError as error:
        return Lack(f"{device} is not a KVM device: {error.strerror}", off)
    finally:
        os.close(descriptor)
    if version != KVM_API_VERSION:
        return Lack(f"{device} has version {version} of KVM's API", "update the kernel")
    return None


def _emulation(work: Path) -> tuple[frozenset[str], Lack | None]:
    """Return the architectures that are emulated, and why no more can be."""
    try:
        return frozenset(binfmt.emulated_here(catalog.ROOT, work)), None
    except MachineError as error:
        return frozenset(), Lack(error.message, error.hint)


def _engine(environ: Mapping[str, str]) -> tuple[str, Lack | None]:
    """Return the container engine that can build packages, or why there is none."""
    try:
        return str(engine.find_fit(environ, environ.get("BUILDX_BUILDER", ""))), None
    except MachineError as error:
        return "", Lack(error.message, error.hint)


def _buildx(environ: Mapping[str, str]) -> Lack | None:
    try:
        engine.check_buildx(environ)
    except MachineError as error:
        return Lack(error.message, error.hint)
    return None
