"""Packages of our own: RPMs that Amazon Linux lacks or breaks, built in Docker with BuildKit.

al2023-package-build/ says which and from what; here its files become a build context, the context
a key, and RPMs that were built from the same context are not built again.
"""

from __future__ import annotations

import csv
import io
import ipaddress
import os
import re
import shutil
import time
import tomllib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts import artifacts, engine, releases, stages
from scripts.additions import Additions
from scripts.digests import describe_tree
from scripts.engine import Engine
from scripts.errors import HarnessError, MachineError, UsageError
from scripts.options import BASE_IMAGE, NO_PROXY, RPM_DISTRIBUTIONS, Options
from scripts.places import Place
from scripts.progress import Progress, Task
from scripts.records import Package, Record
from scripts.run import CommandError, Log, stream
from scripts.stages import Stage

# The folder of the Dockerfile, in the checkout.
FOLDER = "al2023-package-build"

# The source whose mirror, release and key are those of the images.
AMAZON = "amazonlinux"
AMAZON_KEY = "keys/RPM-GPG-KEY-amazon-linux-2023"

# Lines of a step that failed that are worth showing.
TAIL_LINES = 40

# A server that stalls is given up as mkosi's dnf gives it up (scripts/sources.py).
PATIENCE = "retries=3\ntimeout=15\nminrate=1000\n"

# What may be added to a release: sed puts it there, and rpm compares it.
SUFFIX = re.compile(r"[A-Za-z0-9.]+")

# A stage of the Dockerfile that has a name; all but BUILDER build the package of that name.
STAGE = re.compile(r"^FROM\s.*\sAS\s+(\S+)", re.MULTILINE | re.IGNORECASE)
BUILDER = "builder"

# By this name too buildx knows the BuildKit of the engine itself.
DEFAULT_BUILDER = "default"

# What the form of a layer cache is that ECR takes.
REGISTRY_CACHE = {"mode": "max", "image-manifest": "true", "oci-mediatypes": "true"}


@dataclass(frozen=True)
class Source:
    """Where source RPMs come from: dnf's option that says so, and the key they are signed with."""

    option: str
    url: str
    key: Path

    def repository(self, name: str, *, check: bool) -> str:
        """A dnf repository (dnf.conf(5)) of that name; check: its RPMs' signatures."""
        gpg = "gpgcheck=1\ngpgkey=file:///build/repositories/key\n" if check else "gpgcheck=0\n"
        return f"[{name}]\nname={name}\n{self.option}={self.url}\n{gpg}{PATIENCE}\n"


@dataclass(frozen=True)
class Recipe:
    """A package that is built: from which source RPM, changed how, and what of it is wanted."""

    name: str
    source: str
    nevra: str
    patches: tuple[Path, ...]
    suffix: str
    rpms: tuple[str, ...]


@dataclass(frozen=True)
class Pins:
    """What packages.toml says. image is what packages are built in, digest its digest or ""."""

    image: str
    digest: str
    sources: Mapping[str, Source]
    recipes: tuple[Recipe, ...]

    @property
    def reference(self) -> str:
        """The image, by its digest where that is known."""
        return f"{self.image}@{self.digest}" if self.digest else self.image


def read(path: Path) -> Pins:
    """The pins in the file at path, whose folder the paths in it start from. Raises UsageError."""
    try:
        data = tomllib.loads(path.read_text())
        image = _Table(path, BASE_IMAGE, data[BASE_IMAGE])
        tag = image.text("tag") if "tag" in image.values else ""
        pins = Pins(
            image=f"{image.text('name')}:{tag}" if tag else image.text("name"),
            digest=image.text("digest"),
            sources={
                name: _source(_Table(path, f"source.{name}", table))
                for name, table in data.get("source", {}).items()
            },
            recipes=tuple(
                _recipe(name, _Table(path, f"package.{name}", table))
                for name, table in data["package"].items()
            ),
        )
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is not complete: {error}", hint=f"{FOLDER}/packages.toml has all there is"
        ) from None
    for recipe in pins.recipes:
        if recipe.source not in (AMAZON, *pins.sources):
            raise UsageError(f"{path}: {recipe.name} has the unknown source {recipe.source!r}")
    return pins


