"""Stands in for Windows: imports a root file system, starts it as WSL 2 does, and speaks to it.

A distribution is a container of systemd-nspawn with what WSL gives it: a kernel that is not its
own, a network card that the host has configured, /init, the host's name and resolv.conf, the drives
of Windows below /mnt, and few devices, of which no udev tells. What Windows writes and mounts is in
src/linux/init/config.cpp of github.com/microsoft/WSL.

systemd-nspawn, bsdtar and ssh are Debian's, in a root of their own. They need root, but neither
systemd nor a network on this machine.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from filelock import FileLock

from scripts import arch
from scripts.system.process import running, start
from tests.lab import debs
from tests.lab.eras import NEWEST

PACKAGES = ("iproute2", "libarchive-tools", "libc-bin", "openssh-client", "systemd-container")

# Where the programs see what they are given.
SHOWN = "/shown"
HOST = "/host"

# How WSL unpacks a distribution: LXSS_BSDTAR_EXTRACT_ARGS in its LxssUserSession.cpp.
EXTRACT = ("-x", "-p", "--xattrs", "--no-acls", "-f", "-")

# The drive C: and WSL's own files.
SHARES = ("c", "wsl")

NAME, ADDRESS, NAME_SERVER = "WINDOWS-PC", "172.31.0.2", "10.255.255.254"

# The address that every name has, and the program that says so (RFC 1035, section 4.1).
ANSWER = "192.0.2.1"
RESOLVE = f"""
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("{NAME_SERVER}", 53))
print(flush=True)
while True:
    asked, client = server.recvfrom(512)
    end = asked.index(b"\\0", 12) + 5
    found = b""
    if asked[end - 4 : end - 2] == b"\\0\\1":
        found = bytes.fromhex("c00c 0001 0001 0000003c 0004") + socket.inet_aton("{ANSWER}")
    counts = bytes([0, 1, 0, bool(found), 0, 0, 0, 0])
    server.sendto(asked[:2] + b"\\x81\\x80" + counts + asked[12:end] + found, client)
"""

# WSL's own program, called by several names. Only the translation of a path is needed here.
INIT = """\
#!/bin/sh
case "${0##*/} $1" in
"wslpath -u") printf '%s\\n' "$2" | sed -E 's,^([A-Z]):,/mnt/\\L\\1,; s,\\\\,/,g' ;;
*) exit 1 ;;
esac
"""
CALLED = ("usr/bin/wslpath", "usr/bin/wslinfo", "usr/sbin/mount.drvfs")

# Enters the root $1, with the folder $2 at SHOWN and the folder $3 at HOST, and runs the rest. The
# root must be a mount point, or systemd-nspawn cannot leave it.
ENTER = f"""
set -eu
root=$1 shown=$2 host=$3
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --bind "$shown" "$root{SHOWN}"
mount --bind "$host" "$root{HOST}"
"""

# Makes a group of its own in a hierarchy of version 2, whatever the machine mounts, and a network
# with one card. systemd-nspawn's own group is the one that it is started in.
START = f"""
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
group="$root/sys/fs/cgroup/$1"
shift
mkdir "$group"
echo $$ >"$group/cgroup.procs"
mount -t tmpfs tmpfs "$root/run"
chroot "$root" ip link set lo up
chroot "$root" ip link add eth0 type veth peer name windows
chroot "$root" ip address add {ADDRESS}/20 dev eth0
chroot "$root" ip address add {NAME_SERVER}/32 dev lo
chroot "$root" ip link set windows up
chroot "$root" ip link set eth0 up
"""

EXEC = 'exec chroot "$root" "$@"\n'

# Ends what is left of a container, and removes its groups, which are empty only after a moment.
CLEAN = """
set -eu
mount -t cgroup2 cgroup2 "$1"
test -d "$1/$2" || exit 0
echo 1 >"$1/$2/cgroup.kill"
for _ in $(seq 100); do
    if find "$1/$2" -depth -type d -exec rmdir {} + 2>/dev/null; then exit; fi
    sleep 0.1
