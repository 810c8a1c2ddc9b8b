"""Running mkosi for each stage that is out of date, several at a time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from scripts import catalog
from scripts.build import finishing, isolation, labels
from scripts.build.package_cache import Dropped, Granted, PackageCache, unpacker
from scripts.build.workshop import Workshop
from scripts.distributions.index import Index
from scripts.emulation import standins
from scripts.mkosi import failures, workspaces
from scripts.mkosi.confinement import Confinement
from scripts.origin import Checkout
from scripts.stages import artifacts, delivery, records
from scripts.stages.artifacts import Artifact
from scripts.stages.places import RPMS, STANDINS
from scripts.stages.plan import Stage
from scripts.stages.records import Package, Record, packages_of
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
        self._caches = {
            place.folder: PackageCache(
                place,
                unpacker(shop.tools, place.folder / "building"),
                offline=self._options.sources.offline,
                allow_older=self._options.sources.allow_older_index,
            )
            for place in (self._places.images, self._places.tools)
        }
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
            for cache in self._caches.values():
                cache.finish()

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
                offered = self._run_mkosi(
                    stage, folder, task, _StageLog(stage.name, log, self._lock)
                )
                made = self._finish(stage, folder, task)
                packages = self._packages(stage, folder, offered)
                seconds = round(time.monotonic() - started, 1)
                self._deliver(stage, folder, made, packages, seconds)
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

    def _run_mkosi(self, stage: Stage, folder: Path, task: Task, log: _StageLog) -> Index:
        """Run mkosi for stage, and return the index of what it could install."""
        place = self._places.of_stage(stage.name)
        spare = self._spare(stage)

        def sync(arguments: Sequence[Arg], output: Path) -> None:
            task.step("Fetching the lists of packages")
            env = place.environment(output) | spare
            command = [*self._common(stage, output), *arguments, "build"]
            confinement = self._confinement(stage, output, [], is_offline=False)
            self._stream(command, confinement, env, task, log, shows_steps=False)

        report = partial(self._report, stage, log)
        with self._caches[place.folder].of_stage(stage, sync, report) as granted:
            env = place.environment(folder) | spare
            own = [granted.metadata, granted.packages]
            is_offline = self._options.sources.offline or not stage.installs
            confinement = self._confinement(stage, folder, own, is_offline=is_offline)
            self._stream(self._arguments(stage, folder, granted), confinement, env, task, log)
            return granted.index or Index({}, {})

    def _report(self, stage: Stage, log: _StageLog, dropped: Dropped) -> None:
        log.write(f"{dropped}\n".encode())
        if dropped.differs:
            self._shop.progress.say(f"{stage.name}: {dropped}")

    def _confinement(
        self, stage: Stage, folder: Path, own: Sequence[Path], *, is_offline: bool
    ) -> Confinement:
        """Return mkosi's confinement for stage: it may write to folder, its output, and to own."""
        place = self._places.of_stage(stage.name)
        temporary = folder.with_name(f"{folder.name}.tmp")
        temporary.mkdir(exist_ok=True)
        return isolation.around(
            place,
            self._places.configuration,
            self._shop.tools,
            read=[*map(self._places.stage, stage.needs), self._standins(stage)],
            write=[folder, *own, self._workspace],
            temporary=temporary,
            is_offline=is_offline,
            # A stage that installs packages runs their scripts. One that does not may label files
            # instead.
            may_label=place.distribution.has_rpms and not stage.installs,
        )

    def _standins(self, stage: Stage) -> Path:
        """The tree of stand-ins for programs that stage would run emulated."""
        place = self._places.of_stage(stage.name)
        return place.folder / "building" / f"{stage.name}.standins"

    def _spare(self, stage: Stage) -> dict[str, str]:
        """Write stand-ins for programs that would be emulated, and return mkosi's variable.

        Every stage needs the variable, because mkosi reads the configuration of all images.
        """
        place = self._places.of_stage(stage.name)
        if not standins.are_for(place.distribution, place.arch):
            return {}
        tree = self._standins(stage)
        standins.write_tree(tree, self._places.tools_tree)
        return {STANDINS: os.fspath(tree)}

    def _stream(
        self,
        arguments: Sequence[Arg],
        confinement: Confinement,
        env: Mapping[str, str],
        task: Task,
        log: _StageLog,
        *,
        shows_steps: bool = True,
    ) -> None:
        """Run mkosi, again after a pause if the mirror fails for a moment."""
        on_line = partial(_show, task) if shows_steps else None
        command = confinement.command(self._shop.mkosi.command(*arguments))
        for pause in PAUSES:
            try:
                return self._stream_once(command, env, on_line, log)
            except CommandError as error:
                if self._options.sources.offline or not failures.is_transient(error):
                    raise
                task.step(f"the mirror failed, trying again in {pause} s")
                if self._ending.wait(pause):
                    raise
        return self._stream_once(command, env, on_line, log)

    def _stream_once(
        self,
        command: Sequence[Arg],
        env: Mapping[str, str],
        on_line: Callable[[str], None] | None,
        log: _StageLog,
    ) -> None:
        stream(
            command,
            log=log,
            on_line=on_line,
            cwd=self._places.configuration,
            env=env,
            keep=TAIL_LINES,
        )

    def _arguments(self, stage: Stage, folder: Path, granted: Granted) -> list[Arg]:
        place, offline = self._places.of_stage(stage.name), self._options.sources.offline
        # A dnf that may only use its cache refuses the repository of our own RPMs, because mkosi
        # makes it anew. Offline it has no network instead.
        has_cache = stage.installs and (place.distribution.has_rpms or not offline)
        epoch = self._options.build.epoch
        return [
            *self._common(stage, folder),
            "--image-id", stage.name,
            *(["--package-directory", RPMS] if stage.name == catalog.ADDITIONS else []),
            "--cache-directory", granted.metadata,
            "--package-cache-dir", granted.packages,
            "--cache-only", "metadata" if has_cache else "always",
            *([] if epoch is None else ["--source-date-epoch", str(epoch)]),
            "build",
        ]  # fmt: skip

    def _common(self, stage: Stage, folder: Path) -> list[Arg]:
        """Return the arguments of every mkosi that runs for stage, with its output in folder."""
        place = self._places.of_stage(stage.name)
        foreign = [] if place.arch.is_native else ["--profile", "foreign"]
        return [
            "--profile", "staged", *foreign,
            *place.arguments(),
            "--tools-tree", "no" if stage.name == catalog.TOOLS_TREE else self._places.tools_tree,
            "--output-directory", folder,
            "--workspace-directory", self._workspace,
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
        finishing.finish(folder, outputs, self._shop.tools, task, partial(self._labels, stage))
        if outputs:
            task.step("Computing checksums")
        return artifacts.describe(folder, outputs)

    def _labels(self, stage: Stage) -> Mapping[str, str]:
        """Return the labels of the container image that stage makes."""
        place = self._places.of_stage(stage.name)
        checkout = Checkout.of(self._options.folders.root)
        return labels.of(stage.name, place.distribution, place.release, checkout)

    def _digest(self, need: str) -> str:
        """The digest of a finished stage."""
        record = Record.read(self._places.stage(need))
        assert record, need
        return record.digest

    def _packages(self, stage: Stage, folder: Path, offered: Index) -> tuple[Package, ...]:
        """Return the packages that mkosi installed, or found installed below stage."""
        needs = [self._places.stage(need) for need in stage.needs if need != catalog.INITRD]
        below = [record for need in needs if (record := Record.read(need))]
        main = self._places.of_stage(stage.name).distribution.mkosi
        return packages_of(
            folder / f"{stage.name}.manifest",
            offered.digests,
            stage.inputs,
            below,
            offered.elsewhere(main),
        )

    def _deliver(
        self,
        stage: Stage,
        folder: Path,
        made: list[Artifact],
        packages: tuple[Package, ...],
        seconds: float,
    ) -> None:
        """Move the artifacts to their final names, and the rest of folder to where stages are kept.

        Everything that needs space happens first. Then the old record goes first and the new one
        comes last, so that a stage that was interrupted in between is built again.
        """
        final = self._places.stage(stage.name)
        for path in folder.iterdir():
            if path.is_symlink() and path.readlink().is_absolute():
                path.unlink()
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


def _show(task: Task, line: str) -> None:
    """Show the step that a line of mkosi's output announces, if it announces one."""
    task.step(_step(line) or task.current)


def _step(line: str) -> str:
    """The step that a line of mkosi's output announces ("" if it announces none)."""
    if not line.startswith("‣"):
        return ""
    text = line.removeprefix("‣").strip()
    if text.startswith("["):
        text = text.partition("] ")[2].strip()
    # Failed commands, what went on meanwhile, and lines about a single file are for the log only.
    return "" if text.startswith(('"', "(")) or " /" in f" {text}" else text
