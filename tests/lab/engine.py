"""Runs a Docker engine and an OCI registry from Debian's packages.

The packages are unpacked into a folder, not installed. The engine and the registry use their own
files, sockets and ports, so they leave an engine of this machine alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import requests

from scripts.distributions import debian
from scripts.system.errors import HarnessError, MachineError
from scripts.system.extraction import extract_packages
from scripts.system.process import CommandError, run, running, start

# The engine in bookworm is too old to export BuildKit's cache.
RELEASE = "trixie"
PACKAGES = ("docker.io", "docker-cli", "docker-buildx", "containerd", "docker-registry")

# This program needs the C library of its own release; the others run with any since Debian 12.
NATIVE = "runc"

# Seconds to wait for a start; on an idle machine an engine takes one.
PATIENCE = 60.0

# The user "finch" with the password "right", in the format of `htpasswd -B`.
HTPASSWD = "finch:$2y$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n"


@dataclass(frozen=True)
class Programs:
    """The unpacked programs, below the folder root."""

    root: Path

    @property
    def folders(self) -> list[str]:
        """The folders that hold the programs."""
        return [f"{self.root}/usr/bin", f"{self.root}/usr/sbin"]

    @property
    def path(self) -> str:
        """PATH, with the programs' folders in front."""
        return os.pathsep.join([*self.folders, os.environ["PATH"], "/usr/sbin", "/sbin"])


def obtain(work: Path) -> Programs:
    """Return the programs, after downloading and unpacking them below work if they are missing.

    Raises MachineError on any machine but Debian, and HarnessError if apt fails.
    """
    root = work / "engine/root"
    if root.exists():
        return Programs(root)
    partial = work / "engine/partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        suites = [(name, RELEASE) for name in PACKAGES] + [(NATIVE, _release())]
        debs = [
            debian.download(name, [suite], work / f"engine/apt-{suite}") for name, suite in suites
        ]
        extract_packages(debs, partial)
    except CommandError as error:
        raise HarnessError(
            f"apt cannot download the engine's packages: {error.output.strip()}",
            hint="check the network, then try again",
        ) from error
    partial.rename(root)
    return Programs(root)


def _release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    if fields.get("ID") != "debian":
        raise MachineError(
            "the lab's engine needs a Debian machine",
            hint="make the lab on Debian, or start it with --without-engine",
        )
    return fields["VERSION_CODENAME"]


@dataclass(frozen=True)
class Engine:
    """A running engine; Docker's command line finds it through environment."""

    socket: Path
    log: Path
    environment: Mapping[str, str]


@contextlib.contextmanager
def engine(programs: Programs, *, containerd_store: bool = True) -> Iterator[Engine]:
    """Run an empty engine for as long as the with block lasts.

    The engine changes no firewall rules and makes no bridge: builds use the machine's network.
    """
    # The path must be short: it holds sockets, whose paths are limited to 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    try:
        plugins = folder / "config/cli-plugins"
        plugins.mkdir(parents=True)
        buildx = programs.root / "usr/libexec/docker/cli-plugins/docker-buildx"
        (plugins / "docker-buildx").symlink_to(buildx)
        (folder / "daemon.json").write_text(json.dumps(_configuration(folder, containerd_store)))
        made = Engine(
            folder / "docker.sock",
            folder / "dockerd.log",
            {
                "PATH": programs.path,
                "DOCKER_HOST": f"unix://{folder}/docker.sock",
                "DOCKER_CONFIG": os.fspath(folder / "config"),
            },
        )
        with made.log.open("wb") as log:
            process = start(
                [programs.root / "usr/sbin/dockerd", "--config-file", folder / "daemon.json"],
                stdout=log.fileno(),
                stderr=log.fileno(),
                env={"PATH": programs.path},
            )
        with running(process):
            _wait(
                lambda: made.socket.exists() and _listens(made.socket),
                lambda: process.poll() is None,
                made.log,
            )
            yield made
    finally:
        _unmount(folder)
        shutil.rmtree(folder)


def _configuration(folder: Path, containerd_store: bool) -> dict[str, object]:
    return {
        "bridge": "none",
        "data-root": f"{folder}/data",
        "exec-root": f"{folder}/run",
        "features": {"containerd-snapshotter": containerd_store},
        "hosts": [f"unix://{folder}/docker.sock"],
        "ip6tables": False,
        "iptables": False,
        "pidfile": f"{folder}/docker.pid",
    }


def _unmount(folder: Path) -> None:
    """Unmount what a killed engine has left mounted below folder."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    for point in reversed([point for point in points if point.startswith(f"{folder}/")]):
        run(["umount", "--lazy", point], check=False)


@dataclass(frozen=True)
class Registry:
    """A running registry on loopback, which keeps its files in the folder storage."""

    host: str
    storage: Path

    def has(self, name: str, reference: str) -> bool:
        """Whether the repository name has a manifest with this tag or digest."""
        answer = requests.head(
            f"http://{self.host}/v2/{name}/manifests/{reference}",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
            timeout=PATIENCE,
        )
        return answer.ok

    def put_blob(self, name: str, digest: str, path: Path) -> None:
        """Upload the file at path as a blob of the repository name."""
        begun = requests.post(f"http://{self.host}/v2/{name}/blobs/uploads/", timeout=PATIENCE)
        begun.raise_for_status()
        with path.open("rb") as file:
            requests.put(
                begun.headers["Location"], params={"digest": digest}, data=file, timeout=PATIENCE
            ).raise_for_status()

    def put_manifest(self, name: str, reference: str, manifest: bytes) -> None:
        """Upload a manifest to the repository name under a tag or digest."""
        requests.put(
            f"http://{self.host}/v2/{name}/manifests/{reference}",
            headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
            data=manifest,
            timeout=PATIENCE,
        ).raise_for_status()

    def lose_layers(self, name: str, reference: str) -> None:
        """Remove a manifest's layers but not the manifest, as some clean-up jobs do."""
        links = self.storage / f"docker/registry/v2/repositories/{name}/_layers"
        answer = requests.get(
            f"http://{self.host}/v2/{name}/manifests/{reference}",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
            timeout=PATIENCE,
        )
        answer.raise_for_status()
        for layer in answer.json()["layers"]:
            shutil.rmtree(links / layer["digest"].replace(":", "/"))


@contextlib.contextmanager
def registry(programs: Programs, folder: Path, *, protected: bool = False) -> Iterator[Registry]:
    """Run a registry on the files in folder; if protected, it asks for the user in HTPASSWD."""
    folder.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{_free_port()}"
    (folder / "htpasswd").write_text(HTPASSWD)
    settings: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": os.fspath(folder / "storage")}},
        "http": {"addr": host},
    }
    if protected:
        settings["auth"] = {
            "htpasswd": {"realm": "lab", "path": os.fspath(folder / "htpasswd")},
        }
    # Every JSON document is valid YAML.
    (folder / "config.yml").write_text(json.dumps(settings))
    with (folder / "registry.log").open("wb") as log:
        process = start(
            [programs.root / "usr/bin/docker-registry", "serve", folder / "config.yml"],
            stdout=log.fileno(),
            stderr=log.fileno(),
        )
    with running(process):
        address, port = host.split(":")
        _wait(
            lambda: _answers(address, int(port)),
            lambda: process.poll() is None,
            folder / "registry.log",
        )
        yield Registry(host, folder / "storage")


def _wait(answers: Callable[[], bool], lives: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not answers():
        if not lives() or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise HarnessError(f"{log.stem} did not start:\n{tail}", log=log)
        time.sleep(0.1)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(os.fspath(path)) == 0


def _answers(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
