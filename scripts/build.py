"""Build images: `python -m scripts.build`, which the build, image and quickstart sessions run."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from scripts import arch as arches
from scripts import artifacts, doctor, errors, failures, mkosi, options, sources, stages
from scripts.artifacts import Artifact
from scripts.digests import text_digest
from scripts.locks import only_build
from scripts.mkosi import Mkosi
from scripts.options import Options
from scripts.progress import Progress
from scripts.run import Arg, CommandError, run, stream, terminate_all
from scripts.stages import Stage, Target
from scripts.tools import Tools

# systemd-repart and dpkg print much after the line that says what went wrong.
TAIL_LINES = 400


@dataclass(frozen=True)
class Place:
    """Where the stages of one target are built and kept, and how mkosi is called for it."""

    folder: Path
    distribution: str
    release: str
    arch: arches.Arch
    sandbox_tree: Path

    def stage(self, name: str) -> Path:
        """The folder that holds the finished output and the record of the stage called name."""
        return self.folder / "stages" / name

    def arguments(self) -> list[Arg]:
        """mkosi's arguments that are the same for all stages of the target."""
        return [
            "--distribution", self.distribution,
            "--release", self.release,
            "--architecture", self.arch.mkosi,
            "--sandbox-tree", self.sandbox_tree,
            "--workspace-directory", self.folder / "workspace",
        ]  # fmt: skip


