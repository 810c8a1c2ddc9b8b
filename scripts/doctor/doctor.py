"""What a machine lacks for which session, and the command that mends it.

`look` gathers facts, the checks judge them, `require` stops a build that could not succeed.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from scripts import arch
from scripts.bootstrap import interpreters
from scripts.catalog import ROOT
from scripts.distributions import debian
from scripts.emulation import binfmt as binfmts
from scripts.options import Options
from scripts.packages import engine
from scripts.system import process
from scripts.system.errors import MachineError, UsageError
from scripts.system.files import nearest

GIB = 1 << 30

# A build of Debian trixie leaves 3.5 GiB in .work/ and out/; for as long as it runs, each stage has
# its tree two or three times over. What is built already is not needed again.
FIRST_BUILD_BYTES = 10 * GIB
NEXT_BUILD_BYTES = 3 * GIB

# mkosi maps a full range of UIDs, 0 to 65535.
SUB_IDS = 65536

# linux/kvm.h: _IO(KVMIO, 0x00), whose answer has been 12 since Linux 2.6.22.
KVM_GET_API_VERSION = 0xAE00
KVM_API_VERSION = 12

BUILDS = ("quickstart", "build", "image", "mkosi", "bench")
BOOTS = ("quickstart", "boot-test")
RELEASES = ("diff", "ci-matrix", "publish")
PACKAGES = ("packages",)
SESSIONS = (
    *("tests", "lint", "typecheck", "e2e", "clean", "doctor"),
    *BUILDS, *BOOTS, *PACKAGES, *RELEASES,
)  # fmt: skip

# What the images of Amazon Linux are the poorer for.
PACKAGES_HELP = "build of Amazon Linux, but with --without-packages"

MKOSI_PYTHON = "3.12"


@dataclass(frozen=True)
class Machine:
    """Facts about a machine, as `look` finds them.

    programs are those of PROGRAMS that are on PATH. sub_uids and sub_gids are the sizes of the
    user's largest ranges. namespaces says why the kernel refuses what mkosi's sandbox is made of,
    free_bytes is the space where builds are kept and is_first whether nothing is built there yet,
    has_keyring whether the keys of Debian's archive are here.
    kvm, docker and buildx say why there is none; each of these texts is empty where all is
    well. engine says what container engine answers, docker_mend what mends that none does that
    packages can be built with, buildx_mend what mends that there is no buildx. emulated
    are the foreign architectures whose programs run here, in chroots too; binfmt says why not even
    a build by root runs the others', binfmt_mend what mends that. python is the interpreter for
    mkosi.
    """

    user: str
    is_root: bool
    programs: frozenset[str]
    sub_uids: int
    sub_gids: int
    namespaces: str
    free_bytes: int
    is_first: bool
    has_keyring: bool = True
    python: Path | None = None
    kvm: str = ""
    emulated: frozenset[str] = frozenset()
    native: str = "x86_64"
    docker: str = ""
    docker_mend: str = ""
    engine: str = ""
    buildx: str = ""
    buildx_mend: str = ""
    binfmt: str = ""
    binfmt_mend: str = ""


PROGRAMS = ("apt-get", "dnf", "git", "newuidmap", "newgidmap")


@dataclass(frozen=True)
class Finding:
    """What one check came to: found says what is there, mend what to do if that is not enough.

    needed_by are the sessions that cannot do without, helps what is better with it.
    """

    check: str
    ok: bool
    found: str
    mend: str = ""
    needed_by: tuple[str, ...] = ()
    helps: str = ""


def python(machine: Machine) -> Finding:
    """mkosi's interpreter, which uv fetches where the network lets it."""
    return Finding(
        check=f"Python {MKOSI_PYTHON}",
        ok=machine.python is not None,
        found=str(machine.python or "none on PATH, of pyenv or of uv"),
        mend=f"./nox has uv fetch it where the network lets it, else apt-get or dnf install "
        f"python{MKOSI_PYTHON}, where the distribution has it, or pyenv install {MKOSI_PYTHON}",
        needed_by=BUILDS,
    )


def package_manager(machine: Machine) -> Finding:
    """What mkosi makes its tools tree with, which is Debian's on every machine."""
    is_here = "apt-get" in machine.programs
    lacks = [] if is_here else ["no apt-get"]
    if not machine.has_keyring:
        lacks.append("no keys of Debian's archive")
    return Finding(
        check="apt",
        ok=not lacks,
        found=" and ".join(lacks) or "here, with the keys of Debian's archive",
        mend=_install(machine, apt="debian-archive-keyring", dnf="apt debian-keyring")
        + ", else build in a privileged container of Debian",
        needed_by=BUILDS,
    )


