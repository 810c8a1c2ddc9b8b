"""docker buildx: its command lines, its layer cache, and reading its output."""

from __future__ import annotations

import csv
import io
import ipaddress
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.distributions import amazonlinux
from scripts.options import Options
from scripts.packages.engine import Engine
from scripts.packages.recipes import PackagePins
from scripts.system.errors import HarnessError
from scripts.system.process import CommandError, Log, stream
from scripts.system.progress import Progress, Task
from scripts.system.url import Url

# How many of the last lines of a failed step are worth showing.
TAIL_LINES = 40

# Another name by which buildx knows the BuildKit of the engine itself.
DEFAULT_BUILDER = "default"

# Variables that Docker's command line needs: they select the engine, and hold logins for it, for
# registries and for GitHub's cache.
DOCKER = (
    r"(DOCKER|BUILDX|BUILDKIT|AWS)_\w+|SSH_AUTH_SOCK|GITHUB_TOKEN"
    r"|ACTIONS_(RUNTIME|RESULTS|CACHE)_\w+"
)

# The form of a layer cache that ECR accepts.
REGISTRY_CACHE = {"mode": "max", "image-manifest": "true", "oci-mediatypes": "true"}


def build(
    command: Callable[[Cache], Sequence[str]],
    cache: Cache,
    task: Task,
    log: Log,
    progress: Progress,
    *,
    folder: Path | None = None,
) -> Failure | None:
    """Build with cache, and once more without it if it may be to blame for a failure.

    command makes the command line for a cache, and removes what an attempt before it left behind.
    It is run in folder. Returns why the build failed, or None if it did not.
    """
    failure = _attempt(command(cache), cache, task, log, progress, folder)
    if failure and cache.is_used and failure.may_be_the_caches:
        progress.say(
            f"warning: the build failed with the layer cache {cache.name} and is repeated "
            f"without it: {failure.reason}"
        )
        failure = _attempt(command(Cache()), Cache(), task, log, progress, folder)
    return failure


def _attempt(
    command: Sequence[str],
    cache: Cache,
    task: Task,
    log: Log,
    progress: Progress,
    folder: Path | None,
) -> Failure | None:
    """Run command, which builds with cache; return why it failed, or None if it did not."""
    steps = Steps(task)
    try:
        stream(command, log=log, on_line=steps.read, cwd=folder, also=DOCKER)
    except CommandError as error:
        return Failure.of(steps, error)
    finally:
        for warning in steps.warnings(cache):
            progress.say(f"warning: {warning}")
    return None


@dataclass(frozen=True)
class Failure:
    """A failure of buildx.

    step is the step that failed ("" for none), and tail the last lines that it printed.
    may_be_the_caches says whether the layer cache may be to blame. It is not to blame if a program
    of the Dockerfile failed, if BuildKit had not asked for a layer yet, or if the disk is full.
    """

    step: str
    reason: str
    tail: Sequence[str]
    may_be_the_caches: bool

    @classmethod
    def of(cls, steps: Steps, error: CommandError) -> Failure:
        """Return why a run of buildx failed that printed steps and ended with error."""
        output = error.output.strip().splitlines()
        name, why, tail = steps.failed or ("", "", output)
        said = [line for line in tail if line.startswith(PACKAGE_FAILS)]
        # After the reason, buildx may print where to read about it.
        errors = [line for line in output if line.startswith(BUILDX_FAILS)]
        last = (errors or output or [str(error)])[-1].removeprefix(BUILDX_FAILS)
        reason = said[-1].removeprefix(PACKAGE_FAILS) if said else why or last
        is_elsewhere = name.startswith(INTERNAL) or DISK_FULL in reason.lower()
        return cls(name, reason, tail, not (is_elsewhere or steps.is_failed_by_program))

    def error(self, what: str, remedy: str, log: Path, progress: Progress) -> HarnessError:
        """Show the last lines of the step that failed, and return the error for it.

        what names the build, remedy ends the hint, and log has the whole output.
        """
        for line in self.tail[-TAIL_LINES:]:
            progress.console.print(f"  {line}")
        shown = "the last lines of the step are above; " if self.step else ""
        return HarnessError(
            f"the {what} failed{f' at {self.step}' if self.step else ''}: {self.reason}",
            hint=f"{shown}{remedy}",
            log=log,
        )


