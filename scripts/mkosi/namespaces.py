"""Run a command in namespaces of its own.

This is a program of its own, which imports nothing but the standard library. mkosi's stand-alone
sandbox.py stands in the middle and lays out the files that the command may see:

    namespaces.py outside [--user] [--offline] -- sandbox.py VIEW... -- \\
        namespaces.py inside [--user] -- COMMAND...

`outside` makes the namespaces and waits. `inside` is the first process of the PID namespace: the
kernel ends all the others with it. Both hand on signals and the status of the command; a command
that a signal ended has the status 128 + its number, as in a shell.

The last step makes a user namespace (`inside --user`). It maps each user to itself, so that files
keep their owners, but capabilities count for nothing outside it, and no mount that was made before
can be undone or made writable. Users other than root need another one to begin with (`outside
--user`). It has only that one user, as mkosi's own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NAMESPACES = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP

# sys/mount.h
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_REC, MS_PRIVATE = 0x4000, 0x40000

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2

# linux/capability.h: what it takes to install packages, to mount overlays and to take the network
# from scripts, which mkosi does.
CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_ADMIN": 12,
    "SYS_CHROOT": 18,
    "SYS_ADMIN": 21,
    "SETFCAP": 31,
}
CAPABILITY_VERSION = 0x20080522
CAPABILITY_BITS = 64

# What a terminal or the harness sends.
FORWARDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}

# The status if the kernel refuses a namespace. Neither mkosi nor ssh nor QEMU ends with it.
REFUSED = 125

_libc = ctypes.CDLL(None, use_errno=True)


def outside(command: Sequence[str], *, user: bool, offline: bool) -> int:
    """Run command as the first process of new namespaces, and return its status."""
    if user:
        _map_oneself()
    _unshare(NAMESPACES | (CLONE_NEWNET if offline else 0))
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    # What packages write down about the machine that they are installed on says nothing of this one.
    _check(_libc.sethostname(b"localhost", len(b"localhost")), "the host name")
    return _run(lambda: _become_first(command))


def _become_first(command: Sequence[str]) -> None:
    """Replace this process, the first of its namespace, with command, which sees a /proc of its own.

    The signals that it is to forward stay blocked: the kernel drops what would end a first process.
    """
    _die_with_parent(signal.SIGKILL)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.execvp(command[0], command)


def inside(command: Sequence[str], *, user: bool) -> int:
    """Run command below this process, the first of its PID namespace, and return its status."""
    if user:
        _map_everyone()
    _drop_capabilities()
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _die_with_parent(signal.SIGKILL)
    return _run(lambda: _become(command))


def _become(command: Sequence[str]) -> None:
    """Replace this process with command, which gets all signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execvp(command[0], command)


def _run(become: Callable[[], None]) -> int:
    """Call become in a child, and return its status once it has ended. Signals go on to it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    child = os.fork()
    if not child:
        _guard(become)
    while True:
        number = signal.sigwait({*FORWARDED, signal.SIGCHLD})
        if number != signal.SIGCHLD:
            os.kill(child, number)
        elif (status := _reap(child)) is not None:
            return status


def _guard(become: Callable[[], None]) -> NoReturn:
    """Call become, which does not return. If it fails, end this process and say why."""
    try:
        become()
    except OSError as error:
        print(f"{error.strerror}: {error.filename}", file=sys.stderr)
    os._exit(REFUSED)


def _reap(child: int) -> int | None:
    """Wait for all processes that have ended; return the status of child if it is one of them."""
    ended: int | None = None
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not process:
            return ended
        if process == child:
            code = os.waitstatus_to_exitcode(status)
            ended = 128 - code if code < 0 else code


def _map_oneself() -> None:
    """Enter a user namespace that has this user and its group, as themselves, and no other."""
    user, group = os.geteuid(), os.getegid()
    _unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _drop_capabilities()


def _map_everyone() -> None:
    """Enter a user namespace in which all users are themselves.

    A child that stays outside writes the maps: nobody inside may.
    """
    maps = {name: _identity(name) for name in ("uid_map", "gid_map")}
    ready, entered = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if not child:
        os.close(entered)
        os.read(ready, 1)
        _guard(lambda: _write_maps(parent, maps))
    _unshare(CLONE_NEWUSER | CLONE_NEWNS)
    os.close(entered)
    os.close(ready)
    if os.waitpid(child, 0)[1]:
        sys.exit(REFUSED)


def _identity(name: str) -> str:
    """Return the map called name of this namespace, with each ID mapped to itself."""
    lines = (line.split() for line in Path("/proc/self", name).read_text().splitlines())
    return "".join(f"{first} {first} {count}\n" for first, _, count in lines)


def _write_maps(process: int, maps: dict[str, str]) -> NoReturn:
    for name, text in maps.items():
        Path(f"/proc/{process}", name).write_text(text)
    os._exit(0)


def _drop_capabilities() -> None:
    """Keep CAPABILITIES only, for this process and its children, whatever user they run as."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    kept = set(CAPABILITIES.values()) & _permitted()
    for number in set(range(last + 1)) - kept:
        _check(_libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), "the capability bounding set")
    _set_capabilities(sum(1 << number for number in kept))
    for number in kept:
        ambient = _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0)
        _check(ambient, "an ambient capability")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _permitted() -> set[int]:
    """Return the numbers of the capabilities that this process may have."""
    status = Path("/proc/self/status").read_text().splitlines()
    bits = next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm:"))
    return {number for number in range(CAPABILITY_BITS) if bits & 1 << number}


def _set_capabilities(mask: int) -> None:
    """Have this process permit, use and inherit the capabilities in mask, and no others."""
    halves = [mask & 0xFFFFFFFF, mask >> 32]
    sets = (_Sets * 2)(*(_Sets(half, half, half) for half in halves))
    header = _Header(CAPABILITY_VERSION, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capabilities")


def _die_with_parent(number: signal.Signals) -> None:
    _check(_libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0), "the parent-death signal")


def _unshare(namespaces: int) -> None:
    _check(_libc.unshare(namespaces), f"namespaces {namespaces:#x}")


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    mounted = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None
    )
    _check(mounted, f"a mount on {target}")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def main(argv: list[str]) -> int:
    """Do what argv says, and return the status of its command."""
    end = argv.index("--")
    role, *flags = argv[:end]
    command = argv[end + 1 :]
    try:
        if role == "outside":
            return outside(command, user="--user" in flags, offline="--offline" in flags)
        return inside(command, user="--user" in flags)
    except OSError as error:
        print(f"this kernel refuses {error.filename}: {error.strerror}", file=sys.stderr)
        return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
