"""Programs of another architecture on this machine: the binfmt session.

Linux hands programs of a format that it is told of to an interpreter, here QEMU
(Documentation/admin-guide/binfmt-misc.rst in its sources). A build of a foreign architecture
registers its emulator for as long as it runs; `setup` does so until `teardown` or the next boot.
Who may not is told the one command that an administrator runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import ARCHES, Arch, native
from scripts.emulation import elf, emulators
from scripts.emulation.emulators import TABLE, Emulators, Table, Target
from scripts.system.errors import HarnessError, MachineError
from scripts.system.files import nearest
from scripts.system.process import CommandError, run

MOUNT = Path("/proc/sys/fs/binfmt_misc")

# Our entries: those that last, and those that go with the last build that uses them.
LASTING = "finch-"
OF_BUILDS = "finch-build-"

# What the mount is called that goes with the last build.
MOUNT_OF_BUILDS = "finch-builds"

GREETING = "this is a foreign program"

# What an administrator runs where a user's build may not register.
SCRIPT = """\
#!/bin/sh
# Have this machine run {target} programs until its next start.
set -e
test -e {mount}/register || mount -t binfmt_misc binfmt_misc {mount}
printf %s {line} > {mount}/register
"""


@dataclass(frozen=True)
class Entry:
    """What is registered under a name: programs whose first bytes are magic, where mask has bits.

    flags are binfmt_misc's letters; is_enabled is false for one that an administrator switched off.
    """

    name: str
    interpreter: str
    flags: str
    magic: bytes
    mask: bytes
    is_enabled: bool = True

    @classmethod
    def parse(cls, name: str, text: str) -> Entry | None:
        """The entry that a file of binfmt_misc describes; None for one that goes by file names."""
        lines = text.splitlines()
        fields = dict(line.split(" ", 1) for line in lines if " " in line)
        if "magic" not in fields or fields.get("offset", "0") != "0":
            return None
        flags = next((line for line in lines if line.startswith("flags:")), "")
        magic = bytes.fromhex(fields["magic"])
        mask = bytes.fromhex(fields["mask"]) if "mask" in fields else b"\xff" * len(magic)
        flags = flags.removeprefix("flags:").strip()
        return cls(name, fields["interpreter"], flags, magic, mask, lines[0] == "enabled")

    def takes(self, target: Target) -> bool:
        """Whether programs of target are handed to it."""
        return self.is_enabled and all(
            have & mask == want & mask
            for have, want, mask in zip(target.magic, self.magic, self.mask, strict=False)
        )

    @property
    def removal(self) -> str:
        """The command by which an administrator removes it."""
        return _removal(MOUNT / self.name)

    @property
    def is_of_builds(self) -> bool:
        """Whether it goes with the last of the builds that use it."""
        return self.name.startswith(OF_BUILDS)


def _removal(path: Path) -> str:
    return f"sudo sh -c 'echo -1 > {path}'"


def entries(folder: Path = MOUNT) -> list[Entry]:
    """What is registered, in folder (none where binfmt_misc is not mounted), the newest first.

    That is the order in which the kernel lists them (dcache_readdir() in fs/libfs.c). The time of
    an entry's file does not tell: `echo 1 >` changes it.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in ("register", "status"):
            continue
        with contextlib.suppress(OSError):  # gone meanwhile
            found.append(Entry.parse(path.name, path.read_text()))
    return [entry for entry in found if entry]


def find(target: Target, folder: Path = MOUNT) -> Entry | None:
    """The entry that programs of target are handed to, the newest (list_add() in binfmt_misc.c)."""
    return next((entry for entry in entries(folder) if entry.takes(target)), None)


def _lasting(target: Target) -> Entry | None:
    """The entry that they are handed to once no build runs."""
    found = (entry for entry in entries() if not entry.is_of_builds and entry.takes(target))
    return next(found, None)


def emulated_here(root: Path, work: Path) -> list[str]:
    """The names of the foreign architectures whose programs run here, in chroots too.

    Raises MachineError, with what mends it, where the others' would not in a build by root either.
    """
    _require_execution(work)
    targets = Table.read(root / TABLE).targets
    foreign = [arch for arch in ARCHES if not arch.is_native]
    return [arch.name for arch in foreign if _runs(arch, find(targets[arch.name]), work)]


def _runs(arch: Arch, entry: Entry | None, work: Path) -> bool:
    """Whether programs of arch run. Raises MachineError where no build could register for them."""
    if entry:
        _use(arch, entry, work, lambda _: None)
        return True
    if not _refusal(arch, work):
        return True
    if not has_kernel_support():
        raise _unsupported()
    return False


def complaint(arch: Arch, entry: Entry | None, work: Path) -> str:
    """Why a build of arch in work cannot use entry, or what runs without a visible one.

    "" if it can.
    """
    if entry and "F" not in entry.flags:
        return (
            f"{arch} programs are handed to {entry.interpreter} (entry {entry.name}) without the "
            "flag F, so that none runs where that file is not: in no image"
        )
    if refusal := _refusal(arch, work):
        who = f"{entry.interpreter} (entry {entry.name})" if entry else "the kernel"
        return f"{who} does not run {arch} programs: {refusal}"
    return ""


