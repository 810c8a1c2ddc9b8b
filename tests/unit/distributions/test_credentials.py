"""How apt and dnf get the password in a mirror's or proxy's URL, and who gets it from them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.arch import X86_64
from scripts.distributions import amazonlinux, debian
from scripts.distributions.debian import Archive
from scripts.system.errors import UsageError
from scripts.system.url import Url
from tests.unit.asking import Server, basic, says

RELEASE = "2023.12.20260930"
LIST = f"/al2023/core/mirrors/{RELEASE}/x86_64/mirror.list"

# Characters that a configuration file may take for its own.
ODD = "MARK%25$basearch%23'%22%5C;=%40:%2F"
PLAIN = "MARK%$basearch#'\"\\;=@:/"

needs_apt = pytest.mark.skipif(not shutil.which("apt-get"), reason="this machine has no apt")
needs_dnf = pytest.mark.skipif(not shutil.which("dnf"), reason="this machine has no dnf")


@pytest.fixture(name="server")
def _server() -> Iterator[Server]:
    with Server().running() as server:
        yield server


@pytest.fixture(name="other")
def _other() -> Iterator[Server]:
    with Server().running() as server:
        yield server


def modes(tree: Path, mark: str = "MARK") -> dict[str, str]:
    """The modes of the files below tree that hold mark."""
    found = (path for path in sorted(tree.rglob("*")) if path.is_file())
    return {
        path.name: oct(stat.S_IMODE(path.stat().st_mode))
        for path in found
        if mark.encode() in path.read_bytes()
    }


def apt(tree: Path, state: Path, *options: str) -> str:
    """What apt says to an update with the configuration in tree."""
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::Etc": tree / "etc/apt", "Dir::State::Lists": state / "lists",
        "Dir::State::Status": "/dev/null", "Dir::Cache": state / "cache",
        "APT::Sandbox::User": "root", "Acquire::Retries": 0,
    }  # fmt: skip
    done = subprocess.run(
        ["apt-get", "update", *(f"-o{name}={value}" for name, value in settings.items()), *options],
        env={"PATH": os.environ["PATH"], "APT_CONFIG": "/dev/null"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@needs_apt
def test_apt_shows_the_password_to_the_archive_and_in_no_file_that_others_read(
    server: Server, tmp_path: Path
) -> None:
    archive = Archive(Url.parse(f"{server.with_password(ODD)}/debian"))
    tree = debian.write_sandbox_tree(tmp_path / "tree", archive, "trixie")
    said = apt(tree, tmp_path / "state")

    assert ("/debian/dists/trixie/InRelease", basic("me", PLAIN)) in server.asked
    assert set(modes(tmp_path).values()) == {"0o600"}
    assert "MARK" not in said


@needs_apt
def test_apt_shows_the_password_to_no_other_archive(
    server: Server, other: Server, tmp_path: Path
) -> None:
    server.answers["/debian/dists/trixie/InRelease"] = says(b"", 302, Location=f"{other.url}/x")
    archive = Archive(Url.parse(f"{server.with_password()}/debian"), Url(f"{other.url}/security"))
    apt(debian.write_sandbox_tree(tmp_path / "tree", archive, "trixie"), tmp_path / "state")

    assert server.asked
    assert len(other.asked) > 1
    assert {shown for _, shown in other.asked} == {""}


@needs_apt
def test_apt_shows_a_proxy_its_password(server: Server, tmp_path: Path) -> None:
    proxy = Url.parse(server.with_password(ODD))
    archive = Archive(Url("http://archive.invalid/debian"))
    tree = debian.write_sandbox_tree(tmp_path / "tree", archive, "trixie", [proxy])
    apt(tree, tmp_path / "state", f"-oAcquire::http::Proxy={proxy.bare}")

    assert basic("me", PLAIN) in server.as_proxy
    assert {shown for _, shown in server.asked} == {""}
    assert modes(tree) == {"00-finch.conf": "0o600"}


@needs_apt
def test_our_own_downloads_show_the_password_to_the_archive_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(debian, "KEYRING", keyring)
    archive = Archive(Url.parse(f"{server.with_password()}/debian"))
    with pytest.raises(Exception, match="apt-get") as caught:
        debian.download("mkosi", ["sid"], tmp_path / "apt", archive=archive)

    assert ("/debian/dists/sid/InRelease", basic("me", "MARK")) in server.asked
    assert "MARK" not in str(caught.value) + getattr(caught.value, "output", "")
    assert modes(tmp_path / "apt") == {"00-finch.conf": "0o600"}


def test_access_rules_of_the_machine_are_copied_for_this_user_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tmp_path / "machine"
    (machine / "auth.conf.d").mkdir(parents=True)
    for name in ("auth.conf", "auth.conf.d/own.conf"):
        (machine / name).write_text("machine archive.test login me password MARK\n")
        (machine / name).chmod(0o644)
    monkeypatch.setattr(debian, "APT", machine)
    tree = debian.write_sandbox_tree(tmp_path / "tree", None, "trixie")

    assert modes(tree) == {"auth.conf": "0o600", "own.conf": "0o600"}


def dnf(tree: Path, state: Path, repository: str, *options: str) -> str:
    """What dnf says to a refresh of repository, lines of its configuration."""
    # dnf looks for the folder of its logs on both sides of the root.
    for part in (state / "repos", state / "log", Path(f"{state}/root{state}/log")):
        part.mkdir(parents=True)
    (state / "repos/a.repo").write_text(f"[a]\nname=a\n{repository}\n")
    settings = {
        "reposdir": state / "repos", "cachedir": state / "cache", "logdir": state / "log",
        "persistdir": state / "persist", "retries": 1,
    }  # fmt: skip
    done = subprocess.run(
        ["dnf", f"--config={tree}/etc/dnf/dnf.conf", f"--installroot={state}/root",
         "--releasever=1", *(f"--setopt={name}={value}" for name, value in settings.items()),
         *options, "makecache"],
        env={"PATH": os.environ["PATH"], "HOME": os.fspath(state)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@needs_dnf
def test_dnf_shows_the_password_to_the_mirror_and_to_nobody_it_redirects_to(
    server: Server, other: Server, tmp_path: Path
) -> None:
    server.answers["/x86_64/repodata/repomd.xml"] = says(b"", 302, Location=f"{other.url}/x")
    mirror = Url.parse(f"{server.with_password(ODD)}/x86_64")
    tree = amazonlinux.write_sandbox_tree(tmp_path / "tree", None, mirror)
    said = dnf(tree, tmp_path / "state", f"baseurl={mirror.bare}")

    assert ("/x86_64/repodata/repomd.xml", basic("me", PLAIN)) in server.asked
    assert {shown for _, shown in other.asked} == {""}
    assert modes(tmp_path) == {"dnf.conf": "0o600"}
    assert "MARK" not in said


@needs_dnf
def test_dnf_shows_a_proxy_its_password(server: Server, tmp_path: Path) -> None:
    proxy = Url.parse(server.with_password(ODD))
    server.wants = basic("me", PLAIN)
    tree = amazonlinux.write_sandbox_tree(tmp_path / "tree", None, None, proxy)
    url = "baseurl=http://mirror.invalid/x86_64"
    said = dnf(tree, tmp_path / "state", url, f"--setopt=proxy={proxy.bare}")

    assert basic("me", PLAIN) in server.as_proxy
    assert {shown for _, shown in server.asked} == {""}
    assert modes(tmp_path) == {"dnf.conf": "0o600"}
    assert "MARK" not in said


@needs_dnf
def test_dnf_would_show_the_password_to_all_that_a_mirror_list_names(
    server: Server, other: Server, tmp_path: Path
) -> None:
    """The reason for `check_list`: should dnf mend its ways, that can go."""
    server.answers[LIST] = says(f"{other.url}/x86_64/\n".encode())
    mirror = Url.parse(f"{server.with_password()}/al2023")
    tree = amazonlinux.write_sandbox_tree(tmp_path / "tree", None, mirror)
    dnf(tree, tmp_path / "state", f"mirrorlist={server.url}{LIST}")

    assert basic("me", "MARK") in {shown for _, shown in other.asked}


@pytest.mark.parametrize(
    "entry",
    [
        "http://localhost:{port}/x",
        "https://127.0.0.1:{port}/x",
        "http://127.0.0.1:1/x",
        "http://127.0.0.1:{port}@evil.test/x",
        "http://evil.test\\@127.0.0.1:{port}/x",
        "ftp://127.0.0.1:{port}/x",
        "http://127.0.0.1:{port}x/",
        "//127.0.0.1:{port}/x",
        "<metalink>",
        "http://127.0.0.1:{port}/own http://evil.test/",
        "\x1b[2J",
    ],
)
def test_a_mirror_list_that_leads_elsewhere_does_not_get_our_password_there(
    server: Server, entry: str
) -> None:
    server.answers[LIST] = says(f"{server.url}/own\n{entry.format(port=server.port)}\n".encode())
    with pytest.raises(UsageError, match="dnf would send your password there too") as caught:
        amazonlinux.check(RELEASE, X86_64, Url(f"{server.with_password()}/al2023"))

    assert "MARK" not in caught.value.message
    assert caught.value.message.isprintable()


def test_a_mirror_list_may_lead_anywhere_without_a_password_and_home_with_one(
    server: Server,
) -> None:
    server.answers[LIST] = says(b"http://elsewhere.test/x\n")
    amazonlinux.check(RELEASE, X86_64, Url(f"{server.url}/al2023"))
    server.answers[LIST] = says(f"{server.url}/x\n".encode())
    amazonlinux.check(RELEASE, X86_64, Url(f"{server.with_password()}/al2023"))
