"""What runs on the host beside a guest, on loopback, by the name that a scenario gives."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.boot.machine import free_port
from scripts.contract import web
from scripts.contract.ntp import TimeServer
from scripts.distributions import programs
from scripts.mkosi.sandbox import Tools
from scripts.system import process
from scripts.system.errors import MachineError
from scripts.system.progress import Progress

ADDRESS = "127.0.0.1"

# The names that the resolver knows. As in Lima, the first one is the host, seen from the guest.
NAMES = {"host.lima.internal": "10.0.2.2", "registry.contract.test": "192.0.2.7"}

# The tags of the folders that each service shares. Each has a file `said`, a script `run`, and a
# folder `deep er` with a file `said`.
TAGS = {
    "virtiofs": ("virtiofs-0", "virtiofs-1", "virtiofs-2"),
    "9p": ("9p-0",),
    "sftp": ("sftp-0", "sftp-1"),
}
SAID = "the host says so\n"

# The user who owns what the harness's user owns: on macOS, the first user is 501, and Lima gives
# the guest's user the same number.
OWNER = 501

# What virtiofsd says when it is ready.
WAITING = "Waiting for vhost-user socket connection"

READY = 20.0  # seconds until a service must be up
TICK = 0.05  # seconds between two looks at a server


@dataclass(frozen=True)
class Host:
    """Where services run: a scratch folder for this scenario, and the folder of kept downloads.

    Servers run in the sandbox of tools: a guest that can be anything asks them for files.
    """

    work: Path
    kept: Path
    progress: Progress
    tools: Tools

    def command(
        self, name: str, arguments: Sequence[process.Arg], write: Sequence[Path]
    ) -> list[str]:
        """Return the command that runs a program of programs.toml, which may change write.

        Raises MachineError if it cannot be obtained.
        """
        source = programs.read(Path(__file__).with_name("programs.toml"))[name]
        program = programs.obtain(name, source, self.kept, self.progress)
        kept = self.kept / "programs"
        return self.tools.command(
            [*program, *arguments], read=[kept] if kept.exists() else [], write=write, network=True
        )

    def folder(self, tag: str) -> Path:
        """Make the folder of the host with that tag, and return it."""
        folder = self.work / "shared" / tag
        (folder / "deep er").mkdir(parents=True)
        for said in (folder / "said", folder / "deep er" / "said"):
            said.write_text(SAID)
        (folder / "run").write_text("#!/bin/sh\necho it ran\n")
        (folder / "run").chmod(0o755)
        return folder


@dataclass(frozen=True)
class Offer:
    """What a service offers.

    environment tells scripts and seeds of it. sockets and folders are tags of mounts (hardware.py).
    control is what actions change the service with, if anything.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    sockets: Mapping[str, Path] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    control: object = None


