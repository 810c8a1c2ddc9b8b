"""The container engine: whether one answers, what it can, and what to do where it cannot."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scripts.errors import MachineError
from scripts.run import CommandError, run

# An engine that is up answers in well under a second.
SECONDS = 20

# What `docker info` calls the store that BuildKit exports its cache from.
CONTAINERD_STORE = "io.containerd.snapshotter.v1"

# Of the version of the builder that an engine prefers, in its answer to a ping: BuildKit.
BUILDKIT = "2"

INSTALL = "apt-get install docker.io docker-buildx, or dnf install docker docker-buildx-plugin"


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


def require(environ: Mapping[str, str], builder: str) -> Engine:
    """The engine, once it is sure that packages can be built with it.

    builder is the one that a person names in BUILDX_BUILDER, "" for the engine's own. Raises
    MachineError.
    """
    if not shutil.which("docker", path=environ.get("PATH")):
        raise MachineError("Docker's command line is not installed", hint=INSTALL)
    try:
        run(["docker", "buildx", "version"], env=environ, timeout=SECONDS)
    except (CommandError, subprocess.TimeoutExpired):
        raise MachineError(
            "Docker's command line has no buildx, its front end to BuildKit",
            hint="apt-get install docker-buildx, or dnf install docker-buildx-plugin",
        ) from None
    found = find(environ)
    if not found.has_buildkit and not builder:
        raise MachineError(
            f"the engine at {found.host} has no BuildKit: {found}",
            hint="use Docker 23 or newer, or name a builder of buildx in BUILDX_BUILDER "
            "(`docker buildx create` makes one)",
        )
    return found


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
            hint='sudo usermod --append --groups docker "$USER", then log in again',
        )
    if errno.ENOENT in codes:
        return MachineError(
            f"no Docker engine listens at {where}",
            hint=f"sudo systemctl start docker; where it is not installed: {INSTALL}",
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
