"""Finding a Python interpreter of a given version on this machine, or fetching one with uv.

`./nox` imports this module before anything is installed, so it uses only the standard library of
Python 3.9.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

# A pyenv shim answers in 0.2 s; one that hangs is useless.
PROBE_SECONDS = 20

_VERSION = re.compile(r"3\.\d+")


class Lacking(Exception):
    """This machine has no interpreter of the version, and none could be fetched.

    message says so in one sentence, and hint says how to get one.
    """

    def __init__(self, version: str, cause: str = "") -> None:
        tried = f", and uv could not fetch it ({cause})" if cause else ""
        self.message = f"Python {version} is not on PATH, nor in pyenv's or uv's folders{tried}"
        self.hint = (
            f"`apt-get install python{version}` or `dnf install python{version}` if your "
            f"distribution has it, otherwise `pyenv install {version}`"
        )
        super().__init__(self.message)


def find(version: str, environ: Mapping[str, str]) -> Path | None:
    """Return an interpreter of version, such as 3.12, that is here and runs, or None.

    PATH, PYENV_ROOT, UV_PYTHON_INSTALL_DIR, XDG_DATA_HOME and HOME in environ decide where to look.
    """
    for candidate in candidates(version, environ):
        found = _probe(candidate, version, environ)
        if found:
            return found
    return None


def candidates(version: str, environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the files that may be an interpreter of version, the preferred ones first."""
    program = f"python{version}"
    for entry in environ.get("PATH", os.defpath).split(os.pathsep):
        path = Path(entry or ".", program)
        if os.access(path, os.X_OK):
            yield path
    home = Path(environ.get("HOME") or Path.home())
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv")
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    uv = Path(environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    for root, pattern in ((pyenv / "versions", f"{version}*"), (uv, f"cpython-{version}*")):
        # glob.glob, unlike Path.glob, ignores a folder that this user may not read.
        found = glob.glob(str(Path(glob.escape(str(root)), pattern, "bin", program)))
        for path in sorted((Path(name) for name in found), key=_patch, reverse=True):
            if os.access(path, os.X_OK):
                yield path


def fetch(version: str, uv: Path, environ: Mapping[str, str]) -> Path:
    """Have uv install an interpreter of version for this user, but not on PATH.

    Raises Lacking if it cannot.
    """
    try:
        _uv(uv, ["python", "install", "--no-bin", version], environ)
        return Path(_uv(uv, ["python", "find", "--managed-python", version], environ))
    except subprocess.CalledProcessError as error:
        lines = [line.strip() for line in error.stderr.splitlines() if line.strip()]
        cause = lines[-1].removeprefix("cause: ") if lines else f"status {error.returncode}"
        raise Lacking(version, cause) from None
    except OSError as error:
        raise Lacking(version, str(error)) from None


def find_or_fetch(
    version: str, uv: Path, environ: Mapping[str, str], *, download: bool = True
) -> Path:
    """Return an interpreter of version that is here, or else one that uv fetches.

    Raises Lacking if there is none and uv cannot fetch one, or may not because download is false.
    """
    found = find(version, environ)
    if found:
        return found
    if not download:
        raise Lacking(version)
    return fetch(version, uv, environ)


def is_version(text: str) -> bool:
    """Whether text is a version that can be found: 3.12, but not 3.12.1, pypy3.11 or a path."""
    return _VERSION.fullmatch(text) is not None


def _probe(path: Path, version: str, environ: Mapping[str, str]) -> Path | None:
    """Return the interpreter that path, perhaps a shim, starts, if it is one of version."""
    program = "import sys; print('%d.%d' % sys.version_info[:2]); print(sys.executable)"
    try:
        answer = subprocess.run(
            [str(path), "-I", "-c", program],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.splitlines()
    if answer.returncode or len(lines) != len(("version", "path")) or lines[0] != version:
        return None
    return Path(lines[1])


def _patch(path: Path) -> tuple[int, ...]:
    """Return a sort key, so that 3.12.10/bin/python3.12 comes after 3.12.9/bin/python3.12."""
    match = re.search(r"\d+(\.\d+)*", path.parent.parent.name)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _uv(uv: Path, arguments: list[str], environ: Mapping[str, str]) -> str:
    """Run uv and return what it prints. Raises CalledProcessError if it fails."""
    finished = subprocess.run(
        [str(uv), *arguments],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return finished.stdout.strip()
