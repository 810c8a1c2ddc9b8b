"""What all Nox sessions share: interpreters, pinned packages, and the exit status.

This module runs in Nox's own process and imports only the standard library and Nox.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import nox
from nox.command import CommandFailed
from nox.virtualenv import ALL_VENVS, InterpreterNotFound, VirtualEnv

from scripts.bootstrap import interpreters

ROOT = Path(__file__).resolve().parents[2]

# How long the harness may take to end QEMU, mkosi and their mounts after Ctrl-C, in seconds. Each
# of its children gets GRACE_SECONDS of scripts/system/process.py.
PATIENCE_SECONDS = 60

ATTEMPTS = 3

# Only pinned wheels: building a source distribution would run its code, and that of an unpinned
# build backend. pip and uv spell these options alike.
INSTALL = ("--require-hashes", "--only-binary", ":all:")

# How Nox begins a message before it ends with 3, because the arguments match no session. For us, 3
# means that the machine lacks something.
REFUSALS = (
    "Error while collecting sessions",
    "Python version selection caused no",
    "Tag selection caused no",
    "No sessions selected",
)

# User info in a URL. Nox logs the arguments of a session, which may contain some.
# scripts/system/url.py hides it in the harness's own output.
USER_INFO = re.compile(r"(?<=//)[^\s\"'<>]*@")

# Exit statuses of the harness itself (scripts/system/errors.py). Any other failure is a plain 1.
USAGE, MACHINE = 2, 3

# Options of pip, and the variables that tell uv the same.
UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


@dataclass
class Outcome:
    """The outcome of this run's sessions.

    status is the exit status of the first failure, or 0 to leave the status to Nox. ran counts the
    sessions that did something, and idle says why each of the others did not.
    """

    status: int = 0
    ran: int = 0
    idle: list[str] = field(default_factory=list)

    def failed(self, status: int) -> None:
        """Note the exit status of a failure, which is negative for a signal."""
        if not self.status:
            self.status = 128 - status if status < 0 else status


outcome = Outcome()


def setup(hint: str) -> None:
    """Make Nox find interpreters our way, and end with the exit status of the harness.

    hint is shown if the arguments match no session. Nox ends with 1 whenever a session fails, so an
    exit hook sets the status: it is the one place that plain `nox` and `./nox` share.
    """
    for backend in ("uv", "virtualenv"):
        ALL_VENVS[backend] = functools.partial(Environment, venv_backend=backend)
    logging.getLogger("nox").addHandler(_Refusals(hint))
    logging.getLogger("nox").addFilter(_hide)
    atexit.register(_end)


def install(session: nox.Session, group: str) -> None:
    """Install what requirements/<group>.txt pins, unless the session has it already."""
    environment = session.virtualenv
    if not isinstance(environment, VirtualEnv):  # --no-venv: use what is there
        return
    pins = ROOT / "requirements" / f"{group}.txt"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    stamp = Path(environment.location, f"{group}.sha256")
    if stamp.exists() and stamp.read_text() == digest:
        return
    env = (
        {"UV_COMPILE_BYTECODE": "1", **_pip_settings()} if environment.venv_backend == "uv" else {}
    )
    for attempt in range(1, ATTEMPTS + 1):
        try:
            session.install(*INSTALL, "-r", f"requirements/{group}.txt", env=env)
            break
        except CommandFailed:
            if attempt == ATTEMPTS:
                raise
            session.warn("The installation failed: trying again.")
    # With --no-install, Nox skips this as well as the installation.
    program = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    session.run_install("python", "-I", "-c", program, stamp, digest, log=False)


def harness(session: nox.Session, module: str, *args: str) -> None:
    """Run scripts.sessions.<module>. If it fails, the process ends with its exit status."""
    _run(session, "python", "-m", f"scripts.sessions.{module}", *args, keeps_status=True)


def lab(session: nox.Session, *args: str) -> None:
    """Run the lab. If it fails, the process ends with its exit status."""
    _run(session, "python", "-m", "tests.lab", *args, keeps_status=True)


def check(session: nox.Session, *command: str) -> None:
    """Run a tool that is installed in the session's environment, such as ruff, as a module."""
    _run(session, "python", "-m", *command, keeps_status=False)


def skip(session: nox.Session, reason: str) -> NoReturn:
    """Skip the session and say why. A run that skips all of its sessions fails."""
    outcome.idle.append(reason)
    session.skip(reason)


class Environment(VirtualEnv):
    """Nox's virtual environment, with an interpreter that is looked for in more places.

    Nox itself looks on PATH, where pyenv may have shims that fail, and prints everything that uv
    says about a failed download.
    """

    def create(self) -> bool:
        """Create the environment, or reuse it; return whether it was created."""
        wanted = self.interpreter
        if wanted and interpreters.is_version(wanted) and not Path(self.bin, "python").exists():
            _, uv, _ = nox.virtualenv.find_uv()
            download = self.download_python != "never"
            try:
                found = interpreters.find_or_fetch(wanted, Path(uv), os.environ, download=download)
            except interpreters.Lacking as error:
                outcome.failed(MACHINE)
                print(f"error: {error.message}\n hint: {error.hint}", file=sys.stderr)
                raise InterpreterNotFound(wanted) from None
            self.interpreter = os.fspath(found)
        return super().create()


def _hide(record: logging.LogRecord) -> bool:
    """Remove the user info of URLs from Nox's log, which shows each session's command."""
    record.msg, record.args = USER_INFO.sub("***@", record.getMessage()), None
    return True


class _Refusals(logging.Handler):
    """Notices when Nox logs that the arguments match no session."""

    def __init__(self, hint: str) -> None:
        super().__init__(logging.ERROR)
        self.hint = hint

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(REFUSALS):
            outcome.failed(USAGE)
            atexit.register(print, f" hint: {self.hint}", file=sys.stderr)


def _run(session: nox.Session, *command: str, keeps_status: bool) -> None:
    """Run command; if it fails, note its status, or a plain 1 if keeps_status is false."""
    outcome.ran += 1
    try:
        session.run(
            *command,
            env={"PYTHONPATH": os.fspath(ROOT), "PYTHONSAFEPATH": None},
            interrupt_timeout=PATIENCE_SECONDS,
            terminate_timeout=PATIENCE_SECONDS,
        )
    except CommandFailed as error:
        outcome.failed((error.return_code or 1) if keeps_status else 1)
        raise


def _end() -> None:
    """End the process with the status of the harness, unless that is left to Nox."""
    if outcome.idle and not outcome.ran and not outcome.status:
        print(f"error: nothing was done: {'; '.join(outcome.idle)}", file=sys.stderr)
        outcome.status = 1
    if outcome.status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(outcome.status)


def _pip_settings() -> dict[str, str]:
    """Return the variables that tell uv pip's settings for index, proxy and certificates.

    uv does not read pip's configuration.
    """
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    return uv_settings(listing.stdout, os.environ)


def uv_settings(listing: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that tell uv the settings in listing, the output of `pip config list`.

    pip prefers its environment to the section of a command, and that to the global one. A variable
    that environ has already is left out.
    """
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.partition(".")
        if section in sections and option in UV_VARIABLES:
            # pip prints a list as the repr of its lines; uv takes it separated by spaces.
            sections[section][option] = value.strip("'\"").replace("\\n", " ").strip()
    told = sections["global"] | sections["install"] | sections[":env:"]
    variables = {UV_VARIABLES[option]: value for option, value in told.items()}
    return {name: value for name, value in variables.items() if name not in environ}
