"""Makes real builds fail: by mirrors, disks, kills, users and paths. This takes some minutes.

The builds run in copies of this checkout, in folders with spaces and non-ASCII letters. The copies
have the checkout's tools tree and packages, if there are any.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

from scripts import arch
from scripts.doctor import doctor
from tests.e2e.checkout import DEBIAN, TOOLS, Arg, Build, Copy, copy, copy_tree, tmpfs

NATIVE = arch.native().name
BASE_SESSION = f"image-3.12(arch='{NATIVE}', image='base')"

# Seconds within which apt must give up on a silent mirror.
STALL_SECONDS = 180

STEP_BYTES = 16 << 20

as_root = pytest.mark.usefixtures("root")


@pytest.fixture(scope="module")
def root() -> None:
    """Fail unless the test runs as root, which may mount file systems."""
    if os.geteuid() != 0:
        pytest.fail("this test mounts file systems: run it as root")


@pytest.fixture(scope="module")
def copied(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the checkout with an up-to-date os-image."""
    root = tmp_path_factory.mktemp("faults") / "finch ä images"
    (checkout / ".work").mkdir(exist_ok=True)
    with FileLock(checkout / ".work/lock", timeout=900):
        copied = copy(checkout, root, checkout / ".work", [*TOOLS, f"debian/{NATIVE}/stages"])
        finished = f"out/debian/{NATIVE}"
        if (checkout / finished).exists():
            copy_tree(checkout / finished, root / finished)
    build = copied.build("--image", "os-image", within=900)
    assert build.process.returncode == 0, build.output
    return copied


@dataclass
class Mirror:
    """An archive on loopback that never serves a file."""

    url: str
    asked: list[str] = field(default_factory=list)


@contextmanager
def mirror(kind: str) -> Iterator[Mirror]:
    """Run a mirror that answers with the status kind, stalls, or refuses connections."""
    ending = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.asked.append(self.path)
            if kind == "stalled":
                ending.wait(600)
            self.send_response(503 if kind == "stalled" else int(kind))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    if kind == "refused":
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        yield Mirror(f"http://127.0.0.1:{port}")
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state = Mirror(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state
        ending.set()
        server.shutdown()


MIRRORS = {
    "404": "404 Not Found",
    "500": "500 Internal Server Error",
    "refused": "Connection refused",
    "stalled": "Connection failed",
}


@pytest.fixture(scope="module")
def builds_from(
    checkout: Path, copied: Copy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Mirror, Build]]]:
    """A build from each kind of mirror; all start at the same time, because they mostly wait."""
    builds: dict[str, tuple[Mirror, Build]] = {}
    with ExitStack() as stack:
        for kind in MIRRORS:
            root = tmp_path_factory.mktemp("mirror") / kind
            own = copy(checkout, root, copied.work, ["mkosi", "emulators"])
            served = stack.enter_context(mirror(kind))
            builds[kind] = (served, own.start("--image", "base", "--mirror", served.url))
        yield builds
        for _, build in builds.values():
            build.process.terminate()
            build.wait(within=60)


@pytest.mark.parametrize("kind", [kind for kind in MIRRORS if kind != "stalled"])
def test_a_mirror_that_fails_is_named_with_the_reason(
    builds_from: dict[str, tuple[Mirror, Build]], kind: str
) -> None:
    served, build = builds_from[kind]

    assert build.wait(within=120) == 1
    assert "could not fetch" in build.error[0]
    assert f"{served.url}/debian" in build.error[0]
    assert MIRRORS[kind] in build.error[0]
    assert "--mirror" in build.error[1]
    assert "Traceback" not in build.output


def test_a_mirror_with_an_error_of_its_own_is_asked_again_after_a_pause(
    builds_from: dict[str, tuple[Mirror, Build]],
) -> None:
    served, build = builds_from["500"]
    build.wait(within=120)

    assert served.asked.count("/debian/dists/trixie/InRelease") == 3
    assert "trying again in 8 s" in build.output
    assert build.seconds > 10


def change_command_line(copied: Copy, word: str) -> str:
    """Add word to os-image's kernel command line, and return the file's text before that."""
    conf = copied.root / "mkosi.images/os-image/mkosi.conf"
    text = conf.read_text()
    conf.write_text(f"{text}\n[Content]\nKernelCommandLine={word}\n")
    return text


