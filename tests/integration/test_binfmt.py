"""Registers emulators in user namespaces, which have their own binfmt_misc since Linux 6.7."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.arch import ARCHES, native
from scripts.emulation import elf, emulators
from scripts.emulation.emulators import Emulators
from scripts.mkosi import source
from scripts.system.progress import Progress
from tests.integration import namespaces

FOREIGN = next(arch for arch in ARCHES if not arch.is_native)

MOUNT = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc"

MOUNTED = f'{MOUNT} && exec "$@"'

# Once a namespace has its own mount, it no longer sees the machine's registrations.
NOT_MOUNTED = f'{MOUNT} && mount -t tmpfs none /proc/sys/fs/binfmt_misc && exec "$@"'

NOEXEC = """
folder = Path("{0}") / "noexec"
folder.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "none", folder], check=True)
"""

FORBIDDEN = NOT_MOUNTED.replace('"$@"', 'setpriv --bounding-set -sys_admin -- "$@"')

WITHOUT = (
    "grep -v binfmt_misc /proc/filesystems > {0} && mount --bind {0} /proc/filesystems && "
    f"{FORBIDDEN}"
)

# Defines helpers for scripts, such as what is registered and what a foreign program prints.
PRELUDE = f"""
import os, subprocess, sys
from pathlib import Path
from scripts import arch
from scripts.system import errors
from scripts.emulation import binfmt, entries
from scripts.emulation.emulators import TABLE, EmulationTable
from scripts.system.progress import Progress
root, work, program = Path(sys.argv[1]), Path(sys.argv[1]) / ".work", sys.argv[2]
FOREIGN = arch.parse("{FOREIGN}")
quiet = Progress()  # which goes to stderr
ours = Path("/proc/sys/fs/binfmt_misc/finch-build-{FOREIGN}")

class Aloud(Progress):
    def say(self, text):
        print(text)

def names():
    return sorted(path.name for path in entries.MOUNT.glob("[!rs]*"))

def runs():
    try:
        return subprocess.run([program], capture_output=True, text=True).stdout
    except OSError as error:
        return error.strerror

def table():
    return EmulationTable.read(root / TABLE).emulated[FOREIGN.name]

def register(name, interpreter, flags):
    (entries.MOUNT / "register").write_text(table().registration(name, str(interpreter), flags))

def emulated(progress=Aloud(), **options):
    return binfmt.emulated(FOREIGN, root, work, progress, **options)

def refused(kind, **options):
    try:
        with emulated(**options):
            print("built")
    except kind as error:
        print(error.message)
        print(error.hint)
"""

Run = Callable[..., list[str]]


@pytest.fixture(scope="module", autouse=True)
def kernel() -> None:
    namespaces.require(
        MOUNT, "it takes user namespaces with a binfmt_misc of their own, as Linux has since 6.7"
    )


@pytest.fixture(scope="module")
def own(checkout: Path) -> Emulators:
    return emulators.download(checkout, checkout / ".work", native(), Progress())


@pytest.fixture
def run(checkout: Path, own: Emulators, tmp_path: Path) -> Run:
    """Runs Python code in a new namespace, and returns the lines that it prints."""
    program = tmp_path / "program"
    program.write_bytes(elf.says(FOREIGN, "foreign"))
    program.chmod(0o755)

    def in_namespace(code: str, *, prepare: str = MOUNTED) -> list[str]:
        python: list[str | Path] = [
            sys.executable,
            "-c",
            PRELUDE + code,
            checkout,
            program,
            own.folder,
        ]
        shell = ["sh", "-c", prepare, "sh"]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*namespaces.COMMAND, *shell, *python],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.returncode, done.stderr
        return done.stdout.splitlines()

    return in_namespace


def test_foreign_programs_run_while_a_build_does_and_not_after_it(run: Run) -> None:
    assert run("""
print(runs())
with emulated():
    print(runs(), names())
