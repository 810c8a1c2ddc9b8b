"""Starting processes, waiting for them and ending them.

The kernel ends each child when the harness dies (a parent-death signal), even of SIGKILL. Each
child is in a session of its own, so that Ctrl-C reaches only the harness, which then ends its
children in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

Arg = str | os.PathLike[str]

PR_SET_PDEATHSIG = 1  # linux/prctl.h

# mkosi removes its workspace before it ends; 20 s is ample for a workspace of a few GB, and short
# enough for a person who waits.
GRACE_SECONDS = 20

# `stream` reads at most so much as one line: some programs draw progress without ever ending one.
LINE_BYTES = 1 << 16

# Variables that every program gets. None could hold a credential except a proxy's URL, which
# downloads need. Our own variables begin with FINCH_; those with a URL of a mirror are for the
# harness alone.
ENVIRONMENT = (
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_[A-Z]+|TZ|TERM|NO_COLOR|COLUMNS|TMPDIR"
    r"|XDG_(CACHE|CONFIG|DATA|STATE)_HOME|XDG_RUNTIME_DIR|SOURCE_DATE_EPOCH"
    r"|FINCH_(?!MIRROR$|THIRD_PARTY_MIRROR$)[A-Z_]+"
    r"|(?i:(https?|ftp|all|no)_proxy)|SSL_CERT_(FILE|DIR)"
)

_libc = ctypes.CDLL(None, use_errno=True)

# The processes that are running, and the last signal that `signal_all` sent to each.
_alive: dict[subprocess.Popen[bytes], signal.Signals | None] = {}


class Log(Protocol):
    """Something that `stream` can write the output of a command to, in whole lines."""

    def write(self, data: bytes, /) -> object:
        """Write data."""

    def flush(self) -> object:
        """Make what was written visible to others."""


class Terminated(BaseException):
    """A signal told the harness to end. Like KeyboardInterrupt this is not an Exception."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number


class CommandError(Exception):
    """A command ended with a status other than 0.

    returncode is the status of argv, or the negative number of the signal that ended it. output is
    what it printed: all of it after `run`, the last lines after `stream`.
    """

    def __init__(self, argv: Sequence[str], returncode: int, output: str) -> None:
        super().__init__(f"{shlex.join(argv)} ended with status {returncode}")
        self.argv = list(argv)
        self.returncode = returncode
        self.output = output


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send number to this process when its parent dies (prctl(2))."""
    _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def environment(also: str = "") -> dict[str, str]:
    """Return the part of this process's environment that a program it starts may know.

    also is a regular expression for the names of variables beside ENVIRONMENT, for the few programs
    that need credentials.
    """
    allowed = re.compile(f"{ENVIRONMENT}|{also}" if also else ENVIRONMENT)
    return {name: value for name, value in os.environ.items() if allowed.fullmatch(name)}


def start(
    argv: Sequence[Arg],
    *,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    also: str = "",
    file_bytes: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start argv and return at once; `terminate` ends it.

    env is added to the `environment` that also names. With file_bytes the kernel ends the program,
    by SIGXFSZ, when a file that it writes would become longer than that (setrlimit(2)). Raises
    FileNotFoundError if the program does not exist.
    """
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent()
        if os.getppid() != parent:  # the parent has died between fork and prctl
            os._exit(128 + signal.SIGTERM)
        if file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return subprocess.Popen(
        [os.fspath(arg) for arg in argv],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env={**environment(also), **(env or {})},
        start_new_session=True,
        preexec_fn=prepare,
    )


def terminate(process: subprocess.Popen[bytes], *, grace: float = GRACE_SECONDS) -> None:
    """End process with SIGTERM, and after grace seconds its whole process group with SIGKILL."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End process and close its pipes when the with block ends, whatever happens in it."""
    _alive[process] = None
    try:
        yield process
    finally:
        terminate(process)
        _alive.pop(process, None)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def signal_all(number: signal.Signals) -> None:
    """Send number to the running processes of all threads, unless it was the last one they got.

    SIGKILL goes to the whole process group of each.
    """
    for process, sent in list(_alive.items()):
        if sent != number:
            _alive[process] = number
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(process.pid, number)
                else:
                    process.send_signal(number)


def run(
    argv: Sequence[Arg],
    *,
    stdin: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    also: str = "",
    check: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a short command and return its status, and its stdout and stderr as text.

    timeout is in seconds. Raises CommandError for a status other than 0 (unless check is false),
    subprocess.TimeoutExpired, or FileNotFoundError.
    """
    pipe = subprocess.PIPE
    process = start(argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, env=env, also=also)
    with running(process):
        out, err = (
            text.decode(errors="replace")
            for text in process.communicate(stdin.encode(), timeout=timeout)
        )
    command = [os.fspath(arg) for arg in argv]
    if check and process.returncode:
        raise CommandError(command, process.returncode, err or out)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def stream(
    argv: Sequence[Arg],
    *,
    log: Log,
    on_line: Callable[[str], None] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    also: str = "",
    keep: int = 40,
) -> None:
    """Run a long command and write its stdout and stderr to log as they come.

    on_line is called with each line as text. Only the last keep lines are kept, for the error, so
    memory stays small however much the command prints. Raises CommandError for a status other than
    0, or FileNotFoundError.
    """
    command = [os.fspath(arg) for arg in argv]
    log.write(f"+ {shlex.join(command)}\n".encode())
    log.flush()
    tail: deque[str] = deque(maxlen=keep)
    process = start(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, env=env, also=also
    )
    with running(process):
        pipe = process.stdout
        assert pipe
        for raw in iter(lambda: pipe.readline(LINE_BYTES), b""):
            log.write(raw)
            line = raw.decode(errors="replace").rstrip("\r\n")
            tail.append(line)
            if on_line:
                on_line(line)
        process.wait()
    log.flush()
    if process.returncode:
        raise CommandError(command, process.returncode, "\n".join(tail))


def last_line(text: str) -> str:
    """Return the last line of text that is not blank, stripped, or "" if there is none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
