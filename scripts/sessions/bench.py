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

from rich.table import Table

from scripts import catalog
from scripts.build import build, ingredients
from scripts.build.workshop import Workshop
from scripts.options import BuildOptions, Folders, PackageBuild, Sources, Target
from scripts.sessions import arguments
from scripts.system import errors, git
from scripts.system.files import remove
from scripts.system.locks import only_build
from scripts.system.process import Arg, running, start, stream
from scripts.system.progress import Progress
from scripts.system.terminal import Terminal

IMAGE = catalog.DISK
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
    shown = (Target, Sources, PackageBuild, BuildOptions, Folders)
    parser = arguments.parser("bench", "Measures builds against plain mkosi.", shown)
    opts = arguments.parse(argv, os.environ, using=parser)
    with only_build(opts.folders.work):
        progress = Progress()
        shop = Workshop.prepare(build.dated(opts, progress), progress)
        build.build(shop)  # downloads what both need
        shop.install_mkosi()
        bench = _Bench(shop)
        try:
            with shop.emulation():
                measurements = bench.measure()
        finally:
            remove(bench.home)
    _show(measurements, bench.peak_bytes)


class _Bench:
    def __init__(self, shop: Workshop) -> None:
        self.shop = shop
        self.opts = shop.options
        self.progress = shop.progress
        self.home = self.opts.folders.work / "bench"
        self.checkout = self.home / "checkout"
        self.peak_bytes = 0
        remove(self.home)
        self._copy_checkout()
        self.log = (self.opts.folders.work / "bench.log").open("wb")

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
        root = self.opts.folders.root
        files = git.read(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in filter(None, files.split("\0")):
            source, target = root / name, self.checkout / name
            if source.exists() or source.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)

    def _warm(self, work: Path) -> None:
        """Give work the packages and the mkosi of the checkout that is measured."""
        for folder in self.opts.folders.work.glob("*/*/packages"):
            shutil.copytree(
                folder, work / folder.relative_to(self.opts.folders.work), symlinks=True
            )
        for name in ("mkosi", "emulators"):
            shutil.copytree(self.opts.folders.work / name, work / name, symlinks=True)

    def _ours(self) -> float:
        command: list[Arg] = [
            sys.executable, "-m", "scripts.sessions.build",
            "--distribution", self.opts.target.distribution.name,
            "--arch", self.opts.target.arch.name,
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
        shop = self._plain_shop()
        ingredients.write_emulators(ingredients.obtain_emulators(shop), shop)
        common, env = shop.places.plain(self._folder("plain/built/output"))
        command = self.shop.mkosi.command(
            "--image-id", image,
            *common,
            "--incremental", "yes",
            "--cache-directory", self._folder("plain/built/cache"),
            "--package-cache-dir", shop.places.images.folder / "packages",
            "--force",
            "build",
        )  # fmt: skip
        with self.progress.task("plain mkosi") as task:
            task.step("building")
            began = time.monotonic()
            stream(command, log=self.log, cwd=self.checkout, env=env)
            return time.monotonic() - began

    def _plain_shop(self) -> Workshop:
        argv = [
            "--distribution", self.opts.target.distribution.name,
            "--arch", self.opts.target.arch.name,
            "--work", os.fspath(self.home / "plain"),
        ]  # fmt: skip
        return Workshop.prepare(arguments.parse(argv, {}, root=self.checkout), self.progress)

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
    console = Terminal(soft_wrap=False)
    console.print(table)
    console.print(f"peak memory of the harness itself: {peak_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    errors.main(main)