done
exit 1
"""

# systemd-nspawn's /tmp would be a file system of its own, which Microsoft's rules are against.
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "SYSTEMD_NSPAWN_TMPFS_TMP": "0",
}

# wsl.exe gives a process these variables.
IN_DISTRO = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root")

# Seconds until a start is given up. The test judges how long it took.
PATIENCE = 120


@dataclass(frozen=True)
class Windows:
    """The programs in root, and the folder with what Windows shows to its distributions.

    work is a folder for the distributions.
    """

    root: Path
    work: Path

    @property
    def host(self) -> Path:
        """The folder that has /init and what is shown below /mnt."""
        return self.work / "host"

    def prepare(self) -> None:
        """Write what Windows shows to every distribution."""
        for name in SHARES:
            (self.host / name).mkdir(parents=True)
        (self.host / "wsl/resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")
        (self.host / "init").write_text(INIT)
        (self.host / "init").chmod(0o755)

    def install(self, archive: Path, name: str) -> Path:
        """Unpack archive as `wsl --import` does; return the root of the distribution."""
        root = self.work / name
        root.mkdir(mode=0o755)
        with archive.open("rb") as file:
            subprocess.run(
                [
                    "unshare", "--mount", "sh", "-c", ENTER + EXEC, "sh",
                    self.root, root, self.host, "bsdtar", "-C", SHOWN, *EXTRACT,
                ],
                stdin=file, env=ENVIRONMENT, check=True,
            )  # fmt: skip
        return root

    @contextmanager
    def start(self, root: Path) -> Iterator[Distro]:
        """Start the distribution in the folder root, and end it with the with block."""
        self._configure(root)
        group = f"finch-wsl-{root.name}-{time.time_ns()}"
        command = [
            "systemd-nspawn", f"--directory={SHOWN}", "--boot", "--register=no", "--keep-unit",
            "--console=read-only", f"--machine={root.name}", f"--hostname={NAME}",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no",
            f"--bind-ro={HOST}/init:/init",
            *(f"--bind={HOST}/{name}:/mnt/{name}" for name in SHARES),
            "--tmpfs=/run/lock", "--tmpfs=/run/user:mode=755",
            *(f"--bind={path}" for path in ("/dev/fuse", "/dev/net/tun") if Path(path).exists()),
        ]  # fmt: skip
        log = self.work / f"{root.name}.log"
        with log.open("wb") as file:
            process = start(
                [
                    "unshare", "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child",
                    "sh", "-c", ENTER + START + EXEC, "sh",
                    self.root, root, self.host, group, *command,
                ],
                stdout=file, stderr=file, env=ENVIRONMENT,
            )  # fmt: skip
            with running(process):
                try:
                    yield Distro(root, process, group, log)
                finally:
                    subprocess.run(
                        ["unshare", "--mount", "sh", "-c", CLEAN, "sh", self.work / "group", group],
                        check=True,
                    )

    def _configure(self, root: Path) -> None:
        """Write to a distribution what WSL writes at each start."""
        (root / "etc/hostname").write_text(f"{NAME}\n")
        (root / "etc/hosts").write_text(f"127.0.0.1\tlocalhost\n127.0.1.1\t{NAME}. {NAME}\n")
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        (root / "etc/resolv.conf").symlink_to("/mnt/wsl/resolv.conf")
        (root / "usr/lib/wsl/lib").mkdir(parents=True, exist_ok=True)
        for name in CALLED:
            (root / name).unlink(missing_ok=True)
            (root / name).symlink_to("/init")


@dataclass(frozen=True)
class Distro:
    """A distribution that runs: its root, what keeps it, its control group, and its console."""

    root: Path
    process: subprocess.Popen[bytes]
    group: str
    log: Path
    started: float = field(default_factory=time.monotonic)

    @cached_property
    def pids(self) -> tuple[int, int]:
        """The processes of systemd-nspawn and of the distribution's systemd, waited for."""
        while time.monotonic() < self.started + PATIENCE and self.process.poll() is None:
            # The first one is alone in the outer namespace, and the second one in one below it.
            found = {
                len(inside): pid
                for pid, inside in _descendants(self.process.pid)
                if inside[-1] == "1" and _name(pid) in ("systemd", "systemd-nspawn")
            }
            if {2, 3} <= found.keys() and _is_up(found[3]):
                return found[2], found[3]
            time.sleep(0.05)
        raise AssertionError(f"the distribution does not start: {self.log.read_text()}")

    def run(
        self, script: str, *, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of bash as root, as `wsl.exe -d NAME bash -c` does.

        WSL's processes are in the group of systemd itself. logind answers none from outside.
        """
        outer, inner = self.pids
        group = f"/proc/{outer}/root/sys/fs/cgroup/{self.group}/payload/init.scope/cgroup.procs"
        variables = [f"{name}={value}" for name, value in (env or {}).items()]
        return self._enter(
            [*IN_DISTRO, *variables, "bash", "-euc", script], inner, ["--all"], group, check=check
        )

    def ssh(self, user: str, key: str, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script of bash over SSH. key is the path of the private key below HOST."""
        command = [
            "ssh", "-i", key, "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o",
            "LogLevel=ERROR", f"{user}@{ADDRESS}", "bash", "-es",
        ]  # fmt: skip
        return self._enter(command, self.pids[0], ["--mount", "--net"], stdin=script)

    def _enter(
        self,
        argv: Sequence[str],
        pid: int,
        namespaces: Sequence[str],
        group: str = "/dev/null",
        *,
        stdin: str = "",
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [
                "sh", "-euc", 'echo $$ >"$0"; exec nsenter "$@"', group,
                "--target", str(pid), *namespaces, "--root", "--wd", *argv,
            ],
            input=stdin, env=ENVIRONMENT, capture_output=True, text=True, check=False,
            timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{argv[-1]}: {done.stdout}{done.stderr}"
        return done

    @contextmanager
    def name_server(self) -> Iterator[None]:
        """Answer for the server in resolv.conf."""
        command: list[str] = ["nsenter", "--target", str(self.pids[0]), "--net"]
        process = start([*command, sys.executable, "-c", RESOLVE], stdout=subprocess.PIPE)
        with running(process):
            assert process.stdout
            process.stdout.readline()
            yield

    def stop(self) -> float:
        """Power the distribution off, and return how many seconds that took."""
        begun = time.monotonic()
        self.run("systemctl poweroff")
        self.process.wait(PATIENCE)
        return time.monotonic() - begun


def _descendants(top: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the processes below top, each with its ids in this and the inner namespaces."""
    parents: dict[int, int] = {}
    ids: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            lines = (line.partition(":") for line in path.read_text().splitlines())
            status = {name: value.split() for name, _, value in lines}
            pid = int(path.parent.name)
            parents[pid], ids[pid] = int(status["PPid"][0]), status["NSpid"]
    for pid, inside in ids.items():
        above = pid
        while above in parents and above != top:
            above = parents[above]
        if above == top != pid:
            yield pid, inside


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _is_up(pid: int) -> bool:
    """Whether systemd answers already."""
    return Path(f"/proc/{pid}/root/run/systemd/private").exists()


def prepare(checkout: Path, work: Path) -> Windows:
    """Return Windows, whose programs the checkout keeps for the next run; work is for the rest."""
    kept = checkout / ".work/lab/windows"
    kept.mkdir(parents=True, exist_ok=True)
    root = work / "programs"
    with FileLock(kept / "lock"):
        for deb in debs.Archive(kept / "apt", NEWEST, arch.native(), print).obtain(PACKAGES):
            subprocess.run(["dpkg-deb", "--extract", deb.path, root], check=True)
    for name in (SHOWN, HOST):
        (root / name.lstrip("/")).mkdir()
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    windows = Windows(root, work)
    (work / "group").mkdir()
    windows.prepare()
    return windows