def place(opts: Options, distribution: str, release: str, arch: arches.Arch, name: str) -> Place:
    """The Place for distribution and arch below the work folder's name, its sandbox tree written."""
    folder = opts.work / name
    archive = sources.find(opts.mirror) if distribution == "debian" else None
    sandbox = sources.write_sandbox_tree(folder / "sandbox", archive, release)
    for part in ("stages", "workspace", "packages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return Place(folder, distribution, release, arch, sandbox)


def release_of(root: Path, distribution: str) -> str:
    """The release that mkosi.conf.d/<distribution>.conf pins."""
    conf = stages.read_conf(root / f"mkosi.conf.d/{distribution}.conf")
    return conf["Distribution"]["Release"]


def image_place(opts: Options) -> Place:
    """Where the images that opts asks for are built."""
    release = opts.release or release_of(opts.root, opts.distribution)
    name = f"{opts.distribution}/{opts.arch}"
    return place(opts, opts.distribution, release, opts.arch, name)


def tools_place(opts: Options) -> Place:
    """Where the tools tree is built: natively, of the distribution that this machine can bootstrap."""
    distribution = "debian" if shutil.which("apt-get") else "fedora"
    release = release_of(opts.root, distribution)
    return place(opts, distribution, release, arches.native(), f"tools/{distribution}")


def tools(opts: Options, using: Mkosi) -> Tools:
    """The tools tree as the last build left it."""
    tree = tools_place(opts).stage(stages.TOOLS_TREE) / stages.TOOLS_TREE
    return Tools(tree, using.sandbox)


def obtain(opts: Options, progress: Progress) -> Mkosi:
    """The pinned and patched mkosi, obtained if need be; see `mkosi.obtain`."""
    return mkosi.obtain(
        opts.root / "mkosi",
        opts.work,
        given=opts.mkosi_source,
        offline=opts.offline,
        say=progress.say,
    )


def _before(stage: Stage) -> set[str]:
    """The stages that must be finished before stage is built."""
    return {*stage.needs, stages.TOOLS_TREE} - {stage.name}


class _StageLog:
    """A stage's part of the build log: its whole lines, with its name in front of each."""

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


@dataclass
class Builder:
    """Builds the stages that are out of date, several at a time where they allow it."""

    opts: Options
    using: Mkosi
    progress: Progress
    images: Place
    tools: Place
    log: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def build(self, planned: Sequence[Stage], log: IO[bytes]) -> None:
        """Build planned, each stage after those it needs. The first failure ends the others."""
        waiting = {stage.name: stage for stage in planned}
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(max_workers=self.opts.jobs) as pool:
            try:
                while waiting or running:
                    unfinished = {*waiting, *running.values()}
                    for name, stage in list(waiting.items()):
                        if len(running) < self.opts.jobs and not unfinished & _before(stage):
                            running[pool.submit(self._build, stage, log)] = name
                            del waiting[name]
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        del running[future]
                        future.result()
            except BaseException:
                terminate_all()
                raise

    def _build(self, stage: Stage, log: IO[bytes]) -> None:
        place = self.tools if stage.name == stages.TOOLS_TREE else self.images
        started = time.monotonic()
        with self.progress.task(stage.name) as task, self._run_folder(place, stage) as folder:
            try:
                with _package_cache(place, stage) as packages:
                    stream(
                        self.using.command(*self._arguments(place, stage, folder, packages)),
                        log=_StageLog(stage.name, log, self._lock),
                        on_line=lambda line: task.step(_step(line) or task.current),
                        cwd=self.opts.root,
                        env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
                        keep=TAIL_LINES,
                    )
                    made = self._finish(stage, folder, task.step)
            except CommandError as error:
                raise failures.explain(
                    stage.name, error, work=self.opts.work, log=self.log
                ) from error
            self._deliver(place, stage, folder, made, round(time.monotonic() - started, 1))

    def _arguments(self, place: Place, stage: Stage, folder: Path, packages: Path) -> list[Arg]:
        tree = "no"
        if stage.name != stages.TOOLS_TREE:
            tree = os.fspath(self.tools.stage(stages.TOOLS_TREE) / stages.TOOLS_TREE)
        cache = place.folder / "cache" / stage.name
        cache.mkdir(parents=True, exist_ok=True)
        return [
            "--profile", "staged",
            "--image-id", stage.name,
            *place.arguments(),
            "--tools-tree", tree,
            "--output-directory", folder,
            "--cache-directory", cache,
            "--package-cache-dir", packages,
            *(["--cache-only", "always"] if self.opts.offline else []),
            "build",
        ]  # fmt: skip

    @contextmanager
    def _run_folder(self, place: Place, stage: Stage) -> Iterator[Path]:
        """An output directory in which the stages that stage needs are there already, as links."""
        folder = place.folder / "building" / stage.name
        remove(folder)
        folder.mkdir(parents=True)
        for need in stage.needs:
            for output in self.images.stage(need).iterdir():
                if output.name != stages.RECORD:
                    (folder / output.name).symlink_to(output)
        try:
            yield folder
        finally:
            remove(folder)

    def _finish(self, stage: Stage, folder: Path, step: Any) -> list[Artifact]:
        """Make of mkosi's output in folder what is an artifact, and describe it."""
        outputs = artifacts.OUTPUTS.get(stage.name, ())
        if "os-image.qcow2" in outputs:
            step("Converting to qcow2")
            artifacts.to_qcow2(folder / "os-image.raw", self._tools())
        if outputs:
            step("Computing checksums")
        return artifacts.describe(folder, outputs)

    def _tools(self) -> Tools:
        return Tools(self.tools.stage(stages.TOOLS_TREE) / stages.TOOLS_TREE, self.using.sandbox)

    def _deliver(
        self, place: Place, stage: Stage, folder: Path, made: list[Artifact], seconds: float
    ) -> None:
        """Put the artifacts under their final names, and the rest of folder where stages are kept."""
        final = place.stage(stage.name)
        remove(final)
        for link in folder.iterdir():
            if link.is_symlink() and link.readlink().is_absolute():
                link.unlink()
        artifacts.deliver(artifacts.OUTPUTS.get(stage.name, ()), folder, self.opts.target)
        record = {
            "key": stage.key,
            "inputs": dict(stage.inputs),
            "seconds": seconds,
            "artifacts": [asdict(artifact) for artifact in made],
            "packages": _packages(folder / f"{stage.name}.manifest"),
        }
        (folder / stages.RECORD).write_text(json.dumps(record, indent=1))
        final.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(final)


def main(argv: Sequence[str]) -> None:
    """Build what argv asks for, or say that all of it is up to date."""
    opts = options.parse(argv, os.environ)
    progress = Progress()
    with only_build(opts.work):
        build_images(opts, progress)


def build_images(opts: Options, progress: Progress) -> None:
    """Build the images that opts names, and write the checksums and the manifest."""
    using = obtain(opts, progress)
    images, tools_at = image_place(opts), tools_place(opts)
    planned = _plan(opts, using, images, tools_at)
    records = {stage.name: _record(_stage_of(stage, images, tools_at)) for stage in planned}
    reasons = {
        stage.name: _reason(stage, records[stage.name], opts) for stage in planned
    }
    todo = [stage for stage in planned if reasons[stage.name]]
    if todo:
        doctor.require("build", opts)
        mkosi.install(using)
        for stage in todo:
            progress.say(f"{stage.name} will be built: {reasons[stage.name]}")
        log = opts.target / "build.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (images.folder, tools_at.folder):
            remove(leftover / "building")
            remove(leftover / "workspace")
            (leftover / "workspace").mkdir()
        builder = Builder(opts, using, progress, images, tools_at, log)
        with log.open("wb") as file:
            builder.build(todo, file)
    _describe(opts, using, images, planned, built={stage.name for stage in todo})


def _plan(opts: Options, using: Mkosi, images: Place, tools_at: Place) -> list[Stage]:
    """The tools tree, and the stages of the wanted images in order."""
    values = {"mkosi": using.digest}
    tools_target = Target(
        tools_at.distribution, tools_at.arch, values | {"packages from": _sources_digest(tools_at)}
    )
    [tree] = stages.plan(opts.root, [stages.TOOLS_TREE], tools_target)
    target = Target(
        images.distribution,
        images.arch,
        values
        | {
            "release": images.release,
            "packages from": _sources_digest(images),
            "tools tree": tree.key,
        },
    )
    wanted = opts.images or options.IMAGES[opts.arch.name]
    return [tree, *stages.plan(opts.root, wanted, target)]


def _sources_digest(at: Place) -> str:
    files = sorted(path for path in at.sandbox_tree.rglob("*.sources"))
    return text_digest("".join(path.read_text() for path in files))


def _stage_of(stage: Stage, images: Place, tools_at: Place) -> Path:
    return (tools_at if stage.name == stages.TOOLS_TREE else images).stage(stage.name)


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / stages.RECORD).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _reason(stage: Stage, record: Mapping[str, Any] | None, opts: Options) -> str:
    if opts.force and stage.name != stages.TOOLS_TREE:
        return "--force"
    if reason := stages.out_of_date(stage, record):
        return reason
    assert record
    made = [Artifact(**entry) for entry in record["artifacts"]]
    changed = [artifact.name for artifact in made if not artifact.stands_in(opts.target)]
    return f"{changed[0]} is gone or was written to" if changed else ""


