"""Debian's packages: which archive they come from, and downloading them with apt.

This repository contains no archive's address. On a Debian machine, apt already knows an archive
that answers; elsewhere, mkosi's default is used. A user can name a mirror instead.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.distributions import apt
from scripts.distributions.apt import Apt
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, MachineError
from scripts.system.files import write_private
from scripts.system.process import Arg, CommandError
from scripts.system.url import Url

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

KEYRING_MEND = "apt-get install debian-archive-keyring; Fedora's package of it is debian-keyring"

# The configuration of this machine's apt.
APT = Path("/etc/apt")

# Its downloaded lists are empty in a fresh container and take half a second to read anywhere else.
NO_CACHE = {
    "Dir::State::Lists": "/dev/null/",
    "Dir::State::Status": "/dev/null",
    "Dir::Cache::PkgCache": "",
    "Dir::Cache::SrcPkgCache": "",
}

# Suites without a security suite: fixes go straight into them.
ROLLING = ("sid", "unstable")

# apt gives up a stalled transfer after twice the timeout (it connects again once) and tries it
# again twice. With two suites, one after the other, a dead mirror is reported after two minutes.
# Without the error mode apt goes on with whatever lists it could get, or with none. Nobody reads
# the translated descriptions of packages, which are a third of the download. DPkg::Path is
# apt's own but for the first folder, which holds stand-ins in foreign images (see
# scripts/emulation/standins.py).
APT_CONF = """\
Acquire::Retries "2";
Acquire::http::Timeout "10";
Acquire::https::Timeout "10";
Acquire::Languages "none";
APT::Update::Error-Mode "any";
DPkg::Path "/usr/lib/finch-natively:/usr/sbin:/usr/bin:/sbin:/bin";
"""


@dataclass(frozen=True)
class Archive:
    """The URLs of a Debian archive and of its security archive (None where unknown)."""

    main: Url
    security: Url | None = None

    def sources(self, release: str) -> str:
        """The deb822 sources (sources.list(5)) of release, its updates and security fixes."""
        rolling = release in ROLLING
        text = _stanza(self.main, [release] if rolling else [release, f"{release}-updates"])
        if self.security and not rolling:
            text += "\n" + _stanza(self.security, [f"{release}-security"])
        return text


def find(mirror: Url | None = None) -> Archive | None:
    """Return the archive below mirror, else this machine's; None leaves the choice to mkosi.

    A mirror has the layout that mkosi expects, with the archive in its folder debian/. Mirrors
    hardly ever carry security fixes, so those still come from where the machine gets them.
    """
    machine = _of_this_machine()
    if mirror:
        return Archive(mirror / "debian", machine.security if machine else None)
    return machine


def write_sandbox_tree(
    folder: Path,
    archive: Archive | None,
    release: str,
    proxies: Iterable[Url] = (),
    *,
    any_age: bool = False,
) -> Path:
    """Write the sandbox tree that gives mkosi's apt its sources; return folder.

    A mkosi.sources in a sandbox tree replaces mkosi's own, which adds a debug suite that few
    mirrors carry. Credentials for the archive and for proxies are in files that only this user can
    read; so are copies of the machine's own. An index that has expired is refused unless any_age is
    true, and one of another release always.
    """
    etc = folder / "etc/apt"
    shutil.rmtree(etc, ignore_errors=True)
    settings = apt.CAREFUL | (apt.ANY_AGE if any_age else {})
    _write(etc / "apt.conf.d/90-finch.conf", APT_CONF + apt.text(settings) + apt.SAME_RELEASE)
    if archive:
        _write(etc / "sources.list.d/mkosi.sources", archive.sources(release))
    _write_rules(etc / "auth.conf.d", archive, proxies)
    return folder


def _write_rules(folder: Path, archive: Archive | None, proxies: Iterable[Url] = ()) -> None:
    """Write to folder the access rules for archive and proxies, and copies of the machine's own.

    apt sends credentials to no server but that of their rule (apt_auth.conf(5)).
    """
    for rule in (*APT.glob("auth.conf"), *APT.glob("auth.conf.d/*.conf")):
        if os.access(rule, os.R_OK):
            write_private(folder / rule.name, rule.read_text())
    urls = [archive.main, archive.security, *proxies] if archive else [*proxies]
    rules = dict.fromkeys(_rule(url) for url in urls if url and url.credentials)
    # Of several rules for a server the first counts, and apt reads files in the order of their
    # names.
    if rules:
        write_private(folder / "00-finch.conf", "".join(rules))


def _rule(url: Url) -> str:
    """Return the access rule for url. Without the scheme, apt would apply it to https only."""
    found = url.credentials
    assert found
    words = ["machine", url.bare.rstrip("/"), "login", found.user]
    return " ".join([*words, *(["password", found.password] if found.password else [])]) + "\n"


@functools.cache
def _of_this_machine() -> Archive | None:
    codename = _debian_codename()
    try:
        targets = _targets()
    except FileNotFoundError:
        return None
    except CommandError as error:
        raise MachineError(
            f"this machine's apt cannot be asked for its archive: {error.output.strip()}",
            hint="apt-get update says more",
        ) from error
    uris: dict[str, Url] = {}
    for line in targets.splitlines():
        release, component, uri = line.split(" ", 2)
        if component == "main" and uri.startswith(("http:", "https:")):
            uris.setdefault(release, Url(uri.rstrip("/")))
    if not codename or codename not in uris:
        return None
    return Archive(main=uris[codename], security=uris.get(f"{codename}-security"))


def _targets() -> str:
    """Return what this machine's sources offer, in lines of release, component and URI."""
    with tempfile.TemporaryDirectory() as folder:
        return Apt.configured(Path(folder, "apt.conf"), NO_CACHE).run(
            [
                "apt-get", "indextargets", "--no-release-info",
                "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)",
                "Created-By: Packages",
            ]
        )  # fmt: skip


