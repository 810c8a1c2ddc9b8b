"""The container engine: whether one answers, what it can, and what to do where it cannot."""

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

from scripts.system.errors import MachineError
from scripts.system.process import CommandError, run

# An engine that is up answers in well under a second.
SECONDS = 20

# What `docker info` calls the store that BuildKit exports its cache from.
CONTAINERD_STORE = "io.containerd.snapshotter.v1"

# Of the version of the builder that an engine prefers, in its answer to a ping: BuildKit.
BUILDKIT = "2"

# What installs packages, and what they are called that have the engine with Docker's command line,
# and buildx, by the ID of os-release(5). Amazon Linux has all of it in one.
PACKAGES = {
    "amzn": ("dnf", "docker", "docker"),
    "debian": ("apt-get", "docker.io", "docker-buildx"),
    "fedora": ("dnf", "moby-engine", "docker-buildx"),
    "ubuntu": ("apt-get", "docker.io", "docker-buildx"),
}

# The first release of Debian that has buildx: trixie.
FIRST_DEBIAN = 13

# How Docker's own packages are installed, which any distribution takes.
MANUAL = "https://docs.docker.com/engine/install says how it is installed here"


@dataclass(frozen=True)
class Engine:
    """An engine that answers.

    host is its address, version and api its own and that of its API. builder is the name that
    buildx knows its BuildKit by; exports_cache says whether that writes a layer cache.
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
    """The engine that Docker's command line would use with environ.

    It need not be Docker's own: whatever speaks its API will do. Raises MachineError that says
    what is in the way and how to mend it.
    """
    # Most runs need no engine, and a third of a second to import this.
    import docker  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415

    context, host = "default", environ.get("DOCKER_HOST", "")
    try:
        if not host:
            context, host = _context(environ)
        _knock(host)
        client = docker.from_env(timeout=SECONDS, environment=environ)
    except (DockerException, OSError) as error:
        raise _unreachable(host, error) from None
    try:
        version, info = client.version(), client.info()
        ping = client.api.get(f"{client.api.base_url}/_ping", timeout=SECONDS)
    except (DockerException, OSError) as error:
        raise _unreachable(host, error) from None
    finally:
        client.close()
    status = dict(pair for pair in info.get("DriverStatus") or [] if len(pair) == len(("a", "b")))
    return Engine(
        name=_name(version),
        version=version.get("Version", "?"),
        api=version.get("ApiVersion", "?"),
        host=host,
        builder=context,
        has_buildkit=ping.headers.get("Builder-Version") == BUILDKIT,
        exports_cache=status.get("driver-type") == CONTAINERD_STORE,
    )


def find_fit(environ: Mapping[str, str], builder: str) -> Engine:
    """The engine, as `find` finds it, if packages can be built with it.

    builder is the one that a person names in BUILDX_BUILDER, "" for the engine's own. Raises
    MachineError.
    """
    found = find(environ)
    if not found.has_buildkit and not builder:
        raise MachineError(
            f"the engine at {found.host} has no BuildKit: {found}",
            hint="use Docker 23 or newer, or name a builder of buildx in BUILDX_BUILDER "
            "(`docker buildx create` makes one)",
        )
    return found


def check_buildx(environ: Mapping[str, str]) -> None:
    """Raise MachineError where Docker's command line, or its front end to BuildKit, is lacking."""
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
    """The engine, once it is sure that packages can be built with it: see `find_fit`."""
    check_buildx(environ)
    return find_fit(environ, builder)


def installation(release: Mapping[str, str], *, only_buildx: bool = False) -> str:
    """What installs the engine with Docker's command line and buildx, or only the latter.

    release is what os-release(5) says of the machine, empty where it has none.
    """
    name, number = release.get("ID", ""), release.get("VERSION_ID", "")
    if name == "debian" and number.isdecimal() and int(number) < FIRST_DEBIAN:
        return f"{MANUAL}; Debian has docker-buildx from {FIRST_DEBIAN} on"
    if name not in PACKAGES:
        return MANUAL
    program, whole, buildx = PACKAGES[name]
    packages = dict.fromkeys([buildx] if only_buildx else [whole, buildx])
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}{program} install {' '.join(packages)}"


def _installation_here(*, only_buildx: bool = False) -> str:
    """What `installation` says of this machine."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return installation(release, only_buildx=only_buildx)


def _context(environ: Mapping[str, str]) -> tuple[str, str]:
    """The name and the host of the context that Docker's command line would use."""
    from docker.context import ContextAPI  # noqa: PLC0415 - see `find`
    from docker.context.config import get_current_context_name  # noqa: PLC0415

    name = environ.get("DOCKER_CONTEXT") or get_current_context_name() or "default"
    found = ContextAPI.get_context(name)
    if found is None:
        raise MachineError(
            f"Docker's context {name} does not exist",
            hint="`docker context ls` lists those that do, and `docker context use default` takes "
            "this machine's engine, unless DOCKER_CONTEXT names another",
        )
    return found.Name, found.Host or ""


def _name(version: Mapping[str, Any]) -> str:
    """What an engine is called that answers so when it is asked for its version.

    Docker's has the component Engine, podman's one of its own, and finch-daemon only its platform
    ("Finch Daemon - 0.22.0"): that of podman is the machine's.
    """
    components = [part.get("Name", "") for part in version.get("Components") or []]
    if "Engine" in components:
        return "Docker"
    own = [name for name in components if name.endswith("Engine")]
    platforms = (version.get("Platform") or {}).get("Name", "").partition(" - ")[0]
    return next((name for name in (*own, platforms, *components) if name), "an engine")


def _knock(host: str) -> None:
    """Raise OSError where nobody listens at host, if that is a socket of this machine.

    The SDK would say so too, but leaves the socket open that it could not connect.
    """
    path = host.removeprefix("http+")
    if path.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(path.removeprefix("unix://"))


def _unreachable(host: str, error: BaseException) -> MachineError:
    where = host.removeprefix("http+").removeprefix("unix://") or "its usual place"
    codes = set(_errnos(error))
    if codes & {errno.EACCES, errno.EPERM}:
        return MachineError(
            f"this user may not use the Docker engine at {where}",
            hint=_admission(Path(where)),
        )
    if errno.ENOENT in codes:
        return MachineError(
            f"no Docker engine listens at {where}",
            hint=f"sudo systemctl start docker; where it is not installed: {_installation_here()}",
        )
    if errno.ECONNREFUSED in codes:
        return MachineError(
            f"the Docker engine at {where} does not run",
            hint="sudo systemctl start docker",
        )
    return MachineError(
        f"the Docker engine at {where} does not answer: {_last_words(error)}",
        hint="`docker version` says more",
    )


def _admission(path: Path) -> str:
    """What lets this user use the socket at path: its group, if that is another than root's."""
    try:
        group = path.group() if path.stat().st_mode & stat.S_IWGRP else "root"
    except (OSError, KeyError):  # nobody may look at it, or the group has no name
        group = "root"
    if group == "root":
        return "only root may use it: call the same command with sudo"
    return f'sudo usermod --append --groups {group} "$USER", then log in again'


def _errnos(error: BaseException) -> Iterator[int]:
    """The errors of the operating system that error came of, which the SDK wraps several times."""
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


def _last_words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
