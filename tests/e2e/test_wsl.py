"""WSL without Windows: the root file system is imported and started as WSL does, and Lima moves in.

What stands in for Windows is in windows.py.
"""

from __future__ import annotations

import configparser
import filecmp
import os
import re
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from scripts import arch
from scripts.options import Options
from tests import wsl
from tests.e2e import windows
from tests.e2e.windows import HOST, Distro, Windows
from tests.lab import debs
from tests.lab.eras import NEWEST
from tests.lab.repository import World

pytestmark = [
    pytest.mark.skipif(not arch.X86_64.is_native, reason="there is a WSL rootfs on x86_64 only"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a container"),
]

# Seconds that a start may take, of time and of the processors' time.
START_SECONDS = 5

# On Windows, Lima gives its user the UID that a distribution's own would have (lima#5089).
USER, UID = "lima", 1000
KEY = f"{HOST}/c/key"
FOLDER = "Users/me/.lima/finch/cidata"
CIDATA = f"C:\\{FOLDER}".replace("/", "\\")

# What Lima 2.1 does in a distribution, in our own words: github.com/lima-vm/lima has it in
# pkg/driver/wsl2 and, for all guests, in pkg/cidata/cidata.TEMPLATE.d. If one of these scripts
# fails, Lima stops the distribution.
STEPS: Mapping[str, str] = {
    "find the folder on the drive of Windows": """
        test -f "$(wslpath -u "$CIDATA")/meta-data"
    """,
    "wait for no network": "systemctl mask systemd-networkd-wait-online.service",
    "make the user": """
        useradd --uid $ID --comment Me --home-dir /home/$NAME.linux --create-home \
            --shell /bin/bash $NAME
        install -d -m 700 -o $NAME -g "$(id -g $NAME)" /home/$NAME.linux/.ssh
        install -m 600 -o $NAME -g "$(id -g $NAME)" "$(wslpath -u "$CIDATA")/ssh_authorized_keys" \
            /home/$NAME.linux/.ssh/authorized_keys
    """,
    "let the user become root": """
        echo "$NAME ALL=(ALL) NOPASSWD:ALL" >/etc/sudoers.d/99_lima_sudoers
    """,
    "link the folder": 'ln -sfn "$(wslpath -u "$CIDATA")" /mnt/lima-cidata',
    "let the user read the journal": "usermod --append --groups systemd-journal $NAME",
    "make host keys, and have SSH listen": """
        ssh-keygen -A
        systemctl reset-failed ssh || systemctl reset-failed sshd
        systemctl enable --now ssh || systemctl enable --now sshd
    """,
    "mount a folder of Windows that cannot be written": """
        mkdir -p "/srv/my files"
        mount --bind "$(wslpath -u 'C:\\Users\\me')" "/srv/my files"
        mount -o remount,ro,bind "/srv/my files"
        mountpoint --quiet "/srv/my files"
        ! touch "/srv/my files/new"
        printf '\\n[automount]\\noptions = "metadata"\\n' >>/etc/wsl.conf
    """,
    "have names of the local network resolved": """
        if command -v systemctl && command -v resolvectl; then
            mkdir -p /etc/systemd/resolved.conf.d
            printf '[Resolve]\\nMulticastDNS=yes\\n' >/etc/systemd/resolved.conf.d/00-lima.conf
            systemctl daemon-reload
            systemctl restart systemd-resolved.service
        fi
    """,
    "name the host": """
        printf '172.31.0.1\\thost.lima.internal\\n' >>/etc/hosts
        test "$(getent hosts host.lima.internal | cut -d' ' -f1)" = 172.31.0.1
    """,
    "set the environment, and end older sessions": """
        printf 'LIMA=1\\n' >>/etc/environment
        loginctl terminate-user $NAME || true
        cp /mnt/lima-cidata/meta-data /run/lima-ssh-ready
    """,
    "prepare for rootless containers": """
        mkdir -p /etc/systemd/system/user@.service.d
        printf '[Service]\\nDelegate=yes\\n' >/etc/systemd/system/user@.service.d/lima.conf
        systemctl daemon-reload
        echo $NAME:524288:1073741824 | tee -a /etc/subuid >>/etc/subgid
        systemctl start systemd-logind.service
        loginctl enable-linger $NAME
    """,
    "install the guest agent": """
        install -m 755 /mnt/lima-cidata/lima-guestagent /usr/local/bin/lima-guestagent
        printf '%s\\n' '[Service]' 'ExecStart=/usr/local/bin/lima-guestagent daemon' \
            'Restart=on-failure' '[Install]' 'WantedBy=multi-user.target' \
            >/etc/systemd/system/lima-guestagent.service
        systemctl daemon-reload
        systemctl enable --now lima-guestagent.service
    """,
    "make a place for the host's services": "install -d -m 700 -o $NAME /run/host-services",
    "need no package": "test -e /usr/sbin/iptables && command -v sshfs tar sudo",
    "wait for the user's own systemd": """
        timeout 30 sh -c "until test -e /run/user/$ID/systemd/private; do sleep 0.1; done"
    """,
    "say that all is done": "cp /mnt/lima-cidata/meta-data /run/lima-boot-done",
}


@dataclass(frozen=True)
class Rootfs:
    """A distribution's tarball, and what it is after it was imported."""

    distribution: str
    archive: Path
    root: Path


@pytest.fixture(scope="module")
def host(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Windows, with the folder that Lima makes for an instance."""
    found = windows.prepare(checkout, tmp_path_factory.mktemp("windows"))
    folder = found.host / "c" / FOLDER
    folder.mkdir(parents=True)
    key = found.host / "c/key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", key], check=True)
    (folder / "ssh_authorized_keys").write_text(key.with_suffix(".pub").read_text())
    (folder / "meta-data").write_text("instance-id: 1\n")
    (folder / "lima-guestagent").write_text("#!/bin/sh\nexec sleep infinity\n")
    return found


@pytest.fixture(scope="module", params=["debian", "amazonlinux"])
def rootfs(request: pytest.FixtureRequest, host: Windows) -> Rootfs:
    """A distribution that was imported, but never started."""
    if request.param == "debian":
        opts: Options = request.getfixturevalue("opts")
        folder = opts.artifacts
    else:
        folder = request.getfixturevalue("amazon_images")
    archive = folder / "wsl-rootfs.tar.gz"
    if not archive.exists():
        pytest.fail(f"there is no {archive}: build it with `./nox -s quickstart`", pytrace=False)
    return Rootfs(request.param, archive, host.install(archive, request.param))


@pytest.fixture(scope="module")
def distro(
    host: Windows, rootfs: Rootfs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Distro]:
    """A distribution that was started."""
    root = tmp_path_factory.mktemp("distros") / "finch"
    subprocess.run(["cp", "-a", "--reflink=auto", rootfs.root, root], check=True)
    with host.start(root) as started:
        yield started


@pytest.fixture(scope="module")
def lima(distro: Distro) -> Distro:
    """The distribution after Lima's steps."""
    for name, script in STEPS.items():
        done = step(distro, script)
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return distro


def step(distro: Distro, script: str) -> subprocess.CompletedProcess[str]:
    return distro.run(script, env={"CIDATA": CIDATA, "NAME": USER, "ID": str(UID)}, check=False)


def test_windows_installs_the_same_file_on_a_double_click(rootfs: Rootfs) -> None:
    assert filecmp.cmp(rootfs.archive, rootfs.archive.with_name("wsl-rootfs.wsl"), shallow=False)


def test_the_tarball_keeps_to_microsofts_rules(rootfs: Rootfs) -> None:
    assert wsl.complaints(rootfs.archive) == []


def test_an_import_gives_what_is_in_the_tarball(rootfs: Rootfs) -> None:
    """WSL imports no access lists, of which /var/log/journal has one."""
    with tarfile.open(rootfs.archive) as tar:
        members = {member.name: member for member in tar}
        differences = [
            name
            for name, member in members.items()
            if facts(rootfs.root, name) != expected(tar, member, members)
        ]
    assert differences == []
    found = {
        os.path.relpath(Path(folder, name), rootfs.root)
        for folder, folders, files in os.walk(rootfs.root)
        for name in (*folders, *files)
    }
    assert found == members.keys()


def facts(root: Path, name: str) -> tuple[object, ...]:
    """What an import decides about a path."""
    path = root / name
    status = path.lstat()
    is_file = stat.S_ISREG(status.st_mode)
    attributes = {
        attribute: os.getxattr(path, attribute, follow_symlinks=False)
        for attribute in os.listxattr(path, follow_symlinks=False)
    }
    return (
        stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
        attributes, int(status.st_mtime) if is_file else 0, status.st_nlink if is_file else 0,
        sha256(path.read_bytes()).digest() if is_file else b"",
        str(path.readlink()) if path.is_symlink() else "",
    )  # fmt: skip


def expected(
    tar: tarfile.TarFile, member: tarfile.TarInfo, members: Mapping[str, tarfile.TarInfo]
) -> tuple[object, ...]:
    """What the tarball says about the path of member."""
    first = members[member.linkname] if member.islnk() else member
    names = [one for one in members.values() if one.islnk() and one.linkname == first.name]
    kinds = {tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK}
    prefix = "SCHILY.xattr."
    attributes = {
        name.removeprefix(prefix): value.encode("utf-8", "surrogateescape")
        for name, value in first.pax_headers.items()
        if name.startswith(prefix) and "posix_acl" not in name
    }
    content = tar.extractfile(first) if first.isreg() else None
    return (
        kinds.get(first.type, stat.S_IFREG), 0o777 if first.issym() else first.mode, first.uid,
        first.gid, attributes, int(first.mtime) if first.isreg() else 0,
        len(names) + 1 if first.isreg() else 0,
        sha256(content.read()).digest() if content else b"",
        first.linkname if first.issym() else "",
    )  # fmt: skip


def test_no_program_speaks_to_a_masked_daemon(rootfs: Rootfs) -> None:
    """By the names of its bus and of its Varlink socket; longer ones are those of errors."""
    names = re.compile(rb"(org\.freedesktop\.(resolve|network)1|io\.systemd\.(Resolve|Network))\0")
    programs = [
        path
        for folder in ("usr/bin", "usr/sbin")
        for path in (rootfs.root / folder).iterdir()
        if path.is_file() and not path.is_symlink()
    ]
    assert len(programs) > 200
    assert [path.name for path in programs if names.search(path.read_bytes())] == []


def test_a_start_is_quick_and_without_a_failed_unit(distro: Distro) -> None:
    state = distro.run("systemctl is-system-running --wait", check=False).stdout.strip()
    taken = took(distro)
    print(taken)
    failed = distro.run("systemctl --failed --plain; journalctl --boot --priority warning").stdout
    assert state == "running", failed
    assert taken.busy <= START_SECONDS
    # On a machine with nothing else to do this is the limit itself.
    assert taken.seconds <= START_SECONDS + taken.waiting


@dataclass(frozen=True)
class Took:
    """The seconds of a start: in all, on processors, and in which a process waited for one."""

    seconds: float
    busy: float
    waiting: float


def took(distro: Distro) -> Took:
    """Return what systemd and the kernel have counted so far."""
    told = distro.run(
        "systemctl show --property=UserspaceTimestampMonotonic --property=FinishTimestampMonotonic;"
        "tr ' ' '=' </sys/fs/cgroup/cpu.stat; sed -n 's/^some.*total/waiting/p' "
        "/sys/fs/cgroup/cpu.pressure"
    ).stdout
    micros = {
        name: int(number) for name, number in re.findall(r"^(\w+)=(\d+)$", told, re.MULTILINE)
    }
    seconds = micros["FinishTimestampMonotonic"] - micros["UserspaceTimestampMonotonic"]
    return Took(seconds / 1e6, micros["usage_usec"] / 1e6, micros["waiting"] / 1e6)


def test_it_has_what_windows_gives_it(distro: Distro) -> None:
    assert distro.run("uname --nodename").stdout.strip() == windows.NAME
    assert distro.run("cat /etc/resolv.conf").stdout == f"nameserver {windows.NAME_SERVER}\n"
    assert distro.run("systemd-detect-virt --container").returncode == 0
    assert distro.run("stat --file-system --format=%T /sys/fs/cgroup").stdout == "cgroup2fs\n"


@pytest.mark.parametrize("unit", [unit for unit in wsl.UNITS if not unit.startswith("Network")])
def test_what_windows_does_never_runs(distro: Distro, unit: str) -> None:
    told = distro.run(f"systemctl show --property=LoadState,ActiveState {unit}").stdout.split()
    assert told[1] == "ActiveState=inactive"
    assert told[0] in ("LoadState=masked", "LoadState=not-found")


def test_no_console_waits_for_a_login(distro: Distro) -> None:
    active = "systemctl list-units --plain --no-legend --state=active"
    assert distro.run(f"{active} '*getty*.service'").stdout == ""
    assert "ssh" in distro.run(f"{active} 'ssh*.service'").stdout


def test_lima_learns_the_address(distro: Distro) -> None:
    """Lima trusts what this says, even if there is no hostname, since cut is what ends last."""
    assert distro.run("hostname -I | cut -d' ' -f1").stdout.strip() == windows.ADDRESS


def test_lima_moves_in(lima: Distro) -> None:
    over_ssh = lima.ssh(
        USER,
        KEY,
        """
        test "$(id -u)" = 1000
        test "$LIMA" = 1
        sudo diff /run/lima-ssh-ready /mnt/lima-cidata/meta-data
        sudo diff /run/lima-boot-done /mnt/lima-cidata/meta-data
        systemctl is-active lima-guestagent.service
        systemctl --user is-system-running --wait
        journalctl --unit lima-guestagent.service --quiet
        """,
    ).stdout.splitlines()
    assert over_ssh[:2] == ["active", "running"]
    assert "lima-guestagent" in over_ssh[2]
    assert lima.run("systemctl is-system-running", check=False).stdout == "running\n"


def test_lima_leaves_a_configuration_that_wsl_reads(lima: Distro) -> None:
    parser = configparser.ConfigParser()
    parser.read(lima.root / "etc/wsl.conf")
    assert parser["boot"]["systemd"] == "true"
    assert parser["automount"]["options"] == '"metadata"'


def test_windows_resolves_names(distro: Distro) -> None:
    with distro.name_server():
        said = distro.run("timeout 5 getent ahostsv4 finch.example").stdout
    assert said.startswith(f"{windows.ANSWER} ")


def test_a_program_of_resolved_would_keep_lima_out(lima: Distro) -> None:
    """So Lima's steps, as they are here, do find the fault of lima#5490."""
    lima.run("printf '#!/bin/sh\\n' >/usr/bin/resolvectl; chmod 755 /usr/bin/resolvectl")
    done = step(lima, STEPS["have names of the local network resolved"])
    lima.run("rm /usr/bin/resolvectl")
    assert done.returncode != 0
    assert "is masked" in done.stderr


def test_an_upgrade_brings_back_no_program_of_a_masked_daemon(
    rootfs: Rootfs, lima: Distro, checkout: Path, request: pytest.FixtureRequest
) -> None:
    if rootfs.distribution == "debian":
        archive = debs.Archive(checkout / ".work/lab/windows/apt", NEWEST, arch.native(), print)
        [package] = [deb.path for deb in archive.obtain_alone(["systemd-resolved"])]
        command, query = "dpkg --install", "dpkg-query --listfiles systemd-resolved"
    else:
        made: World = request.getfixturevalue("made")
        [package, *_] = made.base.rglob("systemd-resolved-*.x86_64.rpm")
        command, query = "rpm --upgrade --replacepkgs", "rpm --query --list systemd-resolved"
    (lima.root / "root" / package.name).write_bytes(package.read_bytes())
    lima.run(f"{command} /root/{package.name}")
    programs = wsl.CLIENTS["systemd-resolved.service"]
    assert f"/{programs[0]}" in lima.run(query).stdout.split(), "the package has the program"
    assert not [name for name in programs if os.path.lexists(lima.root / name)]
    assert step(lima, STEPS["have names of the local network resolved"]).returncode == 0


def test_the_second_start_is_as_good(host: Windows, lima: Distro) -> None:
    lima.run("test -e /run/lima-boot-done")
    assert lima.stop() <= 15
    with host.start(lima.root) as again:
        assert again.run("systemctl is-system-running --wait", check=False).stdout == "running\n"
        again.run("! test -e /run/lima-boot-done; systemctl is-active lima-guestagent.service")
        assert again.ssh(USER, KEY, "sudo id -u").stdout == "0\n"


def test_dpkg_finds_only_differences_with_a_reason(rootfs: Rootfs) -> None:
    if rootfs.distribution != "debian":
        pytest.skip("for RPMs, test_old_readers.py has this test")
    said = subprocess.run(
        ["dpkg", f"--root={rootfs.root}", "--verify"], capture_output=True, text=True, check=False
    ).stdout
    found = {line.split(maxsplit=1)[1].removeprefix("c ") for line in said.splitlines()}
    boot = {path for path in found if path.startswith("/usr/lib/systemd/boot")}
    documents = {path for path in found if path.startswith("/usr/share/")}
    # mkosi adds IMAGE_ID to os-release.
    assert found - boot - documents == {
        "/usr/lib/os-release",
        "/usr/bin/networkctl",
        "/usr/bin/resolvectl",
        "/usr/sbin/resolvconf",
    }
