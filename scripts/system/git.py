"""Runs git so that other people's settings cannot decide what it does.

git gets none of the environment, and reads neither the system's nor the user's configuration. A
repository's own configuration is read, but everything that it could make git execute is switched
off here: the commands below read objects and names, and never run a filter, a hook or a transport.
So it is safe to ask about a checkout that belongs to another user.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from scripts import catalog
from scripts.system.errors import MachineError
from scripts.system.process import Arg, run

# git-config(1) and git(1) explain these. Messages are in English, because `scripts.mkosi.patches`
# reads them.
ENVIRONMENT: Mapping[str, Arg] = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": Path(__file__).with_name("gitconfig"),
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}

# Settings that a repository could otherwise make. The values on the command line win.
SETTINGS = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.sshCommand=false",
    "core.untrackedCache=false",
)

# A GIT_DIR that is no repository, so that git looks for none.
NOWHERE = {"GIT_DIR": "/dev/null"}


def read(root: Path, *args: Arg) -> str:
    """Return what git prints for args about the repository at root.

    args must be one of git's commands that only read objects, names or the index. Raises
    CommandError if git fails, MachineError if it is not installed.
    """
    return run([*_command(), "-C", root, *args]).stdout


def run_outside(folder: Path, *args: Arg) -> subprocess.CompletedProcess[str]:
    """Run git with args in folder, as if neither folder nor any above it were a repository.

    Returns its status and output, whatever the status. Raises MachineError if git is not installed.
    """
    return run([*_command(NOWHERE), *args], cwd=folder, check=False)


def _command(more: Mapping[str, Arg] | None = None) -> list[Arg]:
    """Return the command that starts git with ENVIRONMENT and more, and nothing else."""
    program = shutil.which("git")
    if not program:
        raise MachineError(
            "git is not installed", hint=f"{catalog.command('doctor')} says how to install it"
        )
    variables = {**ENVIRONMENT, **(more or {})}
    return [
        *("env", "--ignore-environment"),
        *(f"{name}={os.fspath(value)}" for name, value in variables.items()),
        program,
        *(arg for setting in SETTINGS for arg in ("-c", setting)),
    ]
