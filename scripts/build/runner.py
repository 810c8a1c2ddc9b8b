"""Running mkosi for each stage that is out of date, several at a time."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from scripts import catalog
from scripts.build import finishing
from scripts.build.workshop import Workshop
from scripts.emulation import standins
from scripts.mkosi import failures, workspaces
from scripts.stages import artifacts, delivery, records
from scripts.stages.artifacts import Artifact
from scripts.stages.places import RPMS, STANDINS, Place
from scripts.stages.plan import Stage
from scripts.stages.records import Record
from scripts.system.errors import UsageError
from scripts.system.files import remove
from scripts.system.process import GRACE_SECONDS, Arg, CommandError, signal_all, stream
from scripts.system.progress import Task

# systemd-repart and dpkg print many lines after the one that says what went wrong.
TAIL_LINES = 400

# Seconds to wait before each further attempt to build from a mirror that fails.
PAUSES = (2, 8)


def _before(stage: Stage) -> set[str]:
    """The names of the stages that must be finished before stage is built."""
    return {*stage.needs, catalog.TOOLS_TREE} - {stage.name}


class _StageLog:
    """A stage's part of the build log: whole lines, each with the stage's name in front."""

    def __init__(self, name: str, log: IO[bytes], lock: threading.Lock) -> None:
        self._prefix = f"{name} | ".encode()
        self._log = log
        self._lock = lock

    def write(self, line: bytes) -> None:
        with self._lock:
            self._log.write(self._prefix + line)

    def flush(self) -> None:
        with self._lock:
            self._log.flush()


class Runner:
    """Builds stages, several at a time if their dependencies allow it."""

    def __init__(self, shop: Workshop) -> None:
        """Make a runner for the workshop's target; mkosi must be installed."""
        self._shop = shop
        self._options = shop.options
        self._places = shop.places
        self._log_path = shop.options.artifacts / "build.log"
        self._workspace: Path
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def build(self, planned: Sequence[Stage]) -> None:
        """Build the stages of planned, each after its dependencies.

        The first failure ends the others. Raises HarnessError with the cause, as far as mkosi's
        output shows it, and UsageError if the log cannot be written.
        """
        try:
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            self._log_path.touch()
        except OSError as error:
            raise UsageError(
                f"{self._log_path} cannot be written: {error}",
                hint=f"{catalog.option('out')} names another folder",
            ) from None
        with (
            self._work_folders() as self._workspace,
            self._log_path.open("wb") as log,
            ThreadPoolExecutor(self._options.build.jobs) as pool,
        ):
            running: dict[Future[None], str] = {}
            try:
                self._run_all(planned, pool, log, running)
            except BaseException:
                self._ending.set()
                _end(running)
                raise

    @contextmanager
    def _work_folders(self) -> Iterator[Path]:
        """Make the folders that exist only during a build, and yield mkosi's workspace."""
        building = [
            place.folder / "building" for place in (self._places.images, self._places.tools)
        ]
        folders = [*building, *workspaces.folders(self._options.folders.work)]
        for path in folders:
            remove(path)
        for path in building:
            path.mkdir()
        try:
            yield workspaces.make(self._options.folders.work)
        finally:
            for path in folders:
                remove(path)

    def _run_all(
        self,
        planned: Sequence[Stage],
        pool: ThreadPoolExecutor,
        log: IO[bytes],
        running: dict[Future[None], str],
    ) -> None:
        waiting = list(planned)
        while waiting or running:
            unfinished = {*running.values(), *(stage.name for stage in waiting)}
            ready = [stage for stage in waiting if not unfinished & _before(stage)]
            for stage in ready[: self._options.build.jobs - len(running)]:
                running[pool.submit(self._build, stage, log)] = stage.name
                waiting.remove(stage)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                del running[future]
                future.result()

    def _build(self, stage: Stage, log: IO[bytes]) -> None:
        started = time.monotonic()
        with self._shop.progress.task(stage.name) as task, self._run_folder(stage) as folder:
            try:
                self._run_mkosi(stage, folder, task, _StageLog(stage.name, log, self._lock))
                made = self._finish(stage, folder, task)
                self._deliver(stage, folder, made, round(time.monotonic() - started, 1))
            except CommandError as error:
                raise failures.explain(
                    stage.name,
                    error,
                    work=self._options.folders.work,
                    log=self._log_path,
                    repository=self._places.of_stage(stage.name).repository,
                ) from error
            except OSError as error:
                raise failures.explain_os_error(
                    stage.name, error, work=self._options.folders.work
                ) from error

    def _run_mkosi(self, stage: Stage, folder: Path, task: Task, log: _StageLog) -> None:
        with _package_cache(self._places.of_stage(stage.name), stage) as packages:
            command = self._shop.mkosi.command(*self._arguments(stage, folder, packages))
            env = self._places.of_stage(stage.name).environment(folder) | self._spare(stage, folder)
            for pause in PAUSES:
                try:
                    return self._stream(command, env, task, log)
                except CommandError as error:
                    if not failures.is_transient(error):
                        raise
                    task.step(f"the mirror failed, trying again in {pause} s")
                    if self._ending.wait(pause):
                        raise
            return self._stream(command, env, task, log)

    def _spare(self, stage: Stage, folder: Path) -> dict[str, str]:
        """Write stand-ins for programs that would be emulated, and return mkosi's variable.

        Every stage needs the variable, because mkosi reads the configuration of all images.
        """
        place = self._places.of_stage(stage.name)
        if not standins.are_for(place.distribution, place.arch):
            return {}
        tree = folder.with_name(f"{stage.name}.standins")
        standins.write_tree(tree, self._places.tools_tree)
        return {STANDINS: os.fspath(tree)}

    def _stream(
        self, command: Sequence[Arg], env: Mapping[str, str], task: Task, log: _StageLog
    ) -> None:
        stream(
            command,
            log=log,
            on_line=lambda line: task.step(_step(line) or task.current),
            cwd=self._places.configuration,
            env=env,
            keep=TAIL_LINES,
        )

    def _arguments(self, stage: Stage, folder: Path, packages: Path) -> list[Arg]:
        place = self._places.of_stage(stage.name)
        tree = "no" if stage.name == catalog.TOOLS_TREE else self._places.tools_tree
        cache = place.folder / "cache" / stage.name
        cache.mkdir(parents=True, exist_ok=True)
        is_offline = self._options.sources.offline or not stage.installs
        epoch = self._options.build.epoch
        foreign = [] if place.arch.is_native else ["--profile", "foreign"]
        return [
            "--profile", "staged", *foreign,
            "--image-id", stage.name,
            *place.arguments(),
            *(["--package-directory", RPMS] if stage.name == catalog.ADDITIONS else []),
            "--tools-tree", tree,
            "--output-directory", folder,
            "--workspace-directory", self._workspace,
            "--cache-directory", cache,
            "--package-cache-dir", packages,
            *(["--cache-only", "always"] if is_offline else []),
            *([] if epoch is None else ["--source-date-epoch", str(epoch)]),
            "build",
        ]  # fmt: skip

    @contextmanager
    def _run_folder(self, stage: Stage) -> Iterator[Path]:
        """Make an output directory with links to the dependencies of stage."""
        folder = self._places.of_stage(stage.name).folder / "building" / stage.name
        folder.mkdir(parents=True)
        for need in stage.needs:
            for output in self._places.stage(need).iterdir():
                if output.name != records.NAME:
                    (folder / output.name).symlink_to(output)
        try:
            yield folder
        finally:
            remove(folder)

    def _finish(self, stage: Stage, folder: Path, task: Task) -> list[Artifact]:
        """Make the artifacts from mkosi's output in folder, and return their descriptions."""
        outputs = catalog.artifacts(stage.name)
        finishing.finish(folder, outputs, self._shop.tools, task)
        if outputs:
            task.step("Computing checksums")
        return artifacts.describe(folder, outputs)

    def _digest(self, need: str) -> str:
        """The digest of a finished stage."""
        record = Record.read(self._places.stage(need))
        assert record, need
        return record.digest

    def _deliver(self, stage: Stage, folder: Path, made: list[Artifact], seconds: float) -> None:
        """Move the artifacts to their final names, and the rest of folder to where stages are kept.

        Everything that needs space happens first. Then the old record goes first and the new one
        comes last, so that a stage that was interrupted in between is built again.
        """
        final = self._places.stage(stage.name)
        for path in folder.iterdir():
            if path.is_symlink() and path.readlink().is_absolute():
                path.unlink()
        packages = records.packages_of(folder / f"{stage.name}.manifest")
        built_from = {need: self._digest(need) for need in stage.needs}
        Record.of(stage, seconds, made, packages, built_from).write(folder)
        outputs = catalog.artifacts(stage.name)
        with delivery.delivery(outputs, folder, self._options.artifacts):
            remove(final)
        folder.rename(final)