class Shares:
    """The control of a service that shares folders."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """Keep the folders of the host, by their tags."""
        self.folders = folders


@contextlib.contextmanager
def dns(host: Host) -> Iterator[Offer]:
    """Answer for NAMES, over UDP and TCP; no other name exists. $DNS_PORT is where."""
    port = _free_port_of_both()
    options = [
        "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root",
        "--no-resolv", "--no-hosts", "--local=/#/",
        f"--listen-address={ADDRESS}", "--bind-interfaces", f"--port={port}",
        *(f"--host-record={name},{address}" for name, address in NAMES.items()),
    ]  # fmt: skip
    command = host.command("dnsmasq", options, [])
    with _kept_up(command, host.work / "dnsmasq.log", lambda: _listens(port)):
        yield Offer({"DNS_PORT": str(port)})


@contextlib.contextmanager
def virtiofs(host: Host) -> Iterator[Offer]:
    """Share folders by virtiofs: one virtiofsd each, as long as QEMU stays connected to it.

    The harness's user, who is root in the sandbox, is OWNER in the guest. virtiofsd listens on its
    standard input, and QEMU may connect to that before it does.
    """
    folders = {tag: host.folder(tag) for tag in TAGS["virtiofs"]}
    # A path below a checkout may be too long for a socket (unix(7)).
    with contextlib.ExitStack() as stack, TemporaryDirectory(prefix="finch-") as short:
        sockets = {tag: Path(short, tag) for tag in folders}
        for tag, folder in folders.items():
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(sockets[tag]))
            listener.listen()
            options: list[process.Arg] = [
                "--fd", "0", "--shared-dir", folder, "--sandbox", "none", "--log-level", "info",
                "--translate-uid", f"map:{OWNER}:0:1",
                "--translate-gid", f"squash-guest:0:0:{2**32 - 1}",
                # It would not start, because the sandbox leaves it no right to make devices.
                "--modcaps=-mknod",
            ]  # fmt: skip
            log, command = host.work / f"{tag}.log", host.command("virtiofsd", options, [folder])
            stack.enter_context(_kept_up(command, log, partial(_says, log, WAITING), listener))
        yield Offer(sockets=sockets, control=Shares(folders))


@contextlib.contextmanager
def plan9(host: Host) -> Iterator[Offer]:
    """Share folders by 9p, which QEMU itself serves."""
    folders = {tag: host.folder(tag) for tag in TAGS["9p"]}
    yield Offer(folders=folders, control=Shares(folders))


class ReverseSshfs(Shares):
    """Shares folders by SSH, as Lima does: sshfs in the guest asks a server on the host.

    Their messages go through the standard streams of an SSH session, so that the guest need not
    reach the host.
    """

    def __init__(self, host: Host, stack: contextlib.ExitStack) -> None:
        """End with stack all that `mount` starts."""
        super().__init__({tag: host.folder(tag) for tag in TAGS["sftp"]})
        self.host, self.stack = host, stack

    def mount(self, login: Callable[[str], list[str]], tag: str, point: str) -> Mounting:
        """Start to mount the folder with tag at point in the guest.

        login makes the command that runs a shell command there.
        """
        folder = self.folders[tag]
        remote = ["sshfs", f":{folder}", point, "-o", "slave", "-o", "allow_other"]
        ours, theirs = socket.socketpair()
        log = self.host.work / f"{tag}.log"
        server = self.host.command("sftp-server", ["-e"], [folder])
        with ours, theirs, log.open("wb") as errors:
            _, session = (
                self.stack.enter_context(
                    process.running(
                        process.start(
                            command, stdin=end.fileno(), stdout=end.fileno(), stderr=errors
                        )
                    )
                )
                for command, end in ((server, ours), (login(shlex.join(remote)), theirs))
            )
        return Mounting(session, log)


@dataclass(frozen=True)
class Mounting:
    """The SSH session of a mount, and the file with its messages."""

    session: subprocess.Popen[bytes]
    log: Path

    def failure(self) -> str:
        """Return why the session has ended, or "" while it lasts."""
        if self.session.poll() is None:
            return ""
        said = process.last_line(self.log.read_text(errors="replace"))
        return said or f"sshfs ended with status {self.session.returncode}"


@contextlib.contextmanager
def sftp(host: Host) -> Iterator[Offer]:
    """Share folders by reverse-sshfs; the control mounts each when the guest is ready for it."""
    with contextlib.ExitStack() as stack:
        yield Offer(control=ReverseSshfs(host, stack))


@contextlib.contextmanager
def clock(_host: Host) -> Iterator[Offer]:
    """Tell the time at $TIME_PORT; the control is the `TimeServer`."""
    with contextlib.closing(TimeServer()) as server:
        yield Offer({"TIME_PORT": str(server.port)}, control=server)


@contextlib.contextmanager
def page(_host: Host) -> Iterator[Offer]:
    """Serve a page, which guests reach at 10.0.2.2 and the port $WEB_PORT."""
    with web.serving() as port:
        yield Offer({"WEB_PORT": str(port)})


# Each starts its service for the length of a with block.
SERVICES: Mapping[str, Callable[[Host], AbstractContextManager[Offer]]] = {
    "9p": plan9,
    "dns": dns,
    "sftp": sftp,
    "time": clock,
    "virtiofs": virtiofs,
    "web": page,
}


@contextlib.contextmanager
def _kept_up(
    command: Sequence[str],
    log: Path,
    is_up: Callable[[], bool],
    stdin: socket.socket | None = None,
) -> Iterator[None]:
    """Run a server for the length of the with block, and start it again whenever it ends.

    virtiofsd ends when QEMU does, and a machine may be switched on again. Raises MachineError with
    the server's last words in log if it is not up in time.
    """
    closing = threading.Event()
    log.touch()

    def serve() -> None:
        while not closing.is_set():
            with (
                log.open("ab") as output,
                process.running(
                    process.start(
                        command,
                        stdin=stdin.fileno() if stdin else subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                    )
                ) as server,
            ):
                while server.poll() is None and not closing.wait(TICK):
                    pass
            closing.wait(TICK)

    # The kernel would end the server with the thread that started it.
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        limit = time.monotonic() + READY
        while not is_up():
            if time.monotonic() > limit:
                said = process.last_line(log.read_text(errors="replace"))
                raise MachineError(f"{log.stem} did not start: {said or 'it said nothing'}")
            time.sleep(TICK)
        yield
    finally:
        closing.set()
        thread.join()


def _free_port_of_both() -> int:
    """Return a loopback port that nothing uses at this moment, neither by TCP nor by UDP."""
    while True:
        port = free_port()
        with socket.socket(type=socket.SOCK_DGRAM) as taken, contextlib.suppress(OSError):
            taken.bind((ADDRESS, port))
            return port


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((ADDRESS, port)) == 0


def _says(log: Path, words: str) -> bool:
    return words in log.read_text(errors="replace")