print(runs(), names())
""") == ["Exec format error", f"foreign ['finch-build-{FOREIGN}']", "Exec format error []"]


def test_they_run_in_a_chroot_that_has_no_emulator(run: Run, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    lines = run(f"""
import shutil
shutil.copy(program, "{tmp_path}/root/program")
with emulated():
    print(subprocess.run(["chroot", "{tmp_path}/root", "/program"], capture_output=True).stdout)
""")

    assert lines == ["b'foreign'"]


# The first of two builds ends while the second one still runs.
OVERLAPPING = """
first, second = emulated(), emulated()
first.__enter__()
second.__enter__()
first.__exit__(None, None, None)
print(runs())
second.__exit__(None, None, None)
"""


def test_they_run_where_a_build_is_isolated(checkout: Path, run: Run, tmp_path: Path) -> None:
    sandbox = source.obtain(checkout / "mkosi", checkout / ".work", Progress()).sandbox
    lines = run(f"""
from scripts.mkosi.confinement import Confinement
confinement = Confinement(Path("{sandbox}"), read=[Path("{tmp_path}")])
with emulated():
    command = confinement.command([program])
    print(subprocess.run(command, capture_output=True, text=True))
""")

    assert "stdout='foreign'" in lines[0]


def test_of_two_builds_the_last_one_takes_the_emulator_away(run: Run) -> None:
    assert run(f"{OVERLAPPING}print(runs())") == ["foreign", "Exec format error"]


def test_what_a_killed_build_left_is_used_and_then_taken_away(run: Run) -> None:
    assert run("""
child = os.fork()
if not child:
    kept = emulated()
    kept.__enter__()
    os._exit(1)
os.waitpid(child, 0)
print(names())
with emulated():
    print(runs())
print(names())
""") == [f"['finch-build-{FOREIGN}']", "foreign", "[]"]


def test_binfmt_misc_is_mounted_for_a_build_where_it_was_not(run: Run) -> None:
    assert run(
        """
with emulated():
    print(runs())
print((entries.MOUNT / "register").exists())
""",
        prepare=NOT_MOUNTED,
    ) == ["foreign", "False"]


def test_of_two_builds_the_last_one_unmounts_binfmt_misc(run: Run) -> None:
    is_mounted = 'print((entries.MOUNT / "register").exists())'
    assert run(f"{OVERLAPPING}{is_mounted}", prepare=NOT_MOUNTED) == ["foreign", "False"]


def test_two_builds_that_start_together_both_have_the_emulator(run: Run) -> None:
    lines = run(
        """
import multiprocessing
context = multiprocessing.get_context("fork")
ready, done = context.Barrier(2), context.Barrier(2)

def build(found):
    ready.wait()
    try:
        with emulated():
            found.put(runs())
            done.wait()
    except errors.MachineError as error:
        found.put(error.message)
        done.wait()

for _ in range(8):
    found = context.SimpleQueue()
    builds = [context.Process(target=build, args=(found,)) for _ in range(2)]
    for process in builds:
        process.start()
    print(found.get(), found.get())
    for process in builds:
        process.join()
""",
        prepare=NOT_MOUNTED,
    )

    assert lines == ["foreign foreign"] * 8


def test_a_build_holds_the_entry_that_is_there_not_one_that_was_removed_meanwhile(run: Run) -> None:
    assert run(f"""
import fcntl, time
emulator = Path(sys.argv[3]) / "qemu-{FOREIGN}"
register(ours.name, emulator, "F")
removed = os.open(ours, os.O_RDONLY)
fcntl.flock(removed, fcntl.LOCK_EX)
reader, writer = os.pipe()
child = os.fork()
if not child:
    with emulated():
        os.write(writer, b"began")
        time.sleep(60)
while f" {{child}} " not in Path("/proc/locks").read_text():
    time.sleep(0.01)