def _end(running: Iterable[Future[None]]) -> None:
    """End the processes that the futures run, including one that is only just starting."""
    killing = time.monotonic() + GRACE_SECONDS
    while True:
        signal_all(signal.SIGTERM if time.monotonic() < killing else signal.SIGKILL)
        if not wait(running, timeout=0.2).not_done:
            return


def _step(line: str) -> str:
    """The step that a line of mkosi's output announces ("" if it announces none)."""
    if not line.startswith("‣"):
        return ""
    text = line.removeprefix("‣").strip()
    if text.startswith("["):
        text = text.partition("] ")[2].strip()
    # Failed commands, what went on meanwhile, and lines about a single file are for the log only.
    return "" if text.startswith(('"', "(")) or " /" in f" {text}" else text


@contextmanager
def _package_cache(place: Place, stage: Stage) -> Iterator[Path]:
    """Make a package cache for one stage from the common one; new packages go back at the end.

    Stages are built side by side, and neither apt nor dnf expects others to write to its cache.
    """
    common = place.folder / "packages"
    own = place.folder / "building" / f"{stage.name}.packages"
    remove(own)
    own.mkdir()
    if stage.installs:
        share(common, own)
    try:
        yield own
    finally:
        for path, kept in _packages(own, common):
            path.replace(kept)
        remove(own)


def share(source: Path, target: Path) -> None:
    """Give target the packages below source.

    apt names a package only once it is whole, so a hard link is enough. dnf writes a changed
    package over the old file, which others would see, so it gets copies.
    """
    for path, copy in _packages(source, target):
        if path.suffix == ".deb":
            with suppress(FileExistsError):
                os.link(path, copy)
        else:
            shutil.copy2(path, copy)


def _packages(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each package below source with its path below target, and make that path's folder."""
    for path in list(source.rglob("*")):
        is_whole = "partial" not in path.parts  # where apt keeps unfinished downloads
        if is_whole and path.suffix in (".deb", ".rpm") and path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            yield path, place
