"""The one way to start a process.

Every child is started with a parent-death signal, so that nothing outlives the
harness even when the harness is killed with SIGKILL, and in a session of its
own, so that Ctrl-C reaches the harness first, which then ends its children in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

Arg = str | os.PathLike[str]

PR_SET_PDEATHSIG = 1  # linux/prctl.h

# mkosi removes its workspace when it is told to end; 20 s is ample for a
# workspace of a few GB and short enough for a person who waits.
GRACE_SECONDS = 20

# What `stream` takes for a line at the most: some programs draw progress without ever ending one.
LINE_BYTES = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)

# The processes that are waited for, and the last signal that `signal_all` sent to each.
_alive: dict[subprocess.Popen[bytes], signal.Signals | None] = {}


class Log(Protocol):
    """Where `stream` writes a command's output, in whole lines."""

    def write(self, data: bytes, /) -> object:
        """Take data."""

    def flush(self) -> object:
        """Put what was taken where others can read it."""


class Terminated(BaseException):
    """The harness was told to end by a signal. Not an Exception, as KeyboardInterrupt is none."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number


class CommandError(Exception):
    """A command ended with another status than 0.

    argv is what ran, returncode its status (negative: the signal that ended
    it), output what it printed (the last lines of it, where it was streamed).
    """

    def __init__(self, argv: Sequence[str], returncode: int, output: str) -> None:
        super().__init__(f"{shlex.join(argv)} ended with status {returncode}")
        self.argv = list(argv)
        self.returncode = returncode
        self.output = output


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send number to this process when its parent dies (prctl(2))."""
    _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def start(
    argv: Sequence[Arg],
    *,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start argv and return at once; `terminate` ends it.

    env is added to the environment of the harness. Raises FileNotFoundError
    where the program is not there.
    """
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent()
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(128 + signal.SIGTERM)

    return subprocess.Popen(
        [os.fspath(arg) for arg in argv],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        start_new_session=True,
        preexec_fn=prepare,
    )


def terminate(process: subprocess.Popen[bytes], *, grace: float = GRACE_SECONDS) -> None:
    """End process: SIGTERM, after grace seconds SIGKILL to all of its session's process group."""
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
    """End process and close its pipes, whatever happens in the with block."""
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
    """Send number to every process that is waited for, in whatever thread, unless it has had it.

    SIGKILL goes to all of its session's process group.
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
    check: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a short command and return it with its stdout and stderr as text.

    timeout is in seconds. Raises CommandError for another status than 0 (with
    check), subprocess.TimeoutExpired, FileNotFoundError.
    """
    pipe = subprocess.PIPE
    process = start(argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd, env=env)
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
    keep: int = 40,
) -> None:
    """Run a long command, its stdout and stderr written to log as they come.

    on_line is called with each line as text. Memory stays small however much
    is printed: of the output only the last keep lines are held, for the error.
    Raises CommandError for another status than 0, FileNotFoundError.
    """
    command = [os.fspath(arg) for arg in argv]
    log.write(f"+ {shlex.join(command)}\n".encode())
    log.flush()
    tail: deque[str] = deque(maxlen=keep)
    process = start(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, env=env)
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
    """The last line of text that is not blank, stripped ("" where there is none)."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
