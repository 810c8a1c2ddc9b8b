"""Judge whether a machine is fit for a session, and say what to do if it is not.

`look` (scripts.doctor.machine) gathers the facts and each check here judges some of them. `require`
stops a build that cannot succeed before anything long begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from scripts import arch, catalog
from scripts.doctor.machine import LAB_PROGRAMS, Lack, Machine, look
from scripts.options import BAKE
from scripts.system.errors import MachineError, UsageError

GIB = 1 << 30

# A build of Debian trixie leaves 3.5 GiB in .work/ and out/. While it runs, each stage's tree
# exists two or three times. What has been built already needs no more space.
FIRST_BUILD_BYTES = 10 * GIB
NEXT_BUILD_BYTES = 3 * GIB

# mkosi maps a full range of UIDs, 0 to 65535.
SUB_IDS = 65536

# What a session can need, in the words of the catalogue (catalog.toml). Nothing is checked for
# "boot": QEMU and the firmware come out of the tools tree.
APT, BUILD, LAB, MKOSI, PACKAGES = "apt", "build", "lab", "mkosi", "packages"


@dataclass(frozen=True)
class Judgement:
    """The result of one check.

    Attributes:
        check: the name of the check.
        has: what the machine has.
        lack: what it lacks, None if it passes.
        needs: the needs of sessions (see `catalog.Session`) that the check decides.
        helps: what else is better, or possible, on a machine that passes.

    """

    check: str
    has: str = ""
    lack: Lack | None = None
    needs: tuple[str, ...] = ()
    helps: str = ""

    @property
    def ok(self) -> bool:
        """Whether the machine passes the check."""
        return self.lack is None

    @property
    def found(self) -> str:
        """What the machine has, or the reason why that is not enough."""
        return self.lack.reason if self.lack else self.has

    @property
    def mend(self) -> str:
        """What to do about it, empty if the machine passes."""
        return self.lack.mend if self.lack else ""

    @property
    def needed_by(self) -> tuple[str, ...]:
        """The names of the sessions that cannot run unless the machine passes."""
        return tuple(
            name
            for name, session in catalog.SESSIONS.items()
            if not set(self.needs).isdisjoint(session.needs)
        )


def python(machine: Machine) -> Judgement:
    """Judge whether mkosi's interpreter is installed; otherwise ./nox tries to download it."""
    version = catalog.MKOSI_PYTHON
    mend = (
        f"./nox downloads it through uv if the network allows; otherwise install python{version} "
        f"with apt-get or dnf, or run pyenv install {version}"
    )
    return Judgement(
        check=f"Python {version}",
        has=str(machine.python),
        lack=None if machine.python else Lack("neither on PATH nor from pyenv or uv", mend),
        needs=(BUILD, MKOSI, PACKAGES),
    )


def package_manager(machine: Machine) -> Judgement:
    """Judge whether apt can make the tools tree, which consists of Debian packages everywhere."""
    lacks = [] if "apt-get" in machine.programs else ["apt-get is not installed"]
    if not machine.has_keyring:
        lacks.append("the keys of the Debian archive are missing")
    install = _install(machine, apt="debian-archive-keyring", dnf="apt debian-keyring")
    return Judgement(
        check="apt",
        has="installed, with the keys of the Debian archive",
        lack=_lack(lacks, [f"{install}, or build in a privileged Debian container"]),
        needs=(BUILD, APT),
    )


def privileges(machine: Machine) -> Judgement:
    """Judge whether the user is root, or can become root in a user namespace."""
    lacks: list[Lack] = []
    if not machine.is_root:
        lacks += _user_lacks(machine)
    if machine.namespaces:
        lacks.append(machine.namespaces)
    who = "root" if machine.is_root else f"{machine.user}, who has subordinate UIDs"
    return Judgement(
        check="root or user namespaces",
        has=who,
        lack=_lack([lack.reason for lack in lacks], [lack.mend for lack in lacks]),
        needs=(BUILD,),
    )


def _user_lacks(machine: Machine) -> list[Lack]:
    """Return what a user who is not root lacks to build."""
    lacks = []
    if not {"newuidmap", "newgidmap"} <= machine.programs:
        install = _install(machine, apt="uidmap", dnf="shadow-utils")
        lacks.append(Lack("newuidmap is not installed", install))
    if min(machine.sub_uids, machine.sub_gids) < SUB_IDS:
        ids = "--add-subuids 100000-165535 --add-subgids 100000-165535"
        reason = f"{machine.user} has no {SUB_IDS} subordinate UIDs and GIDs"
        lacks.append(Lack(reason, f"sudo usermod {ids} {machine.user}"))
    return lacks


def disk(machine: Machine) -> Judgement:
    """Judge whether there is space for a build."""
    needed = FIRST_BUILD_BYTES if machine.is_first else NEXT_BUILD_BYTES
    space = f"{machine.free_bytes / GIB:.1f} GiB free, about {needed // GIB} GiB needed"
    elsewhere = f"{catalog.option('work')} {catalog.flag('out')} {catalog.metavar('out')}"
    mend = f"free some space, or keep builds on another disk: {elsewhere}"
    return Judgement(
        check="disk space",
        has=space,
        lack=None if machine.free_bytes >= needed else Lack(space, mend),
        needs=(BUILD,),
    )


def git(machine: Machine) -> Judgement:
    """Judge whether git, which applies our patches to mkosi, is installed."""
    lacks = [] if "git" in machine.programs else ["not installed"]
    return Judgement(
        check="git",
        has="installed",
        lack=_lack(lacks, [_install(machine, apt="git", dnf="git")]),
        needs=(BUILD, MKOSI),
    )