@dataclass(frozen=True)
class Cache:
    """The layer cache, which may be none.

    reads and writes are the values of buildx's options --cache-from and --cache-to, or "".
    """

    name: str = ""
    reads: str = ""
    writes: str = ""

    @property
    def is_used(self) -> bool:
        """Whether a build reads or writes it."""
        return bool(self.reads or self.writes)

    @classmethod
    def of(cls, opts: Options, found: Engine, build: str) -> Cache:
        """Return the cache that opts asks for, as far as the engine found supports it.

        build says what is built: each has a cache of its own for each architecture.
        """
        if not opts.packages.layer_cache:
            return cls()
        tag = f"{build}-{opts.target.arch}"
        is_own = opts.packages.buildx_builder in ("", DEFAULT_BUILDER, found.builder)
        can_write = found.exports_cache or not is_own
        if isinstance(opts.packages.layer_cache, Path):
            folder = opts.packages.layer_cache / tag
            there = os.access(folder / "index.json", os.R_OK)
            local = {"type": "local", "mode": "max", "ignore-error": "true"}
            return cls(
                name=str(folder),
                reads=csv_value(type="local", src=str(folder)) if there else "",
                writes=csv_value(**local, dest=str(folder)) if can_write else "",
            )
        reference = f"{opts.packages.layer_cache}:{tag}"
        options = {"ref": reference, **REGISTRY_CACHE, "ignore-error": "true"}
        return cls(
            name=reference,
            reads=csv_value(type="registry", ref=reference),
            writes=csv_value(type="registry", **options) if can_write else "",
        )


def say_unwritten(opts: Options, found: Engine, cache: Cache, progress: Progress) -> None:
    """Say so if opts asks for a layer cache that the engine found cannot write."""
    if opts.packages.layer_cache and not cache.writes:
        progress.say(
            f"warning: the layer cache is not written: {found} "
            '(it would be with Docker\'s "containerd-snapshotter" feature)'
        )


def csv_value(**values: str) -> str:
    """Return values in the form that buildx takes: one line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(
        f"{name}={value}" for name, value in values.items()
    )
    return text.getvalue()


def build_command(
    opts: Options,
    pins: PackagePins,
    context: Path,
    target: Path,
    found: Engine,
    cache: Cache,
    secrets: Path,
) -> list[str]:
    """Return the command that builds context for the platform of opts and puts RPMs into target.

    The files in the folder secrets are mounted where the Dockerfile names them; no layer has them.
    """
    proxies = opts.sources.proxies
    urls = [
        Url.of(opts.sources.mirror or amazonlinux.CDN),
        *(url for source in pins.sources.values() for url in source.urls),
        *proxies.urls.values(),
    ]
    return [
        "docker", "buildx", "build",
        "--builder", opts.packages.buildx_builder or found.builder,
        "--platform", f"linux/{opts.target.arch.debian}",
        "--progress", "plain",
        # Otherwise another file would come out beside the RPMs.
        "--provenance", "false",
        "--build-arg", f"BASE_IMAGE={pins.reference}",
        # BuildKit leaves these out of the keys of its cache. A proxy's password is in the secrets.
        *(word for pair in proxies.variables.items() for word in ("--build-arg", "=".join(pair))),
        *(word for path in sorted(secrets.iterdir()) for word in ("--secret", _secret(path))),
        # No other network can see a mirror or a proxy on this machine.
        *(["--network", "host"] if any(is_loopback(url) for url in urls) else []),
        *(["--cache-from", cache.reads] if cache.reads else []),
        *(["--cache-to", cache.writes] if cache.writes else []),
        "--output", csv_value(type="local", dest=str(target)),
        os.fspath(context),
    ]  # fmt: skip


def _secret(path: Path) -> str:
    """Return the value of buildx's option for the secret in the file at path."""
    return csv_value(id=path.name, src=str(path))


def is_loopback(url: Url) -> bool:
    """Whether the server of url is this machine."""
    host = url.host
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


# A line of `--progress plain` has the step's number and a text; output has a number of seconds
# first.
LINE = re.compile(r"#(\d+) (.*)")
OUTPUT = re.compile(r"\d+\.\d+ (.*)")

RUNS = re.compile(r"\[\S+ +\d+/\d+\] RUN")

# How a line begins in which buildx, and build-package, says why it failed.
BUILDX_FAILS, PACKAGE_FAILS = "ERROR: ", "build-package: "

# What BuildKit says of a step whose program failed, as opposed to the preparation of its layer.
PROGRAM_FAILED = "did not complete successfully"

DISK_FULL = "no space left on device"

# Steps that are not in the Dockerfile. The internal ones read it, its context and its base image.
INTERNAL = "[internal]"
READS, WRITES = "importing cache", "exporting cache"


class Steps:
    """The output of buildx with `--progress plain`, by step."""

    def __init__(self, task: Task | None = None) -> None:
        """task, if given, shows the steps of the Dockerfile as they begin."""
        self._task = task
        self._steps: dict[str, _Step] = {}

    def read(self, line: str) -> None:
        """Take in one line of the output."""
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
        """The step that failed, if one did: its name, the reason, the last lines of its output."""
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
        """Yield what went wrong with the layer cache, in a sentence each."""
        for step in self._steps.values():
            does = {READS: "read", WRITES: "written"}
            verb = next((does[kind] for kind in does if step.name.startswith(kind)), "")
            if verb and step.error:
                yield f"the layer cache {cache.name} cannot be {verb}: {step.error}"
        read = [step for step in self._steps.values() if step.name.startswith(READS)]
        ran = [step for step in self._steps.values() if RUNS.match(step.name)]
        if read and not any(step.error for step in read) and not any(step.cached for step in ran):
            yield f"the layer cache {cache.name} has nothing that this build can use"