def privileges(machine: Machine) -> Finding:
    """Root, or all that lets a plain user be root of a namespace."""
    lacks: list[str] = []
    mends: list[str] = []
    if not machine.is_root:
        if not {"newuidmap", "newgidmap"} <= machine.programs:
            lacks.append("newuidmap is not installed")
            mends.append(_install(machine, apt="uidmap", dnf="shadow-utils"))
        if min(machine.sub_uids, machine.sub_gids) < SUB_IDS:
            lacks.append(f"{machine.user} has no {SUB_IDS} subordinate UIDs and GIDs")
            mends.append(
                "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "
                f"{machine.user}"
            )
    if machine.namespaces:
        lacks.append(machine.namespaces)
        mends.append(
            "give the container its privileges: docker run --privileged"
            if machine.is_root
            else "sudo sysctl -w user.max_user_namespaces=65536 "
            "kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0 "
            "(those that exist)"
        )
    who = "root" if machine.is_root else f"{machine.user}, with subordinate UIDs"
    return Finding(
        check="root or user namespaces",
        ok=not lacks,
        found="; ".join(lacks) or who,
        mend="; ".join(mends),
        needed_by=BUILDS,
    )


def disk(machine: Machine) -> Finding:
    """Room for a build."""
    needed = FIRST_BUILD_BYTES if machine.is_first else NEXT_BUILD_BYTES
    return Finding(
        check="free disk",
        ok=machine.free_bytes >= needed,
        found=f"{machine.free_bytes / GIB:.1f} GiB, of about {needed // GIB} GiB needed",
        mend="make room, or keep builds elsewhere: -- --work FOLDER --out FOLDER",
        needed_by=BUILDS,
    )


def git(machine: Machine) -> Finding:
    """What applies the project's patches to mkosi."""
    is_here = "git" in machine.programs
    return Finding(
        check="git",
        ok=is_here,
        found="here" if is_here else "none",
        mend=_install(machine, apt="git", dnf="git"),
        needed_by=BUILDS,
    )


def kvm(machine: Machine) -> Finding:
    """Hardware virtualization. That it answers is no proof that it runs a firmware."""
    return Finding(
        check="KVM",
        ok=not machine.kvm,
        found=machine.kvm or "answers; the boot test finds out whether firmware runs on it",
        mend=f"sudo usermod --append --groups kvm {machine.user}, if it is only forbidden; "
        "else virtualization is off, or this is a virtual machine without nesting",
        helps="boot-test, which else emulates and takes minutes",
    )


def binfmt(machine: Machine) -> Finding:
    """Programs of the other architecture. Root's builds register an emulator themselves."""
    foreign = [name for name in arch.NAMES if name != machine.native]
    missing = [name for name in foreign if name not in machine.emulated]
    found = f"runs {', '.join(foreign)}"
    if missing:
        found = machine.binfmt or f"no {', '.join(missing)} yet; a build by root sees to it"
    return Finding(
        check="binfmt",
        ok=not missing or (machine.is_root and not machine.binfmt),
        found=found,
        mend=machine.binfmt_mend
        or "./nox -s binfmt -- setup says what an administrator runs, once after each start",
        helps=f"build of {', '.join(foreign)}",
    )


def docker(machine: Machine) -> Finding:
    """The container engine, Docker's or one that speaks its API."""
    return Finding(
        check="container engine",
        ok=not machine.docker,
        found=machine.docker or machine.engine,
        mend=machine.docker_mend,
        needed_by=PACKAGES,
        helps=PACKAGES_HELP,
    )


def buildx(machine: Machine) -> Finding:
    """Docker's front end to BuildKit."""
    return Finding(
        check="Docker buildx",
        ok=not machine.buildx,
        found=machine.buildx or "here",
        mend=machine.buildx_mend,
        needed_by=PACKAGES,
        helps=PACKAGES_HELP,
    )


Check = Callable[[Machine], Finding]

# The checks that a build repeats each time: those whose facts cost no more than milliseconds.
QUICK: tuple[Check, ...] = (package_manager, privileges, disk, git)
CHECKS: tuple[Check, ...] = (python, *QUICK, kvm, binfmt, docker, buildx)


def require(session: str, options: Options) -> None:
    """Raise MachineError if this machine lacks what session needs; it takes milliseconds."""
    machine = look(options.folders.work, os.environ, thoroughly=False)
    raise_for(session, [check(machine) for check in QUICK])


def look(work: Path, environ: Mapping[str, str], *, thoroughly: bool) -> Machine:
    """The facts about this machine; builds are kept in work.

    thoroughly looks also for what no build has to have, which may take seconds.
    """
    user = _user()
    quick = Machine(
        user=user,
        is_root=os.geteuid() == 0,
        programs=frozenset(name for name in PROGRAMS if shutil.which(name)),
        sub_uids=_sub_ids(Path("/etc/subuid"), user),
        sub_gids=_sub_ids(Path("/etc/subgid"), user),
        namespaces=_namespaces(),
        free_bytes=_free_bytes(work),
        is_first=not any(work.glob("*/*/stages/*")),
        has_keyring=debian.KEYRING.exists(),
    )
    if not thoroughly:
        return quick
    return Machine(
        **vars(quick)
        | {
            "python": interpreters.find(MKOSI_PYTHON, environ),
            "kvm": _kvm(Path("/dev/kvm")),
            **_binfmt(work),
            "native": arch.native().name,
            **_engine(environ),
            **_buildx(environ),
        }
    )