@dataclass(frozen=True)
class _Table:
    """A table of the pins at path, its values yet to be looked at."""

    path: Path
    name: str
    values: Mapping[str, Any]

    def text(self, key: str) -> str:
        """The string of that key. Raises KeyError, and UsageError where it is something else."""
        value = self.values[key]
        if not isinstance(value, str):
            raise UsageError(f"{self.path}: {key} of {self.name} is no string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """As `text`, of a list of strings."""
        values = self.values[key]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise UsageError(f"{self.path}: {key} of {self.name} is no list of strings")
        return tuple(values)


def _source(table: _Table) -> Source:
    return Source("baseurl", table.text("baseurl"), table.path.parent / table.text("key"))


def _recipe(name: str, table: _Table) -> Recipe:
    suffix = table.text("suffix")
    if not SUFFIX.fullmatch(suffix):
        raise UsageError(
            f"{table.path}: {suffix!r}, the suffix of {table.name}, is not made of letters, digits "
            "and dots"
        )
    return Recipe(
        name=name,
        source=table.text("source"),
        nevra=table.text("nevra"),
        patches=tuple(table.path.parent / patch for patch in table.texts("patches")),
        suffix=suffix,
        rpms=table.texts("rpms"),
    )


@dataclass(frozen=True)
class Plan:
    """What is to be built for opts, in which context; reason says why, "" where nothing is.

    finished is the folder of the RPMs, engine what they will be built with once that is known.
    """

    opts: Options
    pins: Pins
    context: Path
    stage: Stage
    finished: Path
    reason: str
    engine: Engine | None = None


def plan(opts: Options, place: Place) -> Plan | None:
    """What packages come to for opts: None where the distribution's own are to do.

    Raises UsageError for pins that make no sense or lack a digest.
    """
    if opts.distribution not in RPM_DISTRIBUTIONS or opts.without_packages:
        return None
    pins = read(opts.packages)
    _check_stages(pins, opts)
    if not pins.digest and BASE_IMAGE not in opts.allow_missing:
        raise UsageError(
            f"the image {pins.image}, in which packages are built, is not pinned by its digest",
            hint="./nox -s update-pins obtains it; "
            f"-- --allow-missing {BASE_IMAGE} takes what the tag names, "
            "-- --without-packages builds none",
        )
    work = place.folder / "package-build"
    context = write_context(work / "context", pins, opts, place)
    inputs = {"base image": pins.reference, "architecture": place.arch.name}
    stage = Stage(FOLDER, (), inputs | describe_tree(context))
    finished = work / "rpms"
    return Plan(opts, pins, context, stage, finished, _reason(stage, finished, opts))


def _check_stages(pins: Pins, opts: Options) -> None:
    """Raise UsageError where the packages of pins are not those that the Dockerfile builds."""
    text = (opts.root / FOLDER / "Dockerfile").read_text()
    builds = sorted({*STAGE.findall(text)} - {BUILDER})
    names = sorted(recipe.name for recipe in pins.recipes)
    if names != builds:
        raise UsageError(
            f"{opts.packages} has the packages {', '.join(names) or '(none)'}, but what is built "
            f"is {', '.join(builds)}",
            hint=f"each takes a stage of its name in {FOLDER}/Dockerfile",
        )


def ready(planned: Plan) -> Plan:
    """The plan with the engine that it needs. Raises MachineError where there is none."""
    opts = planned.opts
    if opts.offline:
        raise HarnessError(
            "packages have to be built, which needs the network",
            hint="leave --offline out, or build without them: -- --without-packages",
        )
    try:
        return replace(planned, engine=engine.require(os.environ, opts.buildx_builder))
    except MachineError as error:
        raise MachineError(
            f"packages of our own cannot be built: {error.message}",
            hint=f"{error.hint}; `./nox -s doctor -- packages` says more, and "
            "-- --without-packages builds with the distribution's own",
        ) from None


def obtain(planned: Plan, progress: Progress) -> Additions:
    """The RPMs that planned names, built if there is a reason to.

    Raises HarnessError where that fails; RPMs that were there before are there still.
    """
    if planned.engine:
        progress.say(f"packages will be built: {planned.reason}")
        _build(planned, planned.engine, progress)
    wanted = tuple(name for recipe in planned.pins.recipes for name in recipe.rpms)
    return Additions(tuple(sorted(planned.finished.glob("*.rpm"))), wanted)


def _reason(stage: Stage, finished: Path, opts: Options) -> str:
    """Why the RPMs have to be built ("" where they need not)."""
    record = Record.read(finished)
    if not record:
        return "not built yet"
    if opts.force and not opts.offline:  # without the network the old ones have to do
        return "--force"
    if record.key != stage.key:
        return stages.difference(record.inputs, stage.inputs)
    changed = [made.name for made in record.artifacts if not made.stands_in(finished)]
    return f"{changed[0]} is gone or was written to" if changed else ""


def write_context(folder: Path, pins: Pins, opts: Options, place: Place) -> Path:
    """Make folder the build context, all that the Dockerfile copies, and return it."""
    own = opts.root / FOLDER
    binary, sources = _repositories(pins, place, opts.signing_key or own / AMAZON_KEY)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("Dockerfile", "build-package"):
        shutil.copy(own / name, folder)
    repositories = folder / "repositories"
    repositories.mkdir()
    shutil.copyfile(binary.key, repositories / "key")
    (repositories / "amazonlinux.repo").write_text(binary.repository("amazonlinux", check=True))
    for recipe in pins.recipes:
        _write_recipe(folder / "packages" / recipe.name, recipe, sources[recipe.source])
    return folder


def _repositories(pins: Pins, place: Place, key: Path) -> tuple[Source, Mapping[str, Source]]:
    """Where packages of the target come from, and source RPMs by the name of their source."""
    base = (place.mirror or releases.CDN).rstrip("/")
    if not releases.is_repository(base):
        tree = f"{base}/core/mirrors/{place.release}"
        own = Source("mirrorlist", f"{tree}/SRPMS/mirror.list", key)
        binary = Source("mirrorlist", f"{tree}/{place.arch.name}/mirror.list", key)
        return binary, {AMAZON: own, **pins.sources}
    if AMAZON not in pins.sources:
        raise UsageError(
            f"{base} is a single repository, which has no source RPMs to build packages from",
            hint=f"name some as [source.{AMAZON}] in a file for -- --packages, or build without "
            "them: -- --without-packages",
        )
    url = base.replace("$basearch", place.arch.name).replace("$releasever", place.release)
    return Source("baseurl", url, key), pins.sources


def _write_recipe(folder: Path, recipe: Recipe, source: Source) -> None:
    for part in ("source", "patches"):
        (folder / part).mkdir(parents=True)
    for name, text in (
        ("nevra", recipe.nevra),
        ("suffix", recipe.suffix),
        ("rpms", "\n".join(recipe.rpms)),
    ):
        (folder / name).write_text(f"{text}\n")
    # The key is asked for by build-package itself: `dnf download` looks at no signature.
    (folder / "source/source.repo").write_text(source.repository("source", check=False))
    try:
        shutil.copyfile(source.key, folder / "source/key")
        for patch in recipe.patches:
            shutil.copyfile(patch, folder / "patches" / patch.name)
    except OSError as error:
        raise UsageError(f"{error.filename} of {recipe.name}: {error.strerror}") from None


def _build(planned: Plan, found: Engine, progress: Progress) -> None:
    """Build planned with found, without the layer cache where that stands in the way."""
    opts, began = planned.opts, time.monotonic()
    fresh = planned.finished.with_name("rpms.new")
    cache = Cache.of(opts, found)
    if opts.layer_cache and not cache.writes:
        progress.say(
            f"warning: the layer cache is not written: {found} "
            '(Docker\'s "containerd-snapshotter" feature would)'
        )
    log = opts.target / "package-build.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with progress.task("packages") as task, log.open("wb") as file:

        def attempt(cache: Cache) -> Failure | None:
            shutil.rmtree(fresh, ignore_errors=True)
            command = build_command(opts, planned.pins, planned.context, fresh, found, cache)
            return _attempt(command, cache, task, file, progress)

        failure = attempt(cache)
        if failure and cache.is_used and not failure.is_of_program:
            progress.say(
                f"warning: the layer cache {cache.name} is done without, as the build failed with "
                f"it: {failure.reason}"
            )
            failure = attempt(Cache())
        if failure:
            raise _describe(failure, progress, log)
        _keep(fresh, planned, round(time.monotonic() - began, 1))


def _attempt(
    command: Sequence[str], cache: Cache, task: Task, log: Log, progress: Progress
) -> Failure | None:
    """Run command, which builds with cache; why that failed, None where it did not."""
    steps = Steps(task)
    try:
        stream(command, log=log, on_line=steps.read)
    except CommandError as error:
        return Failure.of(steps, error)
    finally:
        for warning in steps.warnings(cache):
            progress.say(f"warning: {warning}")
    return None


def _keep(fresh: Path, planned: Plan, seconds: float) -> None:
    """Put fresh, with its record, in the place of what was finished before."""
    stage = planned.stage
    names = sorted(path.name for path in fresh.glob("*.rpm"))
    packages = tuple(_package(name) for name in names)
    wanted = {name for recipe in planned.pins.recipes for name in recipe.rpms}
    if missing := wanted - {package.name for package in packages}:
        raise HarnessError(f"the package build came without {', '.join(sorted(missing))}")
    Record(
        stage.key, stage.inputs, seconds, tuple(artifacts.describe(fresh, names)), packages
    ).write(fresh)
    shutil.rmtree(planned.finished, ignore_errors=True)
    fresh.rename(planned.finished)


def _package(file: str) -> Package:
    """The package in a file of the name name-version-release.arch.rpm."""
    nevr, _, arch = file.removesuffix(".rpm").rpartition(".")
    name, version, release = nevr.rsplit("-", 2)
    return Package(name, f"{version}-{release}", arch)


def _describe(failure: Failure, progress: Progress, log: Path) -> HarnessError:
    """What is said of a build that failed; the last lines of its step are shown before."""
    for line in failure.tail[-TAIL_LINES:]:
        progress.console.print(f"  {line}", markup=False, emoji=False)
    shown = "what its last step printed stands above; " if failure.step else ""
    return HarnessError(
        f"the package build failed{f' at {failure.step}' if failure.step else ''}: "
        f"{failure.reason}",
        hint=f"{shown}the RPMs built before are untouched",
        log=log,
    )


@dataclass(frozen=True)
class Failure:
    """Why buildx failed: the step that did ("" for none), and the last lines that it printed.

    is_of_program says that a program of the Dockerfile failed, which no layer cache is to blame
    for.
    """

    step: str
    reason: str
    tail: Sequence[str]
    is_of_program: bool

    @classmethod
    def of(cls, steps: Steps, error: CommandError) -> Failure:
        """The failure of a run of buildx that ended with error, and had printed steps."""
        output = error.output.strip().splitlines()
        name, why, tail = steps.failed or ("", "", output)
        said = [line for line in tail if line.startswith(PACKAGE_FAILS)]
        # After its reason buildx may print what to read about it.
        errors = [line for line in output if line.startswith(BUILDX_FAILS)]
        last = (errors or output or [str(error)])[-1].removeprefix(BUILDX_FAILS)
        reason = said[-1].removeprefix(PACKAGE_FAILS) if said else why or last
        return cls(name, reason, tail, steps.is_failed_by_program)


@dataclass(frozen=True)
class Cache:
    """The layer cache: buildx's values for --cache-from and --cache-to ("" for none)."""

    name: str = ""
    reads: str = ""
    writes: str = ""

    @property
    def is_used(self) -> bool:
        """Whether a build has to do with it."""
        return bool(self.reads or self.writes)

    @classmethod
    def of(cls, opts: Options, found: Engine) -> Cache:
        """The cache that opts asks for, as far as the engine allows it."""
        if not opts.layer_cache:
            return cls()
        tag = f"package-build-{opts.arch}"
        is_own = opts.buildx_builder in ("", DEFAULT_BUILDER, found.builder)
        can_write = found.exports_cache or not is_own
        if isinstance(opts.layer_cache, Path):
            folder = opts.layer_cache / tag
            there = os.access(folder / "index.json", os.R_OK)
            local = {"type": "local", "mode": "max", "ignore-error": "true"}
            return cls(
                name=str(folder),
                reads=_fields(type="local", src=str(folder)) if there else "",
                writes=_fields(**local, dest=str(folder)) if can_write else "",
            )
        reference = f"{opts.layer_cache}:{tag}"
        options = {"ref": reference, **REGISTRY_CACHE, "ignore-error": "true"}
        return cls(
            name=reference,
            reads=_fields(type="registry", ref=reference),
            writes=_fields(type="registry", **options) if can_write else "",
        )


def _fields(**values: str) -> str:
    """Values as buildx takes them: one line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(
        f"{name}={value}" for name, value in values.items()
    )
    return text.getvalue()


def build_command(
    opts: Options, pins: Pins, context: Path, target: Path, found: Engine, cache: Cache
) -> list[str]:
    """The command that builds context for exactly opts' platform, its RPMs going into target."""
    urls = [
        opts.mirror or releases.CDN,
        *(source.url for source in pins.sources.values()),
        *(url for name, url in opts.proxies.items() if name.lower() != NO_PROXY),
    ]
    return [
        "docker", "buildx", "build",
        "--builder", opts.buildx_builder or found.builder,
        "--platform", f"linux/{opts.arch.debian}",
        "--progress", "plain",
        # Without it a file that is no RPM would come out beside them.
        "--provenance", "false",
        "--build-arg", f"BASE_IMAGE={pins.reference}",
        # Their values, which may hold a password, come from the environment. BuildKit knows them,
        # and leaves them out of the keys of its cache.
        *(word for name in opts.proxies for word in ("--build-arg", name)),
        # A mirror or a proxy on this machine is out of sight of any other network.
        *(["--network", "host"] if any(is_loopback(url) for url in urls) else []),
        *(["--cache-from", cache.reads] if cache.reads else []),
        *(["--cache-to", cache.writes] if cache.writes else []),
        "--output", _fields(type="local", dest=str(target)),
        os.fspath(context),
    ]  # fmt: skip


def is_loopback(url: str) -> bool:
    """Whether the server of url, which may lack its scheme as a proxy's does, is this machine."""
    host = urlsplit(url if "://" in url else f"//{url}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass
class _Step:
    name: str
    cached: bool = False
    error: str = ""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))


