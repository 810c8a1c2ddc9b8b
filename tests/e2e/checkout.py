"""Copies the checkout for tests that build, and finds what a build has left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts import arch
from scripts.mkosi import workspaces
from tests.lab.repository import World
from tests.lab.server import LabServer

# The variables that a session of Nox sets for the programs it starts.
FOREIGN = ("PYTHONPATH", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON", "VIRTUAL_ENV")

# The distribution whose mirrors every machine can reach.
DEBIAN = ("--distribution", "debian")

# The parts of .work that save another native Debian build the downloads and the tools tree.
TOOLS = (
    "mkosi", "emulators",
    *(f"tools/debian/{part}" for part in ("stages", "packages")),
    f"debian/{arch.native()}/packages",
)  # fmt: skip

Arg = str | Path


def amazonlinux(lab: LabServer, made: World) -> list[Arg]:
    """Return the options for a build of Amazon Linux from the lab that lab serves."""
    return [
        "--distribution", "amazonlinux",
        "--mirror", lab.mirror,
        "--signing-key", made.key_file,
        "--third-party-mirror", lab.third_party,
        "--third-party-pins", made.pins_file,
    ]  # fmt: skip


class Build:
    """A running build and the lines that it has printed."""

    def __init__(self, command: Sequence[Arg], cwd: Path, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.started = time.monotonic()
        self.seconds = 0.0
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.process as process:
            assert process.stdout
            for line in process.stdout:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self.seconds = time.monotonic() - self.started
            self.lines.append("")
            self._news.notify_all()

    @property
    def output(self) -> str:
        """Everything that the build has printed so far."""
        return "\n".join(self.lines)

    def wait_for(self, text: str, *, within: float = 90) -> None:
        """Wait until a line contains text, and fail if the build ends first."""
        with self._news:
            came = self._news.wait_for(
                lambda: any(text in line for line in self.lines) or self.seconds, within
            )
        assert came, f"no {text!r} within {within} s:\n{self.output}"
        assert text in self.output, self.output

    def wait(self, *, within: float = 240) -> int:
        """Wait until the build ends, and return its exit status."""
        self._reader.join(within)
        if self._reader.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"no end within {within} s:\n{self.output}")
        return self.process.returncode

    @property
    def error(self) -> list[str]:
        """The lines that begin with the error."""
        lines = [line for line in self.lines if line]
        starts = [n for n, line in enumerate(lines) if line.startswith("error: ")]
        return lines[starts[0] :] if starts else []


@dataclass(frozen=True)
class Copy:
    """A copy of the checkout in which tests may build and break anything."""

    root: Path

    @property
    def work(self) -> Path:
        """The folder where builds are kept."""
        return self.root / ".work"

    def start(self, *args: Arg) -> Build:
        """Start a Debian build in this copy."""
        return Build(
            [sys.executable, "-m", "scripts.sessions.build", *DEBIAN, *args], self.root, environ()
        )

    def nox(self, session: str, *args: Arg) -> Build:
        """Start `./nox -s session -- args` in this copy."""
        return Build([sys.executable, "nox", "-s", session, "--", *args], self.root, environ())

    def build(self, *args: Arg, within: float = 240) -> Build:
        """Build Debian in this copy, and return the finished build."""
        build = self.start(*args)
        build.wait(within=within)
        return build

    def leftovers(self, *, within: float = 30) -> list[str]:
        """Return the processes, mounts, loop devices and files that a build has left behind."""
        deadline = time.monotonic() + within
        while left := self._leftovers():
            if time.monotonic() > deadline:
                return left
            time.sleep(0.2)
        return []

    def _leftovers(self) -> list[str]:
        mounts = Path("/proc/self/mountinfo").read_text().replace("\\040", " ").splitlines()
        loops = subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True)
        return [
            *(line for line in [*mounts, *loops.stdout.splitlines()] if str(self.root) in line),
            *_processes(self.root),
            *(str(path) for kept in workspaces.folders(self.work) for path in kept.glob("*")),
        ]


def copy(checkout: Path, root: Path, work: Path, wanted: Sequence[str]) -> Copy:
    """Copy the checkout with its changes, and the files in work that match the patterns wanted.

    Its files have the modes of a clone under umask 077, which must not reach an image. The copy
    shares data with the original by reflink where it can, and never writes to it.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in listed.rstrip("\0").split("\0"):
        if (checkout / name).exists() or (checkout / name).is_symlink():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, root / name, follow_symlinks=False)
            if not (root / name).is_symlink():
                (root / name).chmod((root / name).stat().st_mode & ~0o077)
    for pattern in wanted:
        for source in work.glob(pattern):
            copy_tree(source, root / ".work" / source.relative_to(work))
    return Copy(root)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree with its owners, modes and times."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", source, target], check=True)


def environ() -> dict[str, str]:
    """Return the environment as a shell outside our sessions has it."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return {name: value for name, value in kept.items() if "NOX" not in name} | {"CI": "1"}


def _processes(root: Path) -> Iterator[str]:
    """Describe the processes that were started in or for root, except this one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
            cwd = (folder / "cwd").readlink()
        except OSError:
            continue
        if int(folder.name) != os.getpid() and command and str(root) in f"{command} {cwd}":
            yield f"process {folder.name}: {command[:200]}"


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system in memory at folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