def will_be_built(build: Build) -> set[str]:
    """Return the stages that the build found out of date."""
    return {
        line.partition("] ")[2].split()[0] for line in build.lines if " will be built: " in line
    }


def test_what_is_up_to_date_is_not_built_again(copied: Copy) -> None:
    build = copied.build("--image", "os-image")

    assert build.process.returncode == 0
    assert "everything is up to date" in build.output
    assert will_be_built(build) == set()


@as_root
def test_a_full_disk_is_told_and_the_good_artifacts_stay(copied: Copy, tmp_path: Path) -> None:
    before = change_command_line(copied, "finch.full")
    good = artifacts(copied)
    try:
        with tmpfs(tmp_path / "small", "5G") as work:
            for path in copied.work.iterdir():
                if path.is_dir():
                    copy_tree(path, work / path.name)
            build = copied.start("--image", "os-image", "--work", work)
            build.wait_for("os-image: Building os-image image")
            fill(work)
            status = build.wait()
    finally:
        (copied.root / "mkosi.images/os-image/mkosi.conf").write_text(before)

    assert status == 1
    assert build.error[0] == (
        f"error: building os-image failed: the disk that holds {work} is full"
    )
    assert "free some space" in build.error[1]
    assert artifacts(copied) == good
    assert copied.leftovers() == []


def fill(folder: Path) -> None:
    """Fill the file system of folder, even while something else writes to it."""
    with suppress(OSError), (folder / "filler").open("wb") as file:
        for size in itertools.count(STEP_BYTES, STEP_BYTES):
            os.posix_fallocate(file.fileno(), size - STEP_BYTES, STEP_BYTES)


def artifacts(copied: Copy) -> dict[str, tuple[int, int]]:
    """Map the files in out/, including hidden ones, to their sizes and modification times."""
    out = copied.root / "out/debian" / NATIVE
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "build.log"]
    return {
        path.relative_to(out).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
    }


def test_a_change_of_the_kernel_command_line_builds_os_image_alone(copied: Copy) -> None:
    change_command_line(copied, "finch.changed")
    build = copied.build("--image", "os-image")

    assert build.process.returncode == 0, build.output
    assert will_be_built(build) == {"os-image"}
    assert b"finch.changed" in (copied.root / f"out/debian/{NATIVE}/os-image.efi").read_bytes()
    again = copied.build("--image", "os-image")
    assert "everything is up to date" in again.output


def start_to_unpack(copied: Copy, start: Callable[..., Build], *args: str) -> Build:
    """Start a build of base, and return it once dpkg is unpacking packages."""
    log = copied.root / "out/debian" / NATIVE / "build.log"
    log.unlink(missing_ok=True)
    build = start(*args)
    build.wait_for("base: Installing Debian", within=180)
    while "Unpacking " not in log.read_text(errors="replace"):
        assert build.process.poll() is None, build.output
        time.sleep(0.1)
    return build


def kept(copied: Copy) -> tuple[str, bool]:
    """Return the key of the base stage, and whether its tree exists."""
    folder = copied.work / "debian" / NATIVE / "stages/base"
    return json.loads((folder / "stage.json").read_text())["key"], (folder / "base/usr").is_dir()


def test_two_builds_at_once_exclude_each_other_and_sigterm_ends_one_tidily(copied: Copy) -> None:
    before = kept(copied)
    build = start_to_unpack(copied, copied.start, "--force", "--image", "base")
    second = copied.build("--image", "base")
    build.process.terminate()

    assert build.wait(within=60) == 128 + signal.SIGTERM
    assert second.process.returncode == 1
    assert second.error[0] == (
        f"error: another build is running in this checkout (process {build.process.pid})"
    )
    assert copied.leftovers(within=5) == []
    assert kept(copied) == before


def test_nothing_is_left_of_a_harness_that_is_killed(copied: Copy) -> None:
    before = kept(copied)
    build = start_to_unpack(copied, copied.start, "--force", "--image", "base")
    build.process.kill()

    assert build.wait(within=60) == -signal.SIGKILL
    assert copied.leftovers() == []
    assert kept(copied) == before


