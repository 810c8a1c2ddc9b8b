"""Programs in their confinement: what an attack by root in it gets, and how they end."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.mkosi import source
from scripts.mkosi.confinement import Confinement
from scripts.system.progress import Progress
from tests.integration import namespaces

# Whoever has no rights, where the tests run as root.
NOBODY = 65534

SECRET = "secret-of-this-machine"

# Becomes a shell script in a confinement; the arguments are options of it and the script, in JSON.
BECOME = """\
import json, os, sys
from pathlib import Path
from scripts.mkosi.confinement import Confinement
from scripts.system import process
sandbox, read, write, temporary, options, script = json.loads(sys.argv[1])
cell = Confinement(Path(sandbox), read=[Path(read)], write=[Path(write)],
                   temporary=Path(temporary), **options)
command = cell.command(["sh", "-c", script])
os.execve(command[0], command, process.environment())
"""


@pytest.fixture(scope="module", autouse=True)
def kernel() -> None:
    namespaces.require("true", "it takes user namespaces")


@dataclass(frozen=True)
class Cell:
    """A folder, and the user and Python that start scripts in a confinement from there.

    Scripts may read its folder read, and write to its folder written.
    """

    folder: Path
    user: int
    python: str

    def start(
        self, script: str, env: Mapping[str, str] | None = None, **options: bool
    ) -> subprocess.Popen[str]:
        """Start script in a confinement with options; env is added to the environment."""
        names = ("sandbox.py", "read", "written", "temporary")
        told = json.dumps([*(os.fspath(self.folder / name) for name in names), options, script])
        become = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        return subprocess.Popen(
            [*(become if self.user != os.geteuid() else []), self.python, "-c", BECOME, told],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.fspath(self.folder), **(env or {})},
            start_new_session=True,
        )

    def run(self, script: str, env: Mapping[str, str] | None = None, **options: bool) -> str:
        """Run script as `start` does, and return what it prints."""
        return self.start(script, env, **options).communicate(timeout=60)[0]

    def secret(self, name: str = "secret") -> Path:
        """Make a file that only the user who runs the scripts may read."""
        path = self.folder / name
        path.write_text(SECRET)
        os.chown(path, self.user, self.user)
        path.chmod(0o600)
        return path


@pytest.fixture(params=["root", "user"])
def cell(request: pytest.FixtureRequest, checkout: Path) -> Iterator[Cell]:
    """Where root or another user starts scripts in a confinement."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("root starts these programs: run the tests as root")
    user, python = os.geteuid(), sys.executable
    if request.param == "user" and os.geteuid() == 0:
        user, python = NOBODY, shutil.which("python3", path="/usr/bin") or sys.executable
    sandbox = source.obtain(checkout / "mkosi", checkout / ".work", Progress()).sandbox
    with tempfile.TemporaryDirectory(prefix="finch-cell-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(sandbox, folder)
        shutil.copytree(checkout / "scripts", folder / "scripts")
        for part in ("read", "written", "temporary"):
            (folder / part).mkdir()
            os.chown(folder / part, user, user)
        yield Cell(folder, user, python)


def test_it_reads_and_writes_what_it_is_given(cell: Cell) -> None:
    (cell.folder / "read/file").write_text("given")
    printed = cell.run(
        f"cat {cell.folder}/read/file && echo made > {cell.folder}/written/file && echo > /tmp/x"
    )

    assert printed == "given"
    assert (cell.folder / "written/file").read_text() == "made\n"
    assert (cell.folder / "written/file").stat().st_uid == cell.user


def test_it_reads_no_variable_but_the_allowed_ones_in_any_process(cell: Cell) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": SECRET, "GITHUB_TOKEN": SECRET, "LD_PRELOAD_": SECRET}
    printed = cell.run("cat /proc/*/environ; env", {**secrets, "FINCH_OUTPUT": "ours"})

    assert "FINCH_OUTPUT=ours" in printed
    assert SECRET not in printed


def test_it_opens_no_file_of_the_user_s_own_that_it_was_not_given(cell: Cell) -> None:
    secret = cell.secret()
    printed = cell.run(f"cat {secret} /proc/*/root{secret} /proc/*/cwd/secret; ls {cell.folder}")

    assert SECRET not in printed
    assert "No such file" in printed
    assert printed.splitlines()[-2:] == ["read", "written"]


def test_it_opens_neither_shadow_nor_private_keys_of_the_host(cell: Cell) -> None:
    printed = cell.run(
        "cat /etc/shadow; ls -A /etc/ssh /etc/ssl/private /home /sys /boot /var/lib /srv"
    )

    assert all(
        "No such file" in line or not line or line == "/home:" for line in printed.splitlines()
    )


# Gives this process a session keyring with a key, and becomes the program in argv.
WITH_KEY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
add, control = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
libc.syscall(control, 1, None)
key = libc.syscall(add, b"user", b"finch-test", sys.argv[1].encode(), len(sys.argv[1]), -3)
os.execvp(sys.argv[2], [*sys.argv[2:-1], sys.argv[-1].replace("@key@", str(key))])
"""

# Reads the key whose number is in argv, and prints it.
READ_KEY = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
control = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
found = libc.syscall(control, 10, -3, b"user", b"finch-test", 0)
for key in (found, int(sys.argv[1])):
    text = ctypes.create_string_buffer(64)
    libc.syscall(control, 11, key, text, 64, 0)
    print("read:", text.value.decode())
"""


def with_key(*command: str) -> str:
    """Run command in a session with a key, whose number stands for @key@ in its last argument."""
    return subprocess.run(
        [sys.executable, "-c", WITH_KEY, SECRET, *command],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def test_it_reads_no_key_of_the_session_of_the_user(checkout: Path) -> None:
    if SECRET not in with_key(sys.executable, "-c", READ_KEY, "@key@"):
        pytest.skip("this kernel keeps no keys")
    sandbox = source.obtain(checkout / "mkosi", checkout / ".work", Progress()).sandbox
    attack = [sys.executable, "-c", READ_KEY, "@key@"]
    printed = with_key(*Confinement(sandbox).command(attack))

    assert printed == "read: \nread: \n"


def test_it_writes_nothing_to_what_it_may_only_read(cell: Cell) -> None:
    read = cell.folder / "read"
    cell.run(f"""
        mount -o remount,bind,rw {read}; umount {read}; umount --lazy {read}
        for root in "" /proc/*/root; do echo planted > $root{read}/planted; done
        unshare --mount sh -c 'mount -o remount,bind,rw {read}; echo planted > {read}/planted'
        unshare --user --map-root-user --mount sh -c \\
            'mount -o remount,bind,rw {read}; echo planted > {read}/planted'
    """)

    assert list(read.iterdir()) == []


def test_it_sees_and_signals_no_process_of_the_host(cell: Cell) -> None:
    printed = cell.run(
        f"ls -d /proc/[0-9]* | wc -l; kill -0 {os.getpid()} && echo signalled; "
        "nsenter --target 1 --mount ls; cat /proc/1/environ; ls /proc/1/root"
    )

    assert int(printed.split()[0]) <= 5
    assert "signalled" not in printed
    assert "PATH" not in printed


def test_it_changes_no_setting_of_the_kernel(cell: Cell) -> None:
    names = "/proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/kernel/hostname"
    printed = cell.run(f"""
        umount /proc/sys; mount -o remount,bind,rw /proc/sys
        for name in {names}; do true >> $name && echo $name is open; done
        test -e /proc/sys/kernel/core_pattern && echo tried
        mkdir /tmp/proc; mount -t proc proc /tmp/proc && echo it worked
        unshare --pid --fork --mount sh -c 'mount -t proc proc /tmp/proc && echo it worked'
        unshare --user --map-root-user --pid --fork --mount \\
            sh -c 'mount -t proc proc /tmp/proc && echo it worked'
    """)

    assert "tried" in printed
    assert "is open" not in printed
    assert "it worked" not in printed


def test_it_reads_nothing_of_the_kernel_that_is_for_root_only(cell: Cell) -> None:
    secret = [
        path
        for path in Path("/proc").glob("[!0-9]*")
        if path.is_file() and not path.is_symlink() and not path.stat().st_mode & 0o077
    ]
    printed = cell.run(
        f"for path in {' '.join(map(str, secret))}; do timeout 2 head -c 1 $path | wc -c; done"
    )

    assert Path("/proc/kpageflags") in secret
    assert set(printed.split()) == {"0"}


def test_it_gets_no_device_and_no_file_system_of_the_kernel_s(cell: Cell) -> None:
    number = Path("/").stat().st_dev
    printed = cell.run(f"""
        mknod /tmp/disk b {os.major(number)} {os.minor(number)} && echo made
        for kind in devtmpfs sysfs debugfs tracefs securityfs bpf; do
            mount -t $kind none /var && echo made; done
        unshare --net sh -c 'mount -t sysfs none /var && echo made'
    """)

    assert "made" not in printed


# Names of abstract sockets, which two runs of the tests on one machine must not share.
OUTSIDE, INSIDE = (f"finch-test-{os.getpid()}-{where}" for where in ("outside", "inside"))

CONNECT = f"""
import socket
for name in ("{OUTSIDE}", "{INSIDE}"):
    server = socket.socket(socket.AF_UNIX)
    if name.endswith("inside"):
        server.bind("\\0" + name)
        server.listen()
    try:
        socket.socket(socket.AF_UNIX).connect("\\0" + name)
        print(name, "answers")
    except OSError as error:
        print(name, error.strerror)
"""


def scopes_sockets() -> bool:
    """Whether the kernel's Landlock can keep programs from abstract sockets (Linux 6.12)."""
    return bool(ctypes.CDLL(None).syscall(444, None, 0, 1) >= 6)


@pytest.mark.skipif(not scopes_sockets(), reason="this kernel cannot hide abstract sockets")
def test_it_reaches_no_abstract_socket_of_this_machine_even_with_the_network(cell: Cell) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{OUTSIDE}")
        server.listen()
        printed = cell.run(f"python3 -c {shlex.quote(CONNECT)}")

    assert printed.splitlines() == [
        f"{OUTSIDE} Operation not permitted",
        f"{INSIDE} answers",
    ]


def test_without_network_it_reaches_no_server_of_this_machine(cell: Cell) -> None:
    python = "/usr/bin/python3" if cell.user == NOBODY else cell.python
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect = (
            f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        )
        reached = cell.run(f'{python} -c "{connect}" && echo reached')
        kept_away = cell.run(f'{python} -c "{connect}" && echo reached', is_offline=True)

    assert reached == "reached\n"
    assert "reached" not in kept_away


def test_it_does_not_learn_the_name_of_the_host(cell: Cell) -> None:
    assert cell.run("uname --nodename") == "localhost\n"


def test_it_has_no_capability_but_those_that_a_build_takes(cell: Cell) -> None:
    status = dict(line.split(":\t") for line in cell.run("cat /proc/self/status").splitlines())
    takes = "00000000802411ff"

    assert status["CapBnd"] == status["CapEff"] == takes
    assert status["NoNewPrivs"] == "1"


def test_users_are_themselves(cell: Cell) -> None:
    if cell.user:
        pytest.skip("a user's namespace has one user")
    path = cell.folder / "written/file"
    cell.run(f"touch {path} && chown 12:34 {path}")

    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


@pytest.mark.parametrize("status", [0, 1, 7, 130])
def test_the_status_is_the_program_s(cell: Cell, status: int) -> None:
    process = cell.start(f"exit {status}")
    process.communicate(timeout=60)

    assert process.returncode == status


def test_a_program_that_a_signal_ends_has_the_status_of_a_shell_s(cell: Cell) -> None:
    process = cell.start("kill -KILL $$")
    process.communicate(timeout=60)

    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_program_which_may_tidy_up(cell: Cell, number: signal.Signals) -> None:
    process = cell.start(
        f"trap 'sleep 0.2; echo tidied up; exit 3' {number.name[3:]}; echo ready; "
        "while :; do sleep 0.05; done"
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)

    assert process.communicate(timeout=20)[0] == "tidied up\n"
    assert process.returncode == 3


def test_a_signal_while_the_confinement_is_being_made_is_not_lost(cell: Cell) -> None:
    for milliseconds in range(20, 160, 20):
        process = cell.start("sleep 60")
        time.sleep(milliseconds / 1000)
        process.terminate()
        process.communicate(timeout=20)

        assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)


@pytest.mark.parametrize("left", ["sleep 600", "setsid sleep 600", "trap '' TERM; sleep 600"])
def test_when_it_is_killed_nothing_of_it_is_left(cell: Cell, left: str) -> None:
    process = cell.start(f"({left}) & echo ready; wait")
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.kill()
    # The output ends when the last process that has it is gone.
    process.communicate(timeout=5)

    assert process.returncode == -signal.SIGKILL


def test_what_a_program_leaves_running_ends_with_it(cell: Cell) -> None:
    started = time.monotonic()
    cell.run("setsid sleep 600 & echo over")

    assert time.monotonic() - started < 10