# A line of `--progress plain`: the step's number, and what it says; the seconds before its output.
LINE = re.compile(r"#(\d+) (.*)")
OUTPUT = re.compile(r"\d+\.\d+ (.*)")

RUNS = re.compile(r"\[\S+ +\d+/\d+\] RUN")

# How the reason is marked where buildx and where build-package fails.
BUILDX_FAILS, PACKAGE_FAILS = "ERROR: ", "build-package: "

# What BuildKit says of a step whose program failed, and not what it was to run on.
PROGRAM_FAILED = "did not complete successfully"

# Steps that are not of the Dockerfile.
READS, WRITES = "importing cache", "exporting cache"


class Steps:
    """What buildx says with `--progress plain`, by step."""

    def __init__(self, task: Task | None = None) -> None:
        """task shows the steps of the Dockerfile as they come."""
        self._task = task
        self._steps: dict[str, _Step] = {}

    def read(self, line: str) -> None:
        """Take a line of its output."""
        if not (match := LINE.fullmatch(line)):
            return
        number, text = match.groups()
        step = self._steps.setdefault(number, _Step(text))
        if step.name == text:
            if self._task and text.startswith("["):
                self._task.step(text)
        elif text == "CACHED":
            step.cached = True
        elif text.startswith(BUILDX_FAILS):
            step.error = text.removeprefix(BUILDX_FAILS)
        elif output := OUTPUT.fullmatch(text):
            step.tail.append(output[1])

    @property
    def failed(self) -> tuple[str, str, list[str]] | None:
        """The step that failed: its name, why, and the last lines of its output."""
        return next(
            (
                (step.name, step.error, list(step.tail))
                for step in self._steps.values()
                if step.error and not step.name.startswith((READS, WRITES))
                and "canceled" not in step.error
            ),
            None,
        )  # fmt: skip

    @property
    def is_failed_by_program(self) -> bool:
        """Whether a program of the Dockerfile failed."""
        return any(
            RUNS.match(step.name) and PROGRAM_FAILED in step.error for step in self._steps.values()
        )

    def warnings(self, cache: Cache) -> Iterable[str]:
        """What went wrong with the layer cache, in a sentence each."""
        for step in self._steps.values():
            does = {READS: "read", WRITES: "written"}
            verb = next((does[kind] for kind in does if step.name.startswith(kind)), "")
            if verb and step.error:
                yield f"the layer cache {cache.name} cannot be {verb}: {step.error}"
        read = [step for step in self._steps.values() if step.name.startswith(READS)]
        ran = [step for step in self._steps.values() if RUNS.match(step.name)]
        if read and not any(step.error for step in read) and not any(step.cached for step in ran):
            yield f"the layer cache {cache.name} has nothing that fits this build: it is a cold one"
