"""Measure builds against plain mkosi: `python -m scripts.sessions.bench`, the bench session.

Plain mkosi is the same patched version over the same configuration, run the way finch-core runs
it: one `mkosi --force` for the image. Both work in a copy of the checkout below the work folder,
with the packages downloaded beforehand, one after the other in one run; on a shared machine only
the ratios mean something.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts import options
from scripts.build import build, runner
from scripts.mkosi import source as mkosis
from scripts.mkosi.source import Mkosi
from scripts.options import Options
from scripts.stages import places
from scripts.stages.places import Places
from scripts.system import errors
from scripts.system.files import remove
from scripts.system.locks import only_build
from scripts.system.process import Arg, run, running, start, stream
from scripts.system.progress import Progress

IMAGE = "os-image"
OS_IMAGE_CONF = f"mkosi.images/{IMAGE}/mkosi.conf"
REPART_CONF = f"mkosi.images/{IMAGE}/mkosi.repart/00-esp.conf"

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Measurement:
    """What was done, and the seconds it took us and plain mkosi."""

    what: str
    ours: float
    plain: float


def main(argv: Sequence[str]) -> None:
    """Measure for the target that argv names, and print the table for HACKING.md."""
    opts = options.parse(argv, os.environ)
    progress = Progress()
    with only_build(opts.work):
        build.build(opts, progress)  # downloads what both need
        using = build.obtain(opts, progress)
        mkosis.install(using)
        bench = _Bench(opts, using, progress)
        try:
            with build.emulation(opts, progress):
                measurements = bench.measure()
        finally:
            remove(bench.home)
    _show(measurements, bench.peak_bytes)


class _Bench:
    def __init__(self, opts: Options, using: Mkosi, progress: Progress) -> None:
        self.opts = opts
        self.using = using
        self.progress = progress
        self.home = opts.work / "bench"
        self.checkout = self.home / "checkout"
        self.peak_bytes = 0
        remove(self.home)
        self._copy_checkout()
        self.log = (opts.work / "bench.log").open("wb")

    def measure(self) -> list[Measurement]:
        self._warm(self.home / "ours")
        self._warm(self.home / "plain")
        self._plain("base")  # downloads what mkosi's own tools tree has more than ours
        (self.checkout / "mkosi.tools.manifest").unlink()
        for leftover in (self.checkout / "mkosi.tools", self.home / "plain/built"):
            remove(leftover)
        results = [self._compare("first build, packages downloaded")]
        results.append(self._compare("nothing changed"))
        results.append(
            self._compare_change("kernel command line", OS_IMAGE_CONF, "audit=0", "audit=0 quiet")
        )
        results.append(
            self._compare_change("mkosi.repart", REPART_CONF, "MaxBytes=512M", "MaxBytes=513M")
        )
        return results

    def _compare_change(self, what: str, name: str, old: str, new: str) -> Measurement:
        """The better of two: a change to the file called name, and the way back."""
        with self._changed(name, old, new):
            there = self._compare(what)
        back = self._compare(f"{what}, changed back")
        return Measurement(what, min(there.ours, back.ours), min(there.plain, back.plain))

    def _compare(self, what: str) -> Measurement:
        measured = Measurement(what, self._ours(), self._plain())
        self.progress.say(f"{what}: {measured.ours:.1f} s, plain mkosi {measured.plain:.1f} s")
        return measured

    def _copy_checkout(self) -> None:
        files = run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=self.opts.root,
        ).stdout
        for name in filter(None, files.split("\0")):
            source, target = self.opts.root / name, self.checkout / name
            if source.exists() or source.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)

    def _warm(self, work: Path) -> None:
        """Give work the packages and the mkosi of the checkout that is measured."""
        for folder in self.opts.work.rglob("packages"):
            if self.home not in folder.parents and folder.is_dir():
                runner.share(folder, work / folder.relative_to(self.opts.work))
        for name in ("mkosi", "emulators"):
            shutil.copytree(self.opts.work / name, work / name, symlinks=True)

    def _ours(self) -> float:
        command: list[Arg] = [
            sys.executable, "-m", "scripts.build.build",
            "--distribution", self.opts.distribution,
            "--arch", self.opts.arch.name,
            "--image", IMAGE,
            "--work", self.home / "ours",
            "--out", self.home / "out",
        ]  # fmt: skip
        with self.progress.task("harness") as task:
            task.step("building")
            began = time.monotonic()
            process = start(
                command,
                stdout=self.log,
                stderr=self.log,
                cwd=self.checkout,
                env={"PYTHONPATH": os.fspath(self.checkout)},
            )
            with running(process):
                while process.poll() is None:
                    self.peak_bytes = max(self.peak_bytes, _peak(process.pid))
                    time.sleep(POLL_SECONDS)
                seconds = time.monotonic() - began
        if process.returncode:
            raise errors.HarnessError("the harness failed", log=Path(self.log.name))
        return seconds

    def _plain(self, image: str = IMAGE) -> float:
        at = self._plain_places()
        build.write_trees(build.obtain_emulators(self.opts, self.progress), at)
        arguments, env = at.plain(self._folder("plain/built/output"))
        command = self.using.command(
            "--image-id", image,
            *arguments,
            "--incremental", "yes",
            "--cache-directory", self._folder("plain/built/cache"),
            "--package-cache-dir", at.images.folder / "packages",
            "--force",
            "build",
        )  # fmt: skip
        with self.progress.task("plain mkosi") as task:
            task.step("building")
            began = time.monotonic()
            stream(command, log=self.log, cwd=self.checkout, env=env)
            return time.monotonic() - began

    def _plain_places(self) -> Places:
        argv = [
            "--distribution", self.opts.distribution,
            "--arch", self.opts.arch.name,
            "--work", os.fspath(self.home / "plain"),
        ]  # fmt: skip
        return places.of(options.parse(argv, {}, root=self.checkout))

    def _folder(self, name: str) -> Path:
        path = self.home / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextlib.contextmanager
    def _changed(self, name: str, old: str, new: str) -> Iterator[None]:
        path = self.checkout / name
        text = path.read_text()
        if old not in text:
            raise errors.HarnessError(f"{path} has no {old!r} to change any more")
        path.write_text(text.replace(old, new))
        self.progress.say(f"{name}: {old!r} becomes {new!r}")
        try:
            yield
        finally:
            path.write_text(text)


def _peak(pid: int) -> int:
    """The largest resident size that the process has had, in bytes; 0 once it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _show(measurements: Sequence[Measurement], peak_bytes: int) -> None:
    table = Table("what", "harness, s", "plain mkosi, s", "ratio")
    for entry in measurements:
        ratio = f"{entry.ours / entry.plain:.2f}"
        table.add_row(entry.what, f"{entry.ours:.1f}", f"{entry.plain:.1f}", ratio)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"peak memory of the harness itself: {peak_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    errors.main(main)