@contextlib.contextmanager
def emulated(
    arch: Arch,
    root: Path,
    work: Path,
    *,
    may_register: bool = True,
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> Iterator[None]:
    """Run programs of arch in the with block, also in chroots and containers.

    Nothing is done on a machine of that architecture. An emulator that is registered already, by
    whomever, is used; else ours is until the last of our builds has ended. root is the checkout,
    work where emulators are kept. Raises MachineError, with the command that mends it, where none
    can be registered or the one that is does not do.
    """
    if arch.is_native:
        yield
        return
    _require_execution(work)
    target = Table.read(root / TABLE).targets[arch.name]
    entry = find(target)
    ours = f"{OF_BUILDS}{target.name}"
    if (entry and entry.name != ours) or (not entry and not _refusal(arch, work)):
        _use(arch, entry, work, say)
        yield
        return
    own = emulators.obtain(root, work, native(), offline=offline, say=say)
    registrar = _Registrar(target, own)
    if not may_register:
        raise registrar.forbidden(
            f"{_lack(arch, target, work)}, and --no-binfmt forbids to change that"
        )
    with registrar.shared(ours, say):
        _use(arch, find(target), work, say)
        yield


def require(arch: Arch, root: Path, work: Path) -> None:
    """Raise MachineError, with what mends it, unless programs of arch run here and in chroots."""
    if arch.is_native:
        return
    _require_execution(work)
    target = Table.read(root / TABLE).targets[arch.name]
    entry = _lasting(target)
    if not entry and (lack := _lack(arch, target, work)):
        own = emulators.obtain(root, work, native())
        raise _Registrar(target, own).forbidden(lack)
    _use(arch, entry, work, lambda _: None)


def _lack(arch: Arch, target: Target, work: Path) -> str:
    """Why programs of arch do not run here for as long as one likes; "" if they do."""
    if entry := find(target):
        return f"this machine runs {arch} programs only until another build ends ({entry.name})"
    if refusal := _refusal(arch, work):
        return f"this machine does not run {arch} programs: {refusal}"
    return ""


def _require_execution(work: Path) -> None:
    """Raise MachineError where nothing that is registered runs programs in work, or anywhere."""
    if os.statvfs(nearest(work)).f_flag & os.ST_NOEXEC:
        raise MachineError(
            f"{work} is on a file system mounted noexec, where no program runs",
            hint="name a folder on another: -- --work FOLDER",
        )
    status = MOUNT / "status"
    if status.exists() and status.read_text().strip() == "disabled":
        raise MachineError(
            "binfmt_misc, which hands foreign programs to an emulator, is switched off",
            hint=f"sudo sh -c 'echo 1 > {status}'",
        )


def _use(arch: Arch, entry: Entry | None, work: Path, say: Callable[[str], None]) -> None:
    """Say whose emulator is used. Raises MachineError where it will not do."""
    if problem := complaint(arch, entry, work):
        hint = f"{entry.removal}, after which a build by root registers its own" if entry else ""
        raise MachineError(problem, hint=hint)
    if entry and not entry.name.startswith(LASTING):
        say(
            f"{arch} programs are run by {entry.interpreter}, registered by others as "
            f"{entry.name}; to do without: {entry.removal}"
        )


def _refusal(arch: Arch, work: Path) -> str:
    """Why no program of arch runs in work ("" if one does)."""
    near = nearest(work)
    # The doctor's user need not be the one who builds.
    scratch = near if os.access(near, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="finch-", dir=scratch) as folder:
        program = Path(folder) / "program"
        program.write_bytes(elf.says(arch, GREETING))
        program.chmod(0o755)
        try:
            printed = run([program]).stdout
        except CommandError as error:
            return error.output.strip() or str(error)
        except OSError as error:
            return error.strerror or str(error)
    return "" if printed == GREETING else f"it printed {printed!r}"


@dataclass(frozen=True)
class _Registrar:
    """Registers the emulator of target, one of own, which run on this machine."""

    target: Target
    own: Emulators

    def line(self, name: str) -> str:
        """What registers it under name. Raises HarnessError where the emulator is corrupt."""
        interpreter = os.fspath(self.own.program(self.target))
        return self.target.entry(name, interpreter, self.own.table.flags)

    def forbidden(self, message: str) -> MachineError:
        """The error of a user who may not, with the command for who may."""
        script = self.own.folder / f"register-{self.target.name}.sh"
        line = shlex.quote(self.line(f"{LASTING}{self.target.name}"))
        script.write_text(SCRIPT.format(target=self.target.name, mount=MOUNT, line=line))
        return MachineError(
            message,
            hint="an administrator runs, once after each start of the machine: "
            f"sudo sh {shlex.quote(os.fspath(script))}",
        )

    def register(self, name: str) -> None:
        """Register it under name. Raises MachineError where that is refused."""
        line = self.line(name)
        try:
            _write(MOUNT / "register", line)
        except (FileExistsError, FileNotFoundError):
            return  # done by another build just now, or unmounted
        except OSError as error:
            raise self.forbidden(
                f"an emulator of {self.target.name} programs cannot be registered: {error.strerror}"
            ) from error

    @contextlib.contextmanager
    def shared(self, name: str, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the entry called name, registered if need be; the last who holds it removes it.

        So it is with the mount of binfmt_misc, if it is a build's. The lock is on the entry itself,
        which all containers of a machine see alike. Raises MachineError where there is no
        binfmt_misc or this user may not.
        """
        path = MOUNT / name
        descriptor = self._hold(path)
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(descriptor, path, say)
            os.close(descriptor)
            if _mounted_from() == MOUNT_OF_BUILDS and not entries():
                run(["umount", MOUNT], check=False)  # busy: a build that began meanwhile uses it

    def _hold(self, path: Path) -> int:
        """A descriptor of the entry at path, with a lock that others may share."""
        while True:
            if not _mounted_from():
                self.mount(MOUNT_OF_BUILDS)
            if not path.exists():
                self.register(path.name)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # the last of its users has just removed it
                continue
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)

    def mount(self, source: str) -> None:
        """Mount binfmt_misc, as source. Raises MachineError where there is none or one may not."""
        try:
            run(["mount", "-t", "binfmt_misc", source, MOUNT])
        except CommandError as error:
            if _mounted_from():
                return  # done by another build just now
            if not has_kernel_support():
                raise _unsupported() from error
            cause = error.output.strip().partition("\n")[0]
            raise self.forbidden(f"binfmt_misc cannot be mounted: {cause}") from error


def _unsupported() -> MachineError:
    return MachineError(
        "this kernel has no binfmt_misc, which hands foreign programs to an emulator",
        hint="sudo modprobe binfmt_misc, if it is a module; else build on a machine of "
        "the architecture",
    )


def _mounted_from() -> str:
    """What binfmt_misc was mounted as, which is a mere name; "" where it is not mounted."""
    if not (MOUNT / "register").exists():  # to look makes systemd's automount mount it
        return ""
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    # proc_pid_mountinfo(5): the mount point is the fifth field, the source the last but one.
    found = [fields[-2] for fields in mounts if fields[4] == os.fspath(MOUNT)]
    return found[-1] if found else "proc"


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file of descriptor is the one at path, not an earlier one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write(path: Path, text: str) -> None:
    """Write text to a file of binfmt_misc, which opening must not make where none is mounted."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _remove(descriptor: int, path: Path, say: Callable[[str], None]) -> None:
    """Take back the entry of descriptor, once at path, and no newer one; say where that is refused.

    So it is to a user's build that outlasts one by root.
    """
    try:
        _write(Path(f"/proc/self/fd/{descriptor}"), "-1")
    except OSError as error:
        say(f"{path.name} stays registered ({error.strerror}); to do without: {_removal(path)}")


def has_kernel_support(filesystems: Path = Path("/proc/filesystems")) -> bool:
    """Whether this kernel has binfmt_misc, or a module of it that mounting will load."""
    if "binfmt_misc" in filesystems.read_text().split():
        return True
    with contextlib.suppress(FileNotFoundError):
        return not run(["modprobe", "--dry-run", "binfmt_misc"], check=False).returncode
    return False


def setup(arch: Arch, root: Path, work: Path, *, say: Callable[[str], None] = print) -> None:
    """Register the emulator of arch until `teardown` or the next boot.

    One that works is left as it is. Raises MachineError as `emulated` does.
    """
    _require_execution(work)
    own = emulators.obtain(root, work, native(), say=say)
    target = own.table.targets[arch.name]
    registrar = _Registrar(target, own)
    if not (MOUNT / "register").exists():
        registrar.mount("binfmt_misc")
    if entry := _lasting(target):
        _use(arch, entry, work, say)
        say(f"{arch} programs run: {entry.name} is registered")
        return
    registrar.register(f"{LASTING}{target.name}")
    entry = Entry.parse(target.name, (MOUNT / f"{LASTING}{target.name}").read_text())
    if problem := complaint(arch, entry, work):
        raise HarnessError(problem)
    say(f"{arch} programs run: {LASTING}{target.name} is registered")


def teardown(arch: Arch, *, say: Callable[[str], None] = print) -> None:
    """Take back what `setup` registered, and nothing else."""
    path = MOUNT / f"{LASTING}{arch.name}"
    if not path.exists():
        say(f"{path.name} is not registered")
        return
    try:
        path.write_text("-1")
    except OSError as error:
        raise MachineError(
            f"{path.name} cannot be removed: {error.strerror}",
            hint=_removal(path),
        ) from error
    say(f"{path.name} is not registered any more")
