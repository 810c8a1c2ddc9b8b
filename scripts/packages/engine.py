"""The container engine: finding it, its abilities, and hints for a user who lacks one."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.system import strict
from scripts.system.errors import MachineError
from scripts.system.process import CommandError, last_line, run
from scripts.system.text import printable
from scripts.system.url import hidden

# An engine that is up answers in well under a second.
SECONDS = 20

# What `docker info` calls the one store from which BuildKit can export its cache.
CONTAINERD_STORE = "io.containerd.snapshotter.v1"

# An engine answers a ping with the version of its builder. This one is BuildKit.
BUILDKIT = "2"

# By the ID in os-release(5): the program that installs packages, the package of the engine with
# Docker's command line, and the package of buildx. Amazon Linux has one package for all.
INSTALLATION = {
    "amzn": ("dnf", "docker", "docker"),
    "debian": ("apt-get", "docker.io", "docker-buildx"),
    "fedora": ("dnf", "moby-engine", "docker-buildx"),
    "ubuntu": ("apt-get", "docker.io", "docker-buildx"),
}

# The first release of Debian with a package of buildx: trixie.
FIRST_DEBIAN = 13

# How to install Docker's own packages, which work on any distribution.
MANUAL = "see https://docs.docker.com/engine/install"

# What to do about a context that cannot be used.
OTHER_CONTEXT = (
    "`docker context use default` selects this machine's engine, unless DOCKER_CONTEXT is set"
)


@dataclass(frozen=True)
class Engine:
    """An engine that answers at the address host.

    version is its own version and api that of its API. builder is the name by which buildx knows
    its BuildKit, and exports_cache says whether that can write a layer cache.
    """

    name: str
    version: str
    api: str
    host: str
    builder: str
    has_buildkit: bool
    exports_cache: bool

    def __str__(self) -> str:
        lacks = [] if self.has_buildkit else ["without BuildKit"]
        lacks += [] if self.exports_cache else ["exports no layer cache"]
        return ", ".join([f"{self.name} {self.version}, API {self.api}", *lacks])


def find(environ: Mapping[str, str]) -> Engine:
    """Return the engine that Docker's command line would use with the environment environ.

    Any engine that speaks Docker's API will do. Raises MachineError, with a remedy, if none
    answers.
    """
    # Importing it takes a third of a second, and most runs need no engine.
    import docker  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415

    context, host = "default", environ.get("DOCKER_HOST", "")
    try:
        if not host:
            context, host = _context(environ)
        _knock(host)
        client = docker.from_env(timeout=SECONDS, environment=environ)
    except (DockerException, OSError, *strict.ODDITIES) as error:
        raise _unreachable(host, error) from None
    try:
        version, info = client.version(), client.info()
        ping = client.api.get(f"{client.api.base_url}/_ping", timeout=SECONDS)
        return _described(version, info, ping.headers, context, host)
    except (DockerException, OSError, *strict.ODDITIES) as error:
        raise _unreachable(host, error) from None
    finally:
        client.close()


def _described(
    version: Mapping[str, Any],
    info: Mapping[str, Any],
    headers: Mapping[str, str],
    context: str,
    host: str,
) -> Engine:
    """Return the engine that gave these answers. Malformed ones raise one of `strict.ODDITIES`."""
    status = dict(pair for pair in info.get("DriverStatus") or [] if len(pair) == len(("a", "b")))
    return Engine(
        name=_name(version),
        version=str(version.get("Version", "?")),
        api=str(version.get("ApiVersion", "?")),
        host=host,
        builder=context,
        has_buildkit=headers.get("Builder-Version") == BUILDKIT,
        exports_cache=status.get("driver-type") == CONTAINERD_STORE,
    )


def find_fit(environ: Mapping[str, str], builder: str) -> Engine:
    """Return the engine that `find` finds, if it can build packages.

    builder is the one named in BUILDX_BUILDER, or "" for the engine's own. Raises MachineError,
    with a remedy, if there is no such engine.
    """
    found = find(environ)
    if not found.has_buildkit and not builder:
        raise MachineError(
            f"the engine at {hidden(found.host)} has no BuildKit: {found}",
            hint="use Docker 23 or newer, or set BUILDX_BUILDER to a builder of buildx "
            "(`docker buildx create` makes one)",
        )
    return found


def check_buildx(environ: Mapping[str, str]) -> None:
    """Raise MachineError unless Docker's command line and buildx are installed."""
    if not shutil.which("docker", path=environ.get("PATH")):
        raise MachineError("Docker's command line is not installed", hint=_installation_here())
    try:
        run(["docker", "buildx", "version"], env=environ, timeout=SECONDS)
    except (CommandError, OSError, subprocess.TimeoutExpired):
        raise MachineError(
            "Docker's command line has no buildx, its front end to BuildKit",
            hint=_installation_here(only_buildx=True),
        ) from None


