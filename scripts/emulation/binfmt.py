"""Running programs of another architecture on this machine.

Linux hands them to an emulator, here QEMU, that has been registered with its binfmt_misc
(Documentation/admin-guide/binfmt-misc.rst in its sources). A build of another architecture
registers the emulator while it runs; `setup` registers it until `teardown` or the machine's next
start. If a user may do neither, the error contains the one command for an administrator to
run.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts import catalog
from scripts.arch import ARCHES, Arch, native
from scripts.emulation import elf, emulators, entries
from scripts.emulation.emulators import TABLE, Emulated, EmulationTable
from scripts.emulation.entries import LASTING, MOUNT, OF_BUILDS, Entry
from scripts.emulation.registrar import Registrar, has_kernel_support, unsupported
from scripts.system.errors import HarnessError, MachineError
from scripts.system.files import nearest
from scripts.system.process import CommandError, run
from scripts.system.progress import Progress

GREETING = "this is a foreign program"


def emulated_here(root: Path, work: Path) -> list[str]:
    """Return the names of the foreign architectures whose programs run here, in chroots too.

    root is the checkout, work where its builds are kept. An architecture is left out if a build by
    root would register its emulator. Raises MachineError, with a remedy, if even such a build could
    not run its programs.
    """
    _require_execution(work)
    return [arch.name for arch in ARCHES if not arch.is_native and _runs(arch, root, work)]


def _runs(arch: Arch, root: Path, work: Path) -> bool:
    """Whether programs of arch run here. Raises MachineError if no build could run them."""
    entry = entries.find(_emulated(arch, root))
    if entry:
        _require_usable(arch, entry, work)
        return True
    if not _refusal(arch, work):
        return True
    if not has_kernel_support():
        raise unsupported()
    return False


@contextlib.contextmanager
def emulated(
    arch: Arch,
    root: Path,
    work: Path,
    progress: Progress,
    *,
    may_register: bool = True,
    offline: bool = False,
) -> Iterator[None]:
    """Run programs of arch in the with block, in chroots and containers too.

    root is the checkout, work where emulators are kept. Nothing happens if this machine is of that
    architecture. If an emulator is registered already, that one is used; otherwise
    ours is registered until the last build that uses it has ended. Raises MachineError, with the
    command that helps, if none can be registered or the registered one cannot be used.
    """
    if arch.is_native:
        yield
        return
    _require_execution(work)
    wanted = _emulated(arch, root)
    entry = entries.find(wanted)
    ours = f"{OF_BUILDS}{wanted.name}"
    if (entry and entry.name != ours) or (not entry and not _refusal(arch, work)):
        _use(arch, entry, work, progress)
        yield
        return
    own = emulators.download(root, work, native(), progress, offline=offline)
    registrar = Registrar(wanted, own)
    if not may_register:
        raise registrar.forbidden(
            f"{_lack(arch, wanted, work)}, and {catalog.flag('no-binfmt')} forbids changing that"
        )
    with registrar.shared(ours, progress):
        _use(arch, entries.find(wanted), work, progress)
        yield


def require(arch: Arch, root: Path, work: Path, progress: Progress) -> None:
    """Raise MachineError, with a remedy, unless programs of arch run here and keep running.

    An emulator that goes with the last build does not count.
    """
    if arch.is_native:
        return
    _require_execution(work)
    wanted = _emulated(arch, root)
    entry = entries.find_lasting(wanted)
    if not entry and (lack := _lack(arch, wanted, work)):
        own = emulators.download(root, work, native(), progress)
        raise Registrar(wanted, own).forbidden(lack)
    _require_usable(arch, entry, work)


def setup(arch: Arch, root: Path, work: Path, progress: Progress) -> None:
    """Register the emulator for arch until `teardown` or the machine's next start.

    An emulator that works is left as it is. Raises MachineError as `emulated` does.
    """
    _require_execution(work)
    own = emulators.download(root, work, native(), progress)
    wanted = own.table.emulated[arch.name]
    registrar = Registrar(wanted, own)
    if not (MOUNT / "register").exists():
        registrar.mount("binfmt_misc")
    name = f"{LASTING}{wanted.name}"
    entry = entries.find_lasting(wanted)
    if entry and entry.is_ours and "C" in entry.flags:  # by an earlier version of the harness
        teardown(arch, progress)
        entry = entries.find_lasting(wanted)
    if entry:
        _use(arch, entry, work, progress)
        name = entry.name
    else:
        registrar.register(name)
        entry = Entry.parse(name, (MOUNT / name).read_text())
        if problem := complaint(arch, entry, work):
            raise HarnessError(problem)
    progress.say(f"this machine runs {arch} programs: {name} is registered")


def teardown(arch: Arch, progress: Progress) -> None:
    """Remove the entry that `setup` registered for arch, and no other.

    Raises MachineError, with the command that does it, if this user may not.
    """
    path = MOUNT / f"{LASTING}{arch.name}"
    if not path.exists():
        progress.say(f"{path.name} is not registered")
        return
    try:
        path.write_text("-1")
    except OSError as error:
        raise MachineError(
            f"{path.name} cannot be removed: {error.strerror}", hint=entries.removal(path)
        ) from error
    progress.say(f"{path.name} has been removed")


def complaint(arch: Arch, entry: Entry | None, work: Path) -> str:
    """Return why a build of arch in work cannot use entry, or "" if it can.

    Without an entry it is about whatever runs programs of arch without a visible one.
    """
    if entry and "F" not in entry.flags:
        return (
            f"{arch} programs are handed to {entry.interpreter} (entry {entry.name}), registered "
            "without the flag F: the emulator cannot be found inside an image"
        )
    if refusal := _refusal(arch, work):
        who = f"{entry.interpreter} (entry {entry.name})" if entry else "the kernel"
        return f"{who} does not run {arch} programs: {refusal}"
    return ""


def _emulated(arch: Arch, root: Path) -> Emulated:
    """Return how programs of arch are emulated, by the table of the checkout root."""
    return EmulationTable.read(root / TABLE).emulated[arch.name]


def _lack(arch: Arch, wanted: Emulated, work: Path) -> str:
    """Return why programs of arch do not run here for good, or "" if they do."""
    if entry := entries.find(wanted):
        return f"this machine runs {arch} programs only until another build ends ({entry.name})"
    if refusal := _refusal(arch, work):
        return f"this machine does not run {arch} programs: {refusal}"
    return ""


def _require_execution(work: Path) -> None:
    """Raise MachineError if work, or the kernel, keeps every foreign program from running."""
    if os.statvfs(nearest(work)).f_flag & os.ST_NOEXEC:
        raise MachineError(
            f"{work} is on a file system mounted noexec, where no program can run",
            hint=f"choose a folder on another file system: {catalog.option('work')}",
        )
    status = MOUNT / "status"
    if status.exists() and status.read_text().strip() == "disabled":
        raise MachineError(
            "binfmt_misc, which hands foreign programs to an emulator, is switched off",
            hint=f"sudo sh -c 'echo 1 > {status}'",
        )


def _use(arch: Arch, entry: Entry | None, work: Path, progress: Progress) -> None:
    """Say whose emulator is used if it is not ours. Raises MachineError if it cannot be used."""
    _require_usable(arch, entry, work)
    if entry and not entry.is_ours:
        progress.say(
            f"{entry.interpreter} runs {arch} programs; someone else registered it as "
            f"{entry.name}. To remove it: {entry.removal}"
        )


def _require_usable(arch: Arch, entry: Entry | None, work: Path) -> None:
    """Raise MachineError, with a remedy, if entry cannot be used: see `complaint`."""
    if problem := complaint(arch, entry, work):
        hint = f"{entry.removal}; a build by root then registers its own" if entry else ""
        raise MachineError(problem, hint=hint)


def _refusal(arch: Arch, work: Path) -> str:
    """Return why a program of arch does not run in work, or "" if it does."""
    near = nearest(work)
    # Doctor may be run by another user than the build.
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