def sub_ids(table: str, user: str, uid: int) -> int:
    """The size of user's largest range in the text of /etc/subuid or /etc/subgid (subuid(5))."""
    rows = (line.split(":") for line in table.splitlines())
    sizes = (row[2] for row in rows if len(row) == len(("owner", "start", "size")) and
             row[0] in {user, str(uid)})  # fmt: skip
    return max((int(size) for size in sizes if size.isdecimal()), default=0)


def session_name(text: str) -> str:
    """The session that text means: build, of `build-3.12(arch='x86_64')`. Raises UsageError."""
    name = re.sub(r"(-3\.\d+)?(\(.*)?$", "", text)
    if name not in SESSIONS:
        accepted = ", ".join(dict.fromkeys(SESSIONS))
        raise UsageError(f"unknown session {text!r}", hint=f"accepted are {accepted}")
    return name


def report(findings: Sequence[Finding], session: str) -> Table:
    """The findings as a table."""
    table = Table("", "check", "found", "needed by", title=f"This machine, for {session}")
    table.add_column("what mends it", overflow="fold")
    for finding in findings:
        needed = ", ".join(finding.needed_by) or f"(optional) {finding.helps}"
        mark, style = ("✓", "green") if finding.ok else ("-", "yellow")
        if session in finding.needed_by and not finding.ok:
            mark, style = "✗", "red"
        mend = "" if finding.ok else finding.mend
        cells = (finding.check, finding.found, needed, mend)
        table.add_row(Text(mark, style), *(Text(cell) for cell in cells))
    return table


def _install(machine: Machine, *, apt: str, dnf: str) -> str:
    sudo = "" if machine.is_root else "sudo "
    is_dnf = "dnf" in machine.programs and "apt-get" not in machine.programs
    return f"{sudo}dnf install {dnf}" if is_dnf else f"{sudo}apt-get install {apt}"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container that was given a UID only
        return str(os.geteuid())


def _sub_ids(path: Path, user: str) -> int:
    try:
        return sub_ids(path.read_text(), user, os.geteuid())
    except OSError:
        return 0


def _namespaces() -> str:
    """Why the kernel refuses what mkosi's sandbox needs: a mount namespace, a user's for a user."""
    kinds = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    try:
        process.run(["unshare", *kinds, "true"])
    except process.CommandError as error:
        return f"namespaces are refused ({error.output.strip()})"
    except FileNotFoundError:
        return ""  # util-linux is lacking, which says nothing about the kernel
    return ""


def _free_bytes(path: Path) -> int:
    status = os.statvfs(nearest(path))
    return status.f_bavail * status.f_frsize


def _binfmt(work: Path) -> dict[str, object]:
    try:
        return {"emulated": frozenset(binfmts.emulated_here(ROOT, work))}
    except MachineError as error:
        return {"binfmt": error.message, "binfmt_mend": error.hint}


def _kvm(device: Path) -> str:
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return f"there is no {device}"
    except OSError as error:
        return f"{device}: {error.strerror}"
    try:
        version = fcntl.ioctl(descriptor, KVM_GET_API_VERSION)
    except OSError as error:
        return f"{device} is no KVM: {error.strerror}"
    finally:
        os.close(descriptor)
    return "" if version == KVM_API_VERSION else f"{device} speaks version {version} of its API"


def _engine(environ: Mapping[str, str]) -> dict[str, str]:
    """What is known of the container engine, by the name of a Machine's field."""
    try:
        return {"engine": str(engine.find_fit(environ, environ.get("BUILDX_BUILDER", "")))}
    except MachineError as error:
        return {"docker": error.message, "docker_mend": error.hint}


def _buildx(environ: Mapping[str, str]) -> dict[str, str]:
    """What buildx lacks, by the name of a Machine's field."""
    try:
        engine.check_buildx(environ)
    except MachineError as error:
        return {"buildx": error.message, "buildx_mend": error.hint}
    return {}


def raise_for(session: str, findings: Sequence[Finding]) -> None:
    """Raise MachineError where one of findings keeps session from running."""
    lacking = [item for item in findings if session in item.needed_by and not item.ok]
    if lacking:
        raise MachineError(
            f"{session} cannot run here: "
            + "; ".join(f"{item.check}: {item.found}" for item in lacking),
            hint="; ".join(item.mend for item in lacking),
        )
