"""Run a command in namespaces of its own, with files of its own.

This is a program of its own, which imports nothing but the standard library and the sandbox.py of
mkosi, which lays out the files that the command sees:

    namespaces.py SANDBOX [--user] [--no-network] [--bare] [--may-label] -- VIEW... -- COMMAND...

VIEW are options of sandbox.py. --user is for users other than root. With --no-network there is no
network but a loopback of its own, with --bare hardly any environment.

There are three processes. The first makes the namespaces and waits. The second is the first process
of the PID namespace: the kernel ends all the others with it. The third becomes the command. The
first two hand on signals and the status; a command that a signal ended has the status 128 + its
number, as in a shell.

The last step makes a user namespace, unless --may-label is given. It maps each user to itself, so
that files keep their owners, but capabilities count for nothing outside it, and no mount that was
made before can be undone or made writable. With --user there is another one before it, which has
only that one user, like mkosi's own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

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
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2

# keyctl(2), whose number differs between architectures, and an operation of it.
KEYCTL = {"x86_64": 250, "aarch64": 219}
KEYCTL_JOIN_SESSION_KEYRING = 1

# linux/landlock.h; the numbers of these system calls are the same everywhere. Sockets can be scoped
# since version 6, which Linux 6.12 has.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET = 1
LANDLOCK_SCOPES = 6

# linux/capability.h: the capabilities that mkosi needs to install packages, to mount overlays and
# to run scripts without a network.
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

# Signals that a terminal or the harness sends.
FORWARDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}

# The variables of the environment that --bare keeps.
BARE = {"PATH", "TERM", "TZ", "SOURCE_DATE_EPOCH"}

# The status if the kernel refuses a namespace. Neither mkosi nor ssh nor QEMU ends with it.
REFUSED = 125

# The status if there is no such command, or one that may not be executed, as in a shell.
NOT_FOUND, NOT_EXECUTABLE = 127, 126

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Plan:
    """The parsed arguments: mkosi's sandbox.py, its options, the command and the flags."""

    sandbox: Path
    view: Sequence[str]
    flags: frozenset[str]

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Plan:
        """Return the plan that the arguments argv describe."""
        end = list(argv).index("--")
        return cls(Path(argv[0]), argv[end + 1 :], frozenset(argv[1:end]))


def outside(plan: Plan) -> int:
    """Make the namespaces, run the rest of plan in them, and return the status of its command."""
    if "--user" in plan.flags:
        _map_oneself()
    _unshare(NAMESPACES | (CLONE_NEWNET if "--no-network" in plan.flags else 0))
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    # Packages may record the name of the machine that they are installed on. Hide this one's.
    _check(_libc.sethostname(b"localhost", len(b"localhost")), "the host name")
    return _run(lambda: os._exit(inside(plan)))


def inside(plan: Plan) -> int:
    """Run the command of plan below this process, the first of its namespace; return its status.

    The caller has blocked the signals to forward, because the kernel drops those that would end the
    first process of a namespace.
    """
    _die_with_parent(signal.SIGKILL)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    command = _load(plan.sandbox)(list(plan.view))
    if "--may-label" not in plan.flags:
        map_everyone()
    _leave_keys()
    _drop_capabilities()
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    _leave_sockets()
    # /proc/PID/environ of this process still has the variables that --bare removes.
    _check(_libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "an undumpable process")
    _die_with_parent(signal.SIGKILL)
    return _run(lambda: _become(command))


def _load(sandbox: Path) -> Callable[[list[str]], list[str]]:
    """Return the function of mkosi's sandbox.py that lays out the files and returns the command."""
    module: dict[str, object] = {"__name__": "sandbox"}
    exec(compile(sandbox.read_bytes(), sandbox, "exec"), module)  # noqa: S102 - our own mkosi
    return cast(Callable[[list[str]], list[str]], module["enter"])


def _become(command: Sequence[str]) -> None:
    """Replace this process with command, which gets all signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execvp(command[0], list(command))
    except FileNotFoundError:
        print(f"{command[0]}: not found", file=sys.stderr, flush=True)
        os._exit(NOT_FOUND)
    except PermissionError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(NOT_EXECUTABLE)


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
        _complain(error)
    os._exit(REFUSED)


def _complain(error: OSError) -> int:
    """Print what the kernel refuses, and return the status for that."""
    what = f"{error.filename}: " if error.filename else ""
    print(f"cannot isolate the build: {what}{error.strerror}", file=sys.stderr, flush=True)
    return REFUSED


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
    """Enter a user namespace that maps this user and its group to themselves, and no others."""
    user, group = os.geteuid(), os.getegid()
    _unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _drop_capabilities()


def map_everyone() -> None:
    """Enter a user namespace that maps every user and group to itself.

    A child that stays outside writes the maps, because no process inside may.
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


def _leave_keys() -> None:
    """Enter an empty session keyring (keyrings(7)): no namespace hides the keys of the old one.

    A kernel without keys has none to hide, and a seccomp filter that forbids this forbids to read
    them as well.
    """
    result = _libc.syscall(KEYCTL[os.uname().machine], KEYCTL_JOIN_SESSION_KEYRING, None)
    if result < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        _check(-1, "a session keyring")


class _Rules(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def _leave_sockets() -> None:
    """Forbid to connect to abstract Unix sockets of the machine, if this kernel can do that.

    They belong to the network, which what downloads has in common with the machine, and servers of
    root take root in here for their own.
    """
    version = _libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    if version < LANDLOCK_SCOPES:
        return
    rules = _Rules(0, 0, LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET)
    size = ctypes.c_size_t(ctypes.sizeof(rules))
    descriptor = _libc.syscall(LANDLOCK_CREATE_RULESET, ctypes.byref(rules), size, 0)
    _check(descriptor, "a Landlock ruleset")
    _check(_libc.syscall(LANDLOCK_RESTRICT_SELF, descriptor, 0), "a Landlock ruleset")
    os.close(descriptor)


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


def main(argv: Sequence[str]) -> int:
    """Do what argv says, and return the status of its command."""
    plan = Plan.parse(argv)
    if "--bare" in plan.flags:
        for name in {*os.environ} - BARE:
            del os.environ[name]
    try:
        return outside(plan)
    except OSError as error:
        return _complain(error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