def _debian_codename() -> str:
    """The codename of this machine's release, from os-release(5) ("" unless it is Debian)."""
    try:
        fields = platform.freedesktop_os_release()
    except OSError:
        return ""
    return fields.get("VERSION_CODENAME", "") if fields["ID"] == "debian" else ""


def download(
    package: str,
    suites: list[str],
    folder: Path,
    *,
    arch: str = "",
    archive: Archive | None = None,
    sha256: str = "",
) -> Path:
    """Download package as `download_all` does and return its .deb.

    If the archive's index has expired, only a package with the digest sha256 is accepted: it is the
    wanted one, however old the index is. Raises HarnessError for any other package.
    """
    try:
        [path] = download_all([package], suites, folder, arch=arch, archive=archive)
    except CommandError as error:
        expired = apt.EXPIRED.search(error.output)
        if not (sha256 and expired):
            raise
        [path] = download_all([package], suites, folder, arch=arch, archive=archive, any_age=True)
        if file_digest(path) != sha256:
            raise HarnessError(
                f"{path.name} is not the pinned package, and the archive's index is too old to "
                f"trust for another one: {expired[1]}",
                hint="use another mirror, or try again later",
            ) from error
    return path


def download_all(
    packages: Sequence[str],
    suites: list[str],
    folder: Path,
    *,
    arch: str = "",
    archive: Archive | None = None,
    any_age: bool = False,
) -> list[Path]:
    """Download packages from the first of suites that has each, and return their .debs.

    apt authenticates them, and refuses an index that has expired unless any_age is true. arch is
    Debian's name of their architecture, "" for this machine's. archive replaces the machine's own.
    apt keeps its configuration, lists and cache below folder, so that it neither reads nor changes
    the machine's. Raises MachineError if there is no archive, no apt or no key to authenticate
    with, HarnessError if the index is that of another release, and CommandError if apt fails.
    """
    archive = archive or _of_this_machine()
    if not archive or not shutil.which("apt-get"):
        raise MachineError("this machine has no Debian archive in its apt configuration")
    if not KEYRING.exists():
        raise MachineError("this machine lacks the keys of Debian's archive", hint=KEYRING_MEND)
    for part in ("lists/partial", "cache/archives/partial", "parts"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    _write(folder / "debian.sources", _stanza(archive.main, suites))
    _write_rules(folder / "auth.conf.d", archive)
    settings = _settings(folder, arch) | (apt.ANY_AGE if any_age else {})
    own = Apt.configured(folder / "apt.conf", settings)
    own.update()
    own.run(["apt-get", "--quiet", "download", *packages], cwd=folder)
    return [next(folder.glob(f"{package}_*.deb")) for package in packages]


def _settings(folder: Path, arch: str) -> dict[str, Arg]:
    """Return the settings of an apt that keeps everything below folder."""
    return {
        "Dir::Etc::SourceList": folder / "debian.sources",
        "Dir::Etc::SourceParts": folder / "parts",
        "Dir::Etc::netrcparts": folder / "auth.conf.d",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
        # apt would otherwise go on with the lists of the suites that it could get.
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        # Otherwise apt knows a foreign package only if dpkg was told of its architecture.
        **({"APT::Architecture": arch, "APT::Architectures": arch} if arch else {}),
    }


def _stanza(uri: Url, suites: list[str]) -> str:
    return textwrap.dedent(
        f"""\
        Types: deb
        URIs: {uri.bare}
        Suites: {" ".join(suites)}
        Components: main
        Signed-By: {KEYRING}
        """
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
