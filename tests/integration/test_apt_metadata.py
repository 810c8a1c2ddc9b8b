"""Attacks on Debian's indexes, and on apt's configuration, with an archive on loopback."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.distributions import debian
from scripts.distributions.debian import Archive
from scripts.mkosi import failures, source
from scripts.mkosi.source import Mkosi
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError
from scripts.system.process import CommandError
from scripts.system.progress import Progress
from scripts.system.url import Url
from tests.integration import namespaces
from tests.lab import keys, world
from tests.lab.archive import DAY, SUITE, DebianArchive
from tests.lab.server import LabServer

# Downloads the package of the archive that argv names as the harness does, and prints its path.
DOWNLOAD = """
import sys
from pathlib import Path
from scripts.distributions import debian
from scripts.system.url import Url
keyring, url, package, folder = sys.argv[1:]
debian.KEYRING = Path(keyring)
print(debian.download(package, ["trixie"], Path(folder), archive=debian.Archive(Url(url))))
"""

# Prints apt-get's command line as the patched mkosi has it, after writing apt's files to argv[1].
OF_MKOSI = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from mkosi.config import Architecture
from mkosi.distribution import Distribution
from mkosi.installer.apt import Apt
config = SimpleNamespace(
    with_recommends=False, find_binary=lambda *_: "/usr/bin/dpkg", repository_key_check=True,
    with_docs=True, proxy_url=None, distribution=Distribution.debian,
    architecture=Architecture.x86_64,
)
context = SimpleNamespace(config=config, sandbox_tree=Path(sys.argv[1]))
Apt.setup(context, [])
print(json.dumps([str(arg) for arg in Apt.cmd(context)]))
"""


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    world.provide()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> keys.Key:
    return keys.obtain(tmp_path_factory.mktemp("keys"), "Debian")


@pytest.fixture(scope="module")
def using(checkout: Path) -> Mkosi:
    """The patched mkosi that builds use."""
    return source.obtain(checkout / "mkosi", checkout / ".work", Progress(live=False))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LabServer]:
    (tmp_path / "www").mkdir()
    with LabServer(tmp_path / "www") as server:
        yield server


@pytest.fixture
def archive(server: LabServer, key: keys.Key, monkeypatch: pytest.MonkeyPatch) -> DebianArchive:
    """The archive on the server, whose key is trusted as Debian's is."""
    archive = DebianArchive(server.www, key)
    monkeypatch.setattr(debian, "KEYRING", archive.keyring)
    return archive


def download(archive: DebianArchive, server: LabServer, folder: Path, sha256: str = "") -> Path:
    there = Archive(Url(f"{server.url}/debian"))
    return debian.download(archive.package, [SUITE], folder, archive=there, sha256=sha256)


@pytest.mark.parametrize("expires_in", [DAY, None])
@pytest.mark.parametrize("detached", [False, True], ids=["InRelease", "Release"])
def test_a_package_of_an_index_that_is_signed_and_fresh_is_downloaded(
    archive: DebianArchive,
    server: LabServer,
    tmp_path: Path,
    expires_in: float | None,
    *,
    detached: bool,
) -> None:
    archive.publish(expires_in=expires_in, detached=detached)

    assert download(archive, server, tmp_path / "apt").read_bytes() == archive.deb.read_bytes()


def test_an_index_that_has_expired_is_refused(
    archive: DebianArchive, server: LabServer, tmp_path: Path
) -> None:
    archive.publish(expires_in=-2 * DAY)
    with pytest.raises(CommandError) as caught:
        download(archive, server, tmp_path / "apt")

    assert "is expired (invalid since 2d" in caught.value.output


def test_of_an_expired_index_only_the_pinned_package_is_taken(
    archive: DebianArchive, server: LabServer, tmp_path: Path
) -> None:
    archive.publish(expires_in=-2 * DAY)
    pinned = file_digest(archive.deb)

    assert download(archive, server, tmp_path / "apt", pinned).exists()
    with pytest.raises(HarnessError, match=r"not the pinned package.* is expired") as caught:
        download(archive, server, tmp_path / "again", "0" * 64)
    assert "\n" not in caught.value.message


def test_an_unsigned_index_is_refused(
    archive: DebianArchive, server: LabServer, tmp_path: Path
) -> None:
    archive.publish(signed=False)
    with pytest.raises(CommandError) as caught:
        download(archive, server, tmp_path / "apt")

    assert "is not signed" in caught.value.output


def test_an_index_that_somebody_else_signed_is_refused(
    archive: DebianArchive, server: LabServer, tmp_path: Path
) -> None:
    archive.publish()
    somebody = keys.obtain(tmp_path / "keys", "Somebody else")
    archive.keyring.write_text(somebody.public)
    with pytest.raises(CommandError) as caught:
        download(archive, server, tmp_path / "apt")

    assert "is not signed" in caught.value.output