def test_ctrl_c_in_the_terminal_ends_nox_and_all_below_it(copied: Copy) -> None:
    build = start_to_unpack(copied, copied.nox, BASE_SESSION, *DEBIAN, "--force")
    os.killpg(build.process.pid, signal.SIGINT)

    assert build.wait(within=90) == 128 + signal.SIGINT
    assert "Traceback" not in build.output
    assert copied.leftovers(within=5) == []


def test_nothing_is_left_of_a_nox_that_is_killed(copied: Copy) -> None:
    build = start_to_unpack(copied, copied.nox, BASE_SESSION, *DEBIAN, "--force")
    build.process.kill()

    assert build.wait(within=60) == -signal.SIGKILL
    assert copied.leftovers() == []


def test_after_all_that_the_next_build_works(copied: Copy) -> None:
    build = copied.build("--force", "--image", "base")

    assert build.process.returncode == 0, build.output
    assert will_be_built(build) == {"base"}
    assert copied.leftovers(within=5) == []


@dataclass(frozen=True)
class User:
    """An unprivileged user who owns a copy of the checkout."""

    name: str
    copied: Copy
    python: Path

    def build(self, *args: str) -> Build:
        """Build Debian as the user, and return the finished build."""
        command: list[Arg] = [
            shutil.which("runuser") or "runuser", "-u", self.name, "--",
            self.python, "-m", "scripts.sessions.build", "--distribution", "debian", *args,
        ]  # fmt: skip
        variables = {"HOME": os.fspath(self.copied.root.parent), "PATH": "/usr/bin:/bin", "CI": "1"}
        build = Build(command, self.copied.root, variables)
        build.wait()
        return build


@pytest.fixture(scope="module")
def user(checkout: Path, copied: Copy) -> Iterator[User]:
    """A user without subordinate UIDs."""
    if os.geteuid() != 0 or not shutil.which("newuidmap"):
        pytest.fail("making users takes root, and theirs to build newuidmap: apt install uidmap")
    name = f"finch-{os.getpid()}"
    home = Path(tempfile.mkdtemp(prefix="finch ä "))
    subprocess.run(["useradd", "--system", "--home-dir", home, name], check=True)
    try:
        own = copy(checkout, home / "checkout", copied.work, TOOLS)
        yield User(name, own, make_python(home / "python"))
    finally:
        subprocess.run(["userdel", name], check=True)
        shutil.rmtree(home)


def make_python(home: Path) -> Path:
    """Make an environment with this one's packages and a Python that every user may run."""
    python = next(
        (
            path
            for v in ("", ".13", ".12", ".11")
            if (path := Path(f"/usr/bin/python3{v}")).exists()
        ),
        Path(sys.executable),
    )
    subprocess.run([python, "-m", "venv", "--without-pip", home], check=True)
    [site] = home.glob("lib/python*/site-packages")
    shutil.copytree(sysconfig.get_paths()["purelib"], site, dirs_exist_ok=True)
    return home / "bin/python"


def hand_over(user: User) -> None:
    subprocess.run(["chown", "-R", user.name, user.copied.root.parent], check=True)


def test_a_user_without_subordinate_uids_is_told_what_to_set(user: User) -> None:
    hand_over(user)
    build = user.build("--image", "base")

    assert build.process.returncode == 3, build.output
    assert f"{user.name} has no {doctor.SUB_IDS} subordinate UIDs" in build.error[0]
    assert (
        f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user.name}"
        in (build.error[1])
    )


def test_a_user_with_subordinate_uids_builds(user: User) -> None:
    hand_over(user)
    ids = "1000000-1065535"
    subprocess.run(["usermod", "--add-subuids", ids, "--add-subgids", ids, user.name], check=True)
    build = user.build("--image", "base")

    assert build.process.returncode == 0, build.output
    assert (user.copied.work / "debian" / NATIVE / "stages/base/base/usr/bin/bash").exists()


def test_a_mirror_that_stalls_is_named_within_minutes(
    builds_from: dict[str, tuple[Mirror, Build]],
) -> None:
    served, build = builds_from["stalled"]

    assert build.wait(within=STALL_SECONDS) == 1
    assert build.seconds < STALL_SECONDS
    assert f"{served.url}/debian" in build.error[0]
    assert MIRRORS["stalled"] in build.error[0]
    assert served.asked.count("/debian/dists/trixie/InRelease") > 1