def _describe(
    opts: Options, using: Mkosi, images: Place, planned: Sequence[Stage], *, built: set[str]
) -> None:
    """Write checksums and manifest over everything in out/, and show a person what there is."""
    records = {
        path.name: record
        for path in sorted((images.folder / "stages").iterdir())
        if (record := _record(path))
    }
    made = {
        name: [Artifact(**entry) for entry in record["artifacts"]]
        for name, record in records.items()
    }
    standing = [
        artifact
        for name in made
        for artifact in made[name]
        if artifact.stands_in(opts.target)
    ]
    artifacts.write_checksums(opts.target, standing)
    artifacts.write_manifest(opts.target, _manifest(using, images, records), standing)
    _show(opts, images, planned, records, built)


def _manifest(using: Mkosi, images: Place, records: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "distribution": images.distribution,
        "release": images.release,
        "arch": images.arch.name,
        "mkosi": {
            "version": using.version,
            "source": using.source,
            "digest": using.digest,
            "patches": using.patches,
        },
        "images": {
            name: {"key": record["key"], "packages": record["packages"]}
            for name, record in records.items()
        },
    }


def _show(
    opts: Options,
    images: Place,
    planned: Sequence[Stage],
    records: Mapping[str, Any],
    built: set[str],
) -> None:
    table = Table("artifact", "size", "seconds", "sha512")
    for stage in planned:
        if stage.name == stages.TOOLS_TREE:
            continue
        record = records[stage.name]
        seconds = f"{record['seconds']:.0f}" if stage.name in built else "up to date"
        for name in artifacts.OUTPUTS.get(stage.name, ()):
            own = [a for a in record["artifacts"] if a["name"].split("/")[0] == name]
            digest = own[0]["sha512"][:16] if len(own) == 1 else f"{len(own)} files"
            table.add_row(name, decimal(sum(a["size"] for a in own)), seconds, digest)
    console = Console(highlight=False)
    if table.row_count:
        console.print(table)
        console.print(f"in {opts.target}", soft_wrap=True)
    else:
        for name in opts.images:
            console.print(f"{name} stands in {images.stage(name)}", soft_wrap=True)
    if not built:
        console.print("everything is up to date")


def _packages(manifest: Path) -> list[dict[str, str]]:
    """The packages that mkosi's manifest lists ([] for an image without one)."""
    try:
        listed = json.loads(manifest.read_text()).get("packages", [])
    except OSError:
        return []
    return [
        {"name": p["name"], "version": p["version"], "architecture": p["architecture"]}
        for p in listed
    ]


def _step(line: str) -> str:
    """The step that a line of mkosi's output announces ("" if none)."""
    if not line.startswith("‣"):
        return ""
    text = line.removeprefix("‣").strip()
    return text.partition("] ")[2].strip() if text.startswith("[") else text


@contextmanager
def _package_cache(place: Place, stage: Stage) -> Iterator[Path]:
    """A package cache for one stage, filled from the common one and given back to it.

    apt and dnf do not expect a second one to write to their cache at the same
    time, which stages that are built side by side would do. The files are
    shared by hard links.
    """
    common = place.folder / "packages"
    own = place.folder / "building" / f"{stage.name}.packages"
    remove(own)
    _share(common, own)
    try:
        yield own
    finally:
        _share(own, common)
        remove(own)


def _share(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.rglob("*"):
        if path.suffix in (".deb", ".rpm") and path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.link(path, copy)


def remove(path: Path) -> None:
    """Remove path and all below it, also where an unprivileged build gave it to its subordinate users."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except PermissionError:
        run(["unshare", "--map-root-user", "--map-auto", "--", "rm", "-rf", "--", path])


if __name__ == "__main__":
    errors.main(main)