def test_a_package_of_the_right_size_and_another_digest_is_refused(
    archive: DebianArchive, server: LabServer, tmp_path: Path
) -> None:
    archive.publish()
    data = bytearray(archive.deb.read_bytes())
    data[-1] ^= 1
    archive.deb.write_bytes(data)
    with pytest.raises(CommandError) as caught:
        download(archive, server, tmp_path / "apt")

    assert "Hash Sum mismatch" in caught.value.output
    assert not list((tmp_path / "apt").glob("*.deb"))


@pytest.mark.parametrize("detached", [False, True], ids=["InRelease", "Release"])
def test_the_signed_index_of_another_release_is_refused(
    archive: DebianArchive, server: LabServer, tmp_path: Path, *, detached: bool
) -> None:
    archive.publish(codename="bookworm", detached=detached)
    with pytest.raises(HarnessError, match=r"/debian offers bookworm as trixie: "):
        download(archive, server, tmp_path / "apt")

    assert not list((tmp_path / "apt").glob("*.deb"))


def on_a_machine_with(configuration: str, tmp_path: Path, *command: str | Path) -> str:
    """Run command where /etc/apt has only configuration in its apt.conf.d; return what it says."""
    namespaces.require("mount -t tmpfs none /etc/apt", "/etc/apt cannot be replaced")
    machine = tmp_path / "etc-apt"
    (machine / "apt.conf.d").mkdir(parents=True)
    (machine / "apt.conf.d/99evil").write_text(configuration)
    script = 'mount --bind "$1" /etc/apt && shift && exec "$@"'
    done = subprocess.run(
        [*namespaces.COMMAND, "sh", "-c", script, "-", machine, *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def attacked(archive: DebianArchive, url: str, configuration: str, tmp_path: Path) -> str:
    """Download the package on a machine with configuration; return what the harness says."""
    return on_a_machine_with(
        configuration, tmp_path,
        sys.executable, "-c", DOWNLOAD, archive.keyring, f"{url}/debian", archive.package,
        tmp_path / "apt",
    )  # fmt: skip


@pytest.mark.parametrize(
    "configuration",
    [
        'APT::Update::Pre-Invoke {"touch @mark@"; };',
        'APT::Update::Post-Invoke {"touch @mark@"; };',
        'APT::Update::Post-Invoke-Success {"touch @mark@"; };',
        'Dir::Bin::Methods "@evil@";',
        'Dir::Bin::Methods::http "@evil@/http";',
        'Acquire::http::Proxy-Auto-Detect "@evil@/http";',
        'Acquire::http::ProxyAutoDetect "@evil@/http";',
        'Dir::Bin::apt-key "@evil@/http"; Apt::Key::gpgvcommand "@evil@/http";',
    ],
)
def test_a_command_in_the_machine_s_apt_configuration_is_not_run(
    archive: DebianArchive, server: LabServer, tmp_path: Path, configuration: str
) -> None:
    archive.publish()
    mark, evil = tmp_path / "mark", tmp_path / "evil"
    evil.mkdir()
    (evil / "http").write_text(f"#!/bin/sh\ntouch {mark}\necho DIRECT\n")
    (evil / "http").chmod(0o755)
    filled = configuration.replace("@mark@", str(mark)).replace("@evil@", str(evil))
    said = attacked(archive, server.url, filled, tmp_path)

    assert str(tmp_path / "apt") in said.splitlines()[-1]
    assert not mark.exists()


INSECURE = """
Acquire::AllowInsecureRepositories "true";
Acquire::AllowWeakRepositories "true";
Acquire::AllowDowngradeToInsecureRepositories "true";
APT::Get::AllowUnauthenticated "true";
"""


def test_a_machine_that_takes_unsigned_archives_does_not_make_the_harness_do_so(
    archive: DebianArchive, server: LabServer, tmp_path: Path
) -> None:
    archive.publish(signed=False)
    said = attacked(archive, server.url, INSECURE, tmp_path)

    assert "ended with status 100" in said
    assert not list((tmp_path / "apt").glob("*.deb"))


def test_a_machine_that_takes_expired_indexes_does_not_make_the_harness_do_so(
    archive: DebianArchive, server: LabServer, tmp_path: Path
) -> None:
    archive.publish(expires_in=-DAY)
    configuration = 'Acquire::Check-Valid-Until "false"; Acquire::Check-Date "false";'
    said = attacked(archive, server.url, configuration, tmp_path)

    assert "ended with status 100" in said
    assert not list((tmp_path / "apt").glob("*.deb"))


@pytest.mark.parametrize("scope", ["", "::archive.invalid"])
def test_the_machine_s_proxy_is_still_used_and_its_password_is_for_nobody_s_eyes(
    archive: DebianArchive, server: LabServer, tmp_path: Path, scope: str
) -> None:
    archive.publish()
    proxy = server.url.replace("://", "://me:secret@")
    configuration = f'Acquire::http::Proxy{scope} "{proxy}";'
    said = attacked(archive, "http://archive.invalid", configuration, tmp_path)
    written = tmp_path / "apt/apt.conf"

    assert str(tmp_path / "apt") in said.splitlines()[-1]
    assert f"http://archive.invalid/debian/dists/{SUITE}/InRelease" in server.requests
    assert "me:secret@" in written.read_text()
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def updated_by_mkosi(server: LabServer, using: Mkosi, tmp_path: Path, *, any_age: bool) -> str:
    """Let apt update its lists as the patched mkosi calls it with our sandbox tree."""
    namespaces.require("mount -t tmpfs none /etc/apt", "/etc/apt cannot be replaced")
    tree = tmp_path / "tree"
    debian.write_sandbox_tree(tree, Archive(Url(f"{server.url}/debian")), "sid", any_age=any_age)
    sources = tree / "etc/apt/sources.list.d/mkosi.sources"
    sources.write_text(sources.read_text().replace("Suites: sid", f"Suites: {SUITE}"))
    asked = subprocess.run(
        [sys.executable, "-c", OF_MKOSI, tree],
        env={**os.environ, "PYTHONPATH": os.fspath(using.folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    command = json.loads(asked.stdout)
    for part in ("state", "lists/partial", "cache/archives/partial"):
        (tmp_path / "own" / part).mkdir(parents=True)
    for option, folder in {"State": "state", "Cache": "cache"}.items():
        command += ["-o", f"Dir::{option}={tmp_path}/own/{folder}"]
    command += ["-o", "Dir::State::Status=/dev/null", "update"]
    script = (
        'mount --bind "$1" /etc/apt && mount --bind "$2" /var/lib/apt/lists && shift 2 && exec "$@"'
    )
    lists = tmp_path / "own/lists"
    done = subprocess.run(
        [*namespaces.COMMAND, "sh", "-c", script, "-", tree / "etc/apt", lists, *command],
        env={**os.environ, "APT_CONFIG": os.fspath(tree / "etc/apt.conf")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"{done.returncode}: {done.stdout}{done.stderr}"


def test_mkosi_refuses_an_index_that_has_expired(
    archive: DebianArchive, server: LabServer, using: Mkosi, tmp_path: Path
) -> None:
    archive.publish(expires_in=-2 * DAY)
    said = updated_by_mkosi(server, using, tmp_path, any_age=False)

    assert said.startswith("100: ")
    assert "is expired (invalid since 2d" in said


@pytest.mark.parametrize("detached", [False, True], ids=["InRelease", "Release"])
def test_mkosi_refuses_the_signed_index_of_another_release(
    archive: DebianArchive, server: LabServer, using: Mkosi, tmp_path: Path, *, detached: bool
) -> None:
    archive.publish(codename="bookworm", detached=detached)
    said = updated_by_mkosi(server, using, tmp_path, any_age=True)
    found = failures.knowledge().diagnose(said)

    assert said.startswith("100: ")
    assert found
    message, _ = found.explain(tmp_path, "")
    assert message == (
        f"{server.url}/debian offers bookworm as trixie: its index is that of another release"
    )


def test_a_release_that_a_header_of_the_signature_names_does_not_count(
    archive: DebianArchive, server: LabServer, using: Mkosi, tmp_path: Path
) -> None:
    archive.publish(codename="bookworm")
    signed = archive.root / f"dists/{SUITE}/InRelease"
    begin = "-----BEGIN PGP SIGNATURE-----\n"
    signed.write_text(signed.read_text().replace(begin, f"{begin}Codename: {SUITE}\n"))
    said = updated_by_mkosi(server, using, tmp_path, any_age=True)

    assert said.startswith("100: "), said
    assert "expected trixie but got bookworm" in said


def test_mkosi_takes_a_fresh_index_and_one_that_has_expired_where_the_user_says_so(
    archive: DebianArchive, server: LabServer, using: Mkosi, tmp_path: Path
) -> None:
    archive.publish(expires_in=DAY)
    fresh = updated_by_mkosi(server, using, tmp_path / "fresh", any_age=False)
    archive.publish(expires_in=-2 * DAY)
    told = updated_by_mkosi(server, using, tmp_path / "told", any_age=True)

    assert fresh.startswith("0: "), fresh
    assert told.startswith("0: "), told
