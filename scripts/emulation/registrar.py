"""Registering an emulator with binfmt_misc, for a while or for good, and removing it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.emulation.emulators import Emulated, Emulators
from scripts.emulation.entries import LASTING, MOUNT, registered, removal
from scripts.system.errors import MachineError
from scripts.system.process import CommandError, run
from scripts.system.progress import Progress

# The source of our mount, a mere name. A mount of that name is unmounted by the last build.
MOUNT_OF_BUILDS = "finch-builds"

# The kernel hands argv[0] over (P), and opens the emulator at once (F), so that it is there in a
# chroot. Without C, a setuid program is emulated with the rights of its caller. With C it would get
# those of its owner, and so would QEMU, which obeys its caller's environment: QEMU_LOG_FILENAME
# writes anywhere, QEMU_LD_PREFIX loads anything.
FLAGS = "PF"

# What an administrator runs if a user's build may not register anything.
SCRIPT = """\
#!/bin/sh
# Have this machine run {name} programs until its next start.
set -e
test -e {mount}/register || mount -t binfmt_misc binfmt_misc {mount}
printf %s {line} > {mount}/register
"""


@dataclass(frozen=True)
class Registrar:
    """Registers the emulator for one architecture.

    emulated is that architecture; own are the emulators that run on this machine.
    """

    emulated: Emulated
    own: Emulators

    def line(self, name: str) -> str:
        """Return the line that registers the emulator as name.

        Raises HarnessError if the emulator is damaged.
        """
        interpreter = os.fspath(self.own.program(self.emulated))
        return self.emulated.registration(name, interpreter, FLAGS)

    def forbidden(self, message: str) -> MachineError:
        """Return an error with message, whose hint is a command for an administrator."""
        script = self.own.folder / f"register-{self.emulated.name}.sh"
        line = shlex.quote(self.line(f"{LASTING}{self.emulated.name}"))
        script.write_text(SCRIPT.format(name=self.emulated.name, mount=MOUNT, line=line))
        return MachineError(
            message,
            hint="have an administrator run this once after each start of the machine: "
            f"sudo sh {shlex.quote(os.fspath(script))}",
        )

    def register(self, name: str) -> None:
        """Register the emulator as name. Raises MachineError if the kernel refuses it.

        Nothing happens if another build has just done so, or unmounted binfmt_misc.
        """
        line = self.line(name)
        try:
            _write(MOUNT / "register", line)
        except (FileExistsError, FileNotFoundError):
            return
        except OSError as error:
            raise self.forbidden(
                f"the emulator for {self.emulated.name} programs cannot be registered: "
                f"{error.strerror}"
            ) from error

    @contextlib.contextmanager
    def shared(self, name: str, progress: Progress) -> Iterator[None]:
        """Keep the entry name registered in the with block, together with other builds.

        The last build to leave removes the entry, and unmounts binfmt_misc if a build mounted it.
        The lock that counts the builds is on the entry itself, which all containers of a machine
        see alike. Raises MachineError if this kernel has no binfmt_misc, or this user may not
        register anything.
        """
        path = MOUNT / name
        descriptor = self._hold(path)
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):  # another build still uses it
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(descriptor, path, progress)
            os.close(descriptor)
            if mounted_from() == MOUNT_OF_BUILDS and not registered():
                run(["umount", MOUNT], check=False)  # fails if a build has just begun to use it

    def _hold(self, path: Path) -> int:
        """Return a descriptor of the entry at path, with a lock that other builds can share."""
        while True:
            if not mounted_from():
                self.mount(MOUNT_OF_BUILDS)
            if not path.exists():
                self.register(path.name)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # its last user has just removed it
                continue
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)

    def mount(self, source: str) -> None:
        """Mount binfmt_misc, with source as its name.

        Raises MachineError if this kernel has none, or this user may not mount it.
        """
        try:
            run(["mount", "-t", "binfmt_misc", source, MOUNT])
        except CommandError as error:
            if mounted_from():
                return  # another build has just done so
            if not has_kernel_support():
                raise unsupported() from error
            # mount(8) goes on to say where to read more.
            cause = error.output.strip().partition("\n")[0]
            raise self.forbidden(f"binfmt_misc cannot be mounted: {cause}") from error


def mounted_from() -> str:
    """Return the source that binfmt_misc was mounted from, or "" if it is not mounted."""
    if not (MOUNT / "register").exists():  # looking makes systemd's automount mount it
        return ""
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    # proc_pid_mountinfo(5): the mount point is the fifth field, the source the last but one.
    found = [fields[-2] for fields in mounts if fields[4] == os.fspath(MOUNT)]
    return found[-1] if found else "proc"


def has_kernel_support(filesystems: Path = Path("/proc/filesystems")) -> bool:
    """Whether this kernel has binfmt_misc, or a module of it that mounting will load."""
    if "binfmt_misc" in filesystems.read_text().split():
        return True
    with contextlib.suppress(FileNotFoundError):
        return not run(["modprobe", "--dry-run", "binfmt_misc"], check=False).returncode
    return False


def unsupported() -> MachineError:
    """Return the error for a kernel without binfmt_misc."""
    return MachineError(
        "this kernel has no binfmt_misc, which hands foreign programs to an emulator",
        hint="sudo modprobe binfmt_misc, if it is a module; otherwise build on a machine of "
        "that architecture",
    )


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether descriptor is the file at path now, not an earlier one of the same name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write(path: Path, text: str) -> None:
    """Write text to a file of binfmt_misc, without creating it if none is mounted."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _remove(descriptor: int, path: Path, progress: Progress) -> None:
    """Remove the entry of descriptor, but no newer one at path.

    If the kernel refuses, which happens to a user's build that outlasts one by root, say so.
    """
    try:
        _write(Path(f"/proc/self/fd/{descriptor}"), "-1")
    except OSError as error:
        progress.say(
            f"{path.name} stays registered ({error.strerror}); to remove it: {removal(path)}"
        )