ours.write_text("-1")
register(ours.name, emulator, "F")
fcntl.flock(removed, fcntl.LOCK_UN)
os.read(reader, 5)
try:
    fcntl.flock(os.open(ours, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("held")
os.kill(child, 9)
os.waitpid(child, 0)
""") == ["held"]


def test_binfmt_misc_that_others_have_mounted_stays(run: Run) -> None:
    assert run("""
with emulated():
    pass
print((entries.MOUNT / "register").exists())
""") == ["True"]


def test_a_registration_by_others_is_used_and_left_alone_and_said(run: Run) -> None:
    lines = run(f"""
register("theirs", Path(sys.argv[3]) / "qemu-{FOREIGN}", "F")
with emulated(may_register=False):
    print(runs(), names())
print(names())
""")

    assert "someone else registered it as theirs. To remove it: sudo sh -c 'echo -1 > " in lines[0]
    assert lines[1:] == ["foreign ['theirs']", "['theirs']"]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_two_entries_the_one_registered_last_is_found_as_the_kernel_does(
    run: Run, names: tuple[str, str]
) -> None:
    older, newer = names
    lines = run(f"""
register("{older}", Path(sys.argv[3]) / "qemu-{FOREIGN}", "F")
register("{newer}", "/bin/true", "F")
(entries.MOUNT / "{older}").write_text("0")  # which changes the time of its file
(entries.MOUNT / "{older}").write_text("1")
print(repr(runs()))
print(entries.find(table()).name)
""")

    assert lines == ["''", newer]


@pytest.mark.parametrize(
    ("interpreter", "flags", "problem"),
    [
        (f"/usr/bin/qemu-{FOREIGN}-static", "OC", "without the flag F"),
        ("/bin/true", "F", "/bin/true (entry theirs) does not run"),
    ],
)
def test_a_registration_that_will_not_do_is_refused_with_its_removal(
    run: Run, interpreter: str, flags: str, problem: str
) -> None:
    lines = run(f"""
register("theirs", "{interpreter}", "{flags}")
refused(errors.MachineError)
print(names())
""")

    assert problem in lines[0]
    assert "sudo sh -c 'echo -1 > /proc/sys/fs/binfmt_misc/theirs'" in lines[1]
    assert lines[2] == "['theirs']"


def test_where_temporary_files_may_not_execute_a_registration_by_others_is_used(
    run: Run, tmp_path: Path
) -> None:
    assert run(
        NOEXEC.format(tmp_path)
        + f"""
import tempfile
tempfile.tempdir = str(folder)
register("theirs", Path(sys.argv[3]) / "qemu-{FOREIGN}", "F")
with emulated(quiet):
    print(runs())
"""
    ) == ["foreign"]


def test_a_work_folder_that_may_not_execute_is_called_that_before_anything_is_done(
    run: Run, tmp_path: Path
) -> None:
    message, hint, registered = run(
        NOEXEC.format(tmp_path)
        + f"""
register("theirs", Path(sys.argv[3]) / "qemu-{FOREIGN}", "F")
work = folder / "work"
refused(errors.MachineError)
print(names(), list(folder.iterdir()))
"""
    )

    assert message.endswith("/work is on a file system mounted noexec, where no program can run")
    assert hint.endswith("-- --work FOLDER")
    assert registered == "['theirs'] []"


def test_binfmt_misc_that_is_switched_off_is_called_that_with_the_command_that_mends_it(
    run: Run,
) -> None:
    message, hint, found = run(f"""
register("theirs", Path(sys.argv[3]) / "qemu-{FOREIGN}", "F")
(entries.MOUNT / "status").write_text("0")
refused(errors.MachineError)
subprocess.run(["sh", "-c", "echo 1 > /proc/sys/fs/binfmt_misc/status"], check=True)
with emulated(quiet):
    print(runs())
""")

    assert "switched off" in message
    assert hint == "sudo sh -c 'echo 1 > /proc/sys/fs/binfmt_misc/status'"
    assert found == "foreign"


def test_doctor_says_what_stops_even_a_build_by_root(run: Run) -> None:
    lines = run("""
from scripts.doctor import doctor, machine
def look():
    found = doctor.binfmt(machine.look_closely(work, os.environ))
    print(found.ok, found.found, found.mend, sep="|")
look()
register("theirs", "/bin/true", "")
look()
(entries.MOUNT / "status").write_text("0")
look()
""")

    assert lines[0].startswith(
        f"True|runs no programs of {FOREIGN} yet; a build by root registers an emulator|"
    )
    assert "without the flag F" in lines[1]
    assert lines[1].startswith("False|")
    assert "|sudo sh -c 'echo -1 > /proc/sys/fs/binfmt_misc/theirs'; a build" in lines[1]
    assert lines[2].startswith("False|binfmt_misc, which ")


def test_no_binfmt_leaves_the_machine_alone_and_the_command_that_it_tells_works(run: Run) -> None:
    lines = run("""
try:
    with emulated(may_register=False):
        print("built")
except errors.MachineError as error:
    error_hint = error.hint
    print(error.message)
    print(error.hint)
print(names())
command = error_hint.partition(": sudo ")[2]
subprocess.run(["sh", "-c", command], check=True)
print(runs())
""")

    assert "--no-binfmt" in lines[0]
    assert "have an administrator run this" in lines[1]
    assert lines[2:] == ["[]", "foreign"]


def test_no_binfmt_beside_another_build_says_that_its_emulator_goes_with_it(run: Run) -> None:
    message, hint, *_ = run("""
with emulated():
    refused(errors.MachineError, may_register=False)
""")

    assert f"only until another build ends (finch-build-{FOREIGN}), and --no-binfmt" in message
    assert "have an administrator run this" in hint


REQUIRE = """
def require():
    try:
        binfmt.require(FOREIGN, root, work, quiet)
        print("here")
    except errors.MachineError as error:
        print(error.message)
"""


def test_an_emulator_that_goes_with_a_build_is_none_to_whom_requires_one(run: Run) -> None:
    lines = run(
        REQUIRE
        + """
require()
with emulated():
    require()
"""
    )

    assert "does not run" in lines[0]
    assert "only until another build ends" in lines[1]


def test_an_emulator_that_lasts_is_there_for_whom_requires_one_also_beside_a_build(
    run: Run,
) -> None:
    assert run(
        REQUIRE
        + """
with emulated():
    binfmt.setup(FOREIGN, root, work, quiet)
    require()
"""
    ) == ["here"]


def test_a_build_that_may_not_remove_the_last_entry_says_what_does(run: Run) -> None:
    lines = run(
        """
with emulated():
    ours.chmod(0o444)
print(names())
""",
        prepare=MOUNTED.replace('"$@"', 'setpriv --bounding-set -dac_override -- "$@"'),
    )

    assert lines == [
        f"finch-build-{FOREIGN} stays registered (Permission denied); to remove it: "
        f"sudo sh -c 'echo -1 > /proc/sys/fs/binfmt_misc/finch-build-{FOREIGN}'",
        f"['finch-build-{FOREIGN}']",
    ]


def test_a_build_leaves_an_entry_that_was_registered_anew_while_it_ran(run: Run) -> None:
    assert run(f"""
with emulated():
    ours.write_text("-1")
    register(ours.name, Path(sys.argv[3]) / "qemu-{FOREIGN}", "F")
print(names())
""") == [f"['finch-build-{FOREIGN}']"]


def test_who_may_not_register_is_told_what_an_administrator_runs(run: Run) -> None:
    lines = run("""
subprocess.run(["mount", "-o", "remount,ro", "binfmt_misc", str(entries.MOUNT)], check=True)
refused(errors.MachineError)
""")

    assert "cannot be registered: Read-only file system" in lines[0]
    assert (
        "have an administrator run this once after each start of the machine: sudo sh " in lines[1]
    )


BUILD = """
os.environ["PATH"] = "/usr/bin:/bin"  # without modprobe, which tests of the kernel at hand
refused(errors.MachineError)
"""


def test_who_may_not_mount_binfmt_misc_is_told_what_an_administrator_runs(run: Run) -> None:
    message, hint = run(BUILD, prepare=FORBIDDEN)

    assert message.startswith("binfmt_misc cannot be mounted: mount: ")
    assert "have an administrator run this once after each start of the machine: sudo sh " in hint


def test_a_kernel_without_binfmt_misc_is_called_that(run: Run, tmp_path: Path) -> None:
    filesystems = tmp_path / "filesystems"

    message, hint = run(BUILD, prepare=WITHOUT.format(filesystems))

    assert message.startswith("this kernel has no binfmt_misc")
    assert hint.startswith("sudo modprobe binfmt_misc, if it is a module")


def test_a_corrupt_emulator_is_not_registered(run: Run, tmp_path: Path) -> None:
    lines = run(f"""
import shutil
work = Path("{tmp_path}") / "work"
folder = work / "emulators" / Path(sys.argv[3]).name
shutil.copytree(sys.argv[3], folder)
with (folder / "qemu-{FOREIGN}").open("r+b") as file:
    file.seek(1 << 20)
    file.write(b"not QEMU")
refused(errors.HarnessError)
print(names())
""")

    assert "is not the one that was downloaded" in lines[0]
    assert lines[1].startswith("rm -r ")
    assert lines[2] == "[]"


def test_setup_lasts_and_teardown_takes_away_that_only(run: Run) -> None:
    assert run("""
binfmt.setup(FOREIGN, root, work, quiet)
binfmt.setup(FOREIGN, root, work, quiet)
with emulated(may_register=False):
    print(runs(), names())
print(names())
register("theirs", "/bin/true", "")
binfmt.teardown(FOREIGN, quiet)
print(names())
binfmt.teardown(FOREIGN, Aloud())
""") == [
        f"foreign ['finch-{FOREIGN}']",
        f"['finch-{FOREIGN}']",
        "['theirs']",
        f"finch-{FOREIGN} is not registered",
    ]


def test_an_entry_with_which_an_earlier_version_gave_rights_away_is_replaced(run: Run) -> None:
    assert run(f"""
register("finch-{FOREIGN}", f"{{sys.argv[3]}}/qemu-{FOREIGN}", "PCF")
binfmt.setup(FOREIGN, root, work, quiet)
print(runs(), names(), entries.find(table()).flags)
""") == [f"foreign ['finch-{FOREIGN}'] PF"]


# A user runs a foreign setuid program of root, and tells QEMU to log to a file.
SETUID = """
from scripts.emulation.registrar import Registrar
from scripts.mkosi import namespaces
namespaces.map_everyone()
subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", entries.MOUNT], check=True)
own = emulators.download(root, work, arch.native(), quiet)
line = Registrar(table(), own).line("attacked")
(entries.MOUNT / "register").write_text(line if sys.argv[4] == "ours" else line + "C")
folder = Path(program).parent
(folder / "private").mkdir(mode=0o700)
Path(program).chmod(0o4755)
folder.chmod(0o755)
variables = {**os.environ, "QEMU_LOG": "page", "QEMU_LOG_FILENAME": str(folder / "private/log")}
user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program]
subprocess.run(user, env=variables, capture_output=True)
print((folder / "private/log").exists())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, whose program it is, and another user")
@pytest.mark.parametrize(("flags", "is_written"), [("ours", "False"), ("with C", "True")])
def test_a_setuid_program_under_the_host_s_registration_does_not_make_qemu_root(
    checkout: Path, own: Emulators, flags: str, is_written: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="finch-setuid-") as name:
        program = Path(name, "program")
        program.write_bytes(elf.says(FOREIGN, "foreign"))
        code = PRELUDE + "from scripts.emulation import emulators\n" + SETUID
        done = subprocess.run(
            [sys.executable, "-c", code, checkout, program, own.folder, flags],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.stdout == f"{is_written}\n", done.stderr