def require(environ: Mapping[str, str], builder: str) -> Engine:
    """Return the engine that builds packages. Raises MachineError, with a remedy, if there is none.

    environ and builder are those of `find_fit`. Buildx has to be there too.
    """
    check_buildx(environ)
    return find_fit(environ, builder)


def require_here(builder: str) -> Engine:
    """As `require`, with the environment of this process, in which Docker looks for its own."""
    return require(os.environ, builder)


def installation(release: Mapping[str, str], *, only_buildx: bool = False) -> str:
    """Return the command that installs an engine, Docker's command line and buildx, or only buildx.

    release are the fields of the machine's os-release(5), none if it has no such file.
    """
    name, number = release.get("ID", ""), release.get("VERSION_ID", "")
    if name == "debian" and number.isdecimal() and int(number) < FIRST_DEBIAN:
        return f"{MANUAL}; Debian has docker-buildx since release {FIRST_DEBIAN}"
    if name not in INSTALLATION:
        return MANUAL
    program, whole, buildx = INSTALLATION[name]
    packages = dict.fromkeys([buildx] if only_buildx else [whole, buildx])
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}{program} install {' '.join(packages)}"


def _installation_here(*, only_buildx: bool = False) -> str:
    """Return the command of `installation` for this machine."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return installation(release, only_buildx=only_buildx)


def _context(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the name and the host of the context that Docker's command line would use.

    Raises MachineError if there is no such context, or the file that describes it is damaged.
    """
    from docker.context import ContextAPI  # noqa: PLC0415 - see `find`
    from docker.context.config import get_current_context_name  # noqa: PLC0415

    name = environ.get("DOCKER_CONTEXT", "")
    try:
        name = name or get_current_context_name() or "default"
        found = ContextAPI.get_context(name)
    except Exception as error:  # the SDK's own, or a KeyError and the like
        raise MachineError(
            f"Docker's context {name} cannot be read: {_meta_file(name)} is damaged",
            hint=f"remove that file and create the context again; {OTHER_CONTEXT}",
        ) from error
    if found is None:
        raise MachineError(
            f"Docker's context {name} does not exist",
            hint=f"`docker context ls` lists those that do; {OTHER_CONTEXT}",
        )
    return found.Name, found.Host or ""


def _meta_file(name: object) -> str:
    """Return the file that describes a context, or Docker's configuration if that names none."""
    from docker.context.config import get_meta_file  # noqa: PLC0415 - see `find`

    return str(get_meta_file(name)) if isinstance(name, str) else "Docker's config.json"


def _name(version: Mapping[str, Any]) -> str:
    """Return the name of an engine by its answer to the question for its version.

    Docker has a component called Engine, and podman one called Podman Engine. finch-daemon has only
    the name of its platform ("Finch Daemon - 0.22.0"), which with podman is the machine's.
    """
    components = [part.get("Name", "") for part in version.get("Components") or []]
    if "Engine" in components:
        return "Docker"
    own = [name for name in components if name.endswith("Engine")]
    platforms = (version.get("Platform") or {}).get("Name", "").partition(" - ")[0]
    return next((name for name in (*own, platforms, *components) if name), "an engine")


def _knock(host: str) -> None:
    """Raise OSError if host is a socket of this machine and nobody listens at it.

    The SDK would find out too, but does not close a socket that it failed to connect.
    """
    path = host.removeprefix("http+")
    if path.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(path.removeprefix("unix://"))


def _unreachable(host: str, error: BaseException) -> MachineError:
    """Return the error, with a remedy, for an engine at host that could not be asked."""
    where = hidden(host.removeprefix("http+").removeprefix("unix://")) or "its usual place"
    codes = set(_errnos(error))
    if codes & {errno.EACCES, errno.EPERM}:
        return MachineError(
            f"this user may not use the Docker engine at {where}",
            hint=_admission(Path(where)),
        )
    if errno.ENOENT in codes:
        return MachineError(
            f"no Docker engine listens at {where}",
            hint=f"sudo systemctl start docker; if it is not installed: {_installation_here()}",
        )
    if errno.ECONNREFUSED in codes:
        return MachineError(
            f"the Docker engine at {where} is not running",
            hint="sudo systemctl start docker",
        )
    cause = printable(hidden(last_line(str(error)))) or type(error).__name__
    return MachineError(
        f"the Docker engine at {where} does not answer: {cause}",
        hint="`docker version` says more",
    )


def _admission(path: Path) -> str:
    """Return what lets this user use the socket at path: joining its group, or else sudo."""
    try:
        group = path.group() if path.stat().st_mode & stat.S_IWGRP else "root"
    except (OSError, KeyError):  # this user may not look at it, or the group has no name
        group = "root"
    if group == "root":
        return "only root may use it: run the same command with sudo"
    return f'sudo usermod --append --groups {group} "$USER", then log in again'


def _errnos(error: BaseException) -> Iterator[int]:
    """Yield the error numbers (errno(3)) behind error, which the SDK wraps several times."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno:
            yield one.errno
        waiting += [*one.args, one.__cause__, one.__context__]