def kvm(machine: Machine) -> Judgement:
    """Judge whether KVM answers, which does not prove that firmware runs on it."""
    return Judgement(
        check="KVM",
        has="answers; the boot test finds out whether firmware runs on it",
        lack=machine.kvm,
        helps="boot tests in seconds; without KVM they are emulated and take minutes",
    )


def binfmt(machine: Machine) -> Judgement:
    """Judge whether programs of other architectures run; builds by root register emulators."""
    foreign = [name for name in arch.NAMES if name != machine.native]
    missing = [name for name in foreign if name not in machine.emulated]
    has, lack = f"runs programs of {', '.join(foreign)}", None
    if missing:
        has = f"runs no programs of {', '.join(missing)} yet; a build by root registers an emulator"
        lack = machine.binfmt
        if not machine.is_root and not lack:
            setup = catalog.command("binfmt", "setup")
            after = "prints the command that an administrator must run after each start"
            lack = Lack(has, f"{setup} {after} of the machine")
    return Judgement(
        check="binfmt",
        has=has,
        lack=lack,
        helps=f"builds for {', '.join(foreign)}",
    )


def docker(machine: Machine) -> Judgement:
    """Judge whether a container engine answers, Docker's or one that speaks its API."""
    return Judgement(
        check="container engine",
        has=machine.engine,
        lack=machine.docker,
        needs=(PACKAGES,),
        helps=_packages_help(),
    )


def buildx(machine: Machine) -> Judgement:
    """Judge whether Docker's front end to BuildKit is there."""
    return Judgement(
        check="Docker buildx",
        has="installed",
        lack=machine.buildx,
        needs=(PACKAGES,),
        helps=_packages_help(),
    )


def lab(machine: Machine) -> Judgement:
    """Judge whether the programs that the lab makes its RPMs with are installed."""
    missing = [name for name in LAB_PROGRAMS if name not in machine.programs]
    packages = " ".join(dict.fromkeys(LAB_PROGRAMS[name] for name in missing))
    sudo = "" if machine.is_root else "sudo "
    reasons = [f"{', '.join(missing)} not installed"] if missing else []
    return Judgement(
        check="tools of the lab",
        has="installed",
        lack=_lack(reasons, [f"{sudo}apt-get install {packages}"]),
        needs=(LAB,),
    )


Check = Callable[[Machine], Judgement]

# The checks that every build repeats: their facts cost no more than milliseconds.
QUICK: tuple[Check, ...] = (package_manager, privileges, disk, git)
CHECKS: tuple[Check, ...] = (python, *QUICK, kvm, binfmt, docker, buildx, lab)


def require(session: str, work: Path) -> None:
    """Raise MachineError if this machine lacks something that session needs.

    work is the folder in which builds are kept. This takes milliseconds: only QUICK is checked.
    """
    machine = look(work)
    raise_for(session, [check(machine) for check in QUICK])


def raise_for(session: str, judgements: Sequence[Judgement]) -> None:
    """Raise MachineError if one of judgements keeps session from running."""
    lacking = [item for item in judgements if session in item.needed_by and not item.ok]
    if lacking:
        raise MachineError(
            f"{session} cannot run here: "
            + "; ".join(f"{item.check}: {item.found}" for item in lacking),
            hint="; ".join(item.mend for item in lacking),
        )


def session_name(text: str) -> str:
    """Return the session that text names, as people or Nox write it.

    build-3.12(arch='x86_64') is "build". Raises UsageError if there is no such session.
    """
    name = re.sub(r"(-3\.\d+)?(\(.*)?$", "", text)
    if name not in catalog.SESSIONS:
        accepted = ", ".join(catalog.SESSIONS)
        raise UsageError(f"unknown session {text!r}", hint=f"the sessions are {accepted}")
    return name


def report(judgements: Sequence[Judgement], session: str) -> Table:
    """Return judgements as a table for a person who is about to run session."""
    table = Table("", "check", "found", "needed by", title=f"Is this machine fit for {session}?")
    table.add_column("what to do", overflow="fold")
    for item in judgements:
        mark, style = ("✓", "green") if item.ok else ("-", "yellow")
        if session in item.needed_by and not item.ok:
            mark, style = "✗", "red"
        helps = [f"(optional) {item.helps}"] if item.helps else []
        uses = "; ".join([", ".join(item.needed_by), *helps]).removeprefix("; ")
        cells = (item.check, item.found, uses, item.mend)
        table.add_row(Text(mark, style), *cells)
    return table


def _packages_help() -> str:
    alternative, bake = catalog.flag("without-packages"), catalog.option("emulators", BAKE)
    return (
        f"Amazon Linux images; without it they can only be built with {alternative}. "
        f"{bake} needs it for every image"
    )


def _lack(reasons: Sequence[str], mends: Sequence[str]) -> Lack | None:
    """Return one Lack that joins reasons, None if there are none."""
    return Lack("; ".join(reasons), "; ".join(mends)) if reasons else None


def _install(machine: Machine, *, apt: str, dnf: str) -> str:
    """Return the command that installs the packages apt or, with dnf alone, the packages dnf."""
    sudo = "" if machine.is_root else "sudo "
    is_dnf = "dnf" in machine.programs and "apt-get" not in machine.programs
    return f"{sudo}dnf install {dnf}" if is_dnf else f"{sudo}apt-get install {apt}"
