"""What every Nox session needs: an interpreter, the pinned packages, and a status that says enough.

noxfile.py says which sessions there are; this module is the little that they share. It runs in
Nox's own process, with the standard library and Nox only.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
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

# How long the harness may take to end QEMU, mkosi and their mounts after Ctrl-C, in seconds; each
# of its children gets GRACE_SECONDS of scripts.run.
PATIENCE_SECONDS = 60

ATTEMPTS = 3

# What Nox says before it ends with 3 for arguments that fit nothing. Here 3 is for the machine.
REFUSALS = (
    "Error while collecting sessions",
    "Python version selection caused no",
    "Tag selection caused no",
    "No sessions selected",
)

# What the harness itself ends with (scripts.errors); any other program's failure is a plain 1.
USAGE, MACHINE = 2, 3


# pip's options, and the variables of uv that mean the same.
UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


@dataclass
class Outcome:
    """What the sessions of this run came to.

    status is the first failure's, for the process to end with; 0 leaves it to Nox. ran counts the
    sessions that did their work, idle holds why the others had none.
    """

    status: int = 0
    ran: int = 0
    idle: list[str] = field(default_factory=list)

    def failed(self, status: int) -> None:
        """Note a failure's exit status; that of a signal is negative."""
        if not self.status:
            self.status = 128 - status if status < 0 else status


outcome = Outcome()


def setup(hint: str) -> None:
    """Make Nox find interpreters our way and end with the harness's exit code.

    hint is shown where the arguments name no session. Nox knows no status but 1 for a session that
    failed. Its process ends with the harness's own from an exit hook, which is the one place that
    plain `nox` and `./nox` share.
    """
    for backend in ("uv", "virtualenv"):
        ALL_VENVS[backend] = functools.partial(Environment, venv_backend=backend)
    logging.getLogger("nox").addHandler(_Refusals(hint))
    atexit.register(_end)


def install(session: nox.Session, group: str) -> None:
    """Install the packages that requirements/<group>.txt pins, unless they are there already."""
    environment = session.virtualenv
    if not isinstance(environment, VirtualEnv):  # --no-venv: what is there must do
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
            session.install("--require-hashes", "-r", f"requirements/{group}.txt", env=env)
            break
        except CommandFailed:
            if attempt == ATTEMPTS:
                raise
            session.warn("The installation failed: trying again.")
    # Like the installation itself, this is left out with --no-install.
    program = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    session.run_install("python", "-I", "-c", program, stamp, digest, log=False)


def harness(session: nox.Session, module: str, *args: str) -> None:
    """Run scripts.sessions.<module>; the process ends with its exit code where that is not 0."""
    _run(session, "python", "-m", f"scripts.sessions.{module}", *args, keeps_status=True)


def lab(session: nox.Session, *args: str) -> None:
    """Run the lab; the process ends with its exit code where that is not 0."""
    _run(session, "python", "-m", "tests.lab", *args, keeps_status=True)


def check(session: nox.Session, *command: str) -> None:
    """Run a tool that is installed in the session's environment as a module, such as ruff."""
    _run(session, "python", "-m", *command, keeps_status=False)


def skip(session: nox.Session, reason: str) -> NoReturn:
    """Leave the session out, by name. A run that left out all of them has failed."""
    outcome.idle.append(reason)
    session.skip(reason)


class Environment(VirtualEnv):
    """Nox's virtual environment, of an interpreter that is looked for in more places.

    Nox asks PATH, where pyenv's shims may be that fail, and shows all that uv says of a download
    that failed.
    """

    def create(self) -> bool:
        """Create the environment, or reuse the one that is there."""
        wanted = self.interpreter
        if wanted and interpreters.is_version(wanted) and not Path(self.bin, "python").exists():
            _, uv, _ = nox.virtualenv.find_uv()
            download = self.download_python != "never"
            try:
                found = interpreters.obtain(wanted, Path(uv), os.environ, download=download)
            except interpreters.Lacking as error:
                outcome.failed(MACHINE)
                print(f"error: {error.message}\n hint: {error.hint}", file=sys.stderr)
                raise InterpreterNotFound(wanted) from None
            self.interpreter = os.fspath(found)
        return super().create()


class _Refusals(logging.Handler):
    """Listens for Nox's saying that the arguments fit nothing."""

    def __init__(self, hint: str) -> None:
        super().__init__(logging.ERROR)
        self.hint = hint

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(REFUSALS):
            outcome.failed(USAGE)
            atexit.register(print, f" hint: {self.hint}", file=sys.stderr)


def _run(session: nox.Session, *command: str, keeps_status: bool) -> None:
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
    """End the process with the harness's status, if that says more than Nox's."""
    if outcome.idle and not outcome.ran and not outcome.status:
        print(f"error: nothing was done: {'; '.join(outcome.idle)}", file=sys.stderr)
        outcome.status = 1
    if outcome.status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(outcome.status)


def _pip_settings() -> dict[str, str]:
    """What pip is told about index, proxy and certificates, for uv, which does not ask pip.

    What the environment tells uv itself comes first.
    """
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    return uv_settings(listing.stdout, os.environ)


def uv_settings(listing: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that tell uv what `pip config list` printed as listing, but environ does not.

    pip prefers its environment to the section of a command, and that to the global one.
    """
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.partition(".")
        if section in sections and option in UV_VARIABLES:
            # A list is printed as the repr of its lines; uv takes them with spaces between.
            sections[section][option] = value.strip("'\"").replace("\\n", " ").strip()
    told = sections["global"] | sections["install"] | sections[":env:"]
    variables = {UV_VARIABLES[option]: value for option, value in told.items()}
    return {name: value for name, value in variables.items() if name not in environ}
