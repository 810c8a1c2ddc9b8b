"""Which releases of Amazon Linux exist, and whether a mirror has the one to build.

Amazon's repositories are immutable for each dated release such as 2023.12.20260930. A mirror has
the layout of Amazon's CDN: core/mirrors/<release>/<arch>/mirror.list says where the packages are,
core/releasemd.xml which releases there are.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from scripts import catalog
from scripts.arch import Arch
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.fetch import MissingError, Settings, read
from scripts.system.files import write_private, write_text
from scripts.system.text import printable
from scripts.system.url import Url

CDN = "https://cdn.amazonlinux.com/al2023"

LATEST = "latest"

# Remembers the newest release that each mirror has listed; below the folder of what is kept.
SEEN = "newest-releases.json"

DATED = re.compile(r"2023\.\d{1,4}\.(\d{4})(\d\d)(\d\d)", re.ASCII)

# Since this release, Amazon signs repomd.xml with the key of its packages (Amazon Linux 2023 User
# Guide, "Repository metadata signing"). mkosi/0001-*.patch has the same rule.
FIRST_SIGNED = "2023.11.20260406"

# The repository of Supplementary Packages for Amazon Linux, as mkosi/0001-*.patch calls it, and the
# first release that has it (Amazon Linux 2023 User Guide, "Configure SPAL repository"). It is
# versioned as the core repository is.
SPAL = "spal"
FIRST_WITH_SPAL = "2023.9.20251117"

# In releasemd.xml.
RELEASE = re.compile(r"<release\s[^>]*\bversion=[\"']([^\"']+)")

NEAREST = 3

# A look at what the build would ask for: a server that is up answers at once.
LOOK = Settings(attempts=4, pause=1, connect=5, stall=15)

# dnf gives up a stalled server after three times 15 seconds. A server counts as stalled if it sends
# fewer than 1000 bytes a second.
DNF_CONF = """\
[main]
retries=2
timeout=15
minrate=1000
"""

# Where mkosi looks for the key of Amazon's packages. A file in a sandbox tree takes precedence.
AMAZON_KEY = "usr/share/distribution-gpg-keys/amazon-linux/RPM-GPG-KEY-amazon-linux-2023"


WAYS_ON = (
    f"{catalog.option('mirror')} names a mirror with the layout of Amazon's CDN; "
    f"{catalog.command('quickstart')} builds the Debian variant, which needs none"
)


def write_sandbox_tree(
    folder: Path,
    signing_key: Path | None,
    mirror: Url | None = None,
    proxy: Url | None = None,
) -> Path:
    """Write the sandbox tree with dnf's patience, its credentials and signing_key; return folder.

    Without signing_key mkosi uses the key in the tools tree, from distribution-gpg-keys.
    """
    for part in ("etc", "usr"):
        shutil.rmtree(folder / part, ignore_errors=True)
    conf, key = folder / "etc/dnf/dnf.conf", folder / AMAZON_KEY
    secrets = dnf_credentials(mirror, proxy)
    (write_private if secrets else write_text)(conf, DNF_CONF + secrets)
    if signing_key:
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_text(signing_key.read_text())
    return folder


def dnf_credentials(mirror: Url | None, proxy: Url | None) -> str:
    """Return the lines of dnf's configuration with the credentials for mirror and proxy, or "".

    dnf sends those of the mirror to every server in mirror.list (see `check_list`), but not to one
    that it is redirected to (dnf 4.14 with librepo 1.14 and 1.20).
    """
    lines = []
    for prefix, url in (("", mirror), ("proxy_", proxy)):
        if url and (found := url.credentials):
            lines += [f"{prefix}username={found.user}", f"{prefix}password={found.password}"]
    return "".join(f"{line}\n" for line in lines)


def check_list(url: Url) -> None:
    """Check that url, a mirror.list, leads only to its own server if it requires credentials.

    dnf would send them to all others too. Raises UsageError, or HarnessError if url cannot be read.
    """
    for line in read(url, settings=LOOK).decode(errors="replace").split():
        if url.credentials and not _is_of(line, url):
            raise UsageError(
                f"{url} leads to {printable(str(Url(line)))}, and dnf would send your password "
                "there too",
                hint=f"{catalog.option('mirror')} takes a password only for a mirror that lists no "
                "other server",
            )


def _is_of(address: str, url: Url) -> bool:
    """Whether address begins as url does, up to the path. Programs read odd URLs differently."""
    parts = urlsplit(url.bare)
    return address.startswith(f"{parts.scheme}://{parts.netloc}/")


def check(release: str, arch: Arch, mirror: Url | None) -> None:
    """Check that mirror (by default Amazon's CDN) has the packages of release for arch.

    Raises UsageError that lists the nearest releases if the mirror has only others, and
    HarnessError that says what to do instead if the mirror cannot be reached or read.
    """
    check_name(release, mirror)
    try:
        check_list(probe(release, arch, mirror))
    except UsageError:
        raise
    except MissingError as error:
        raise _missing(release, arch, mirror, error) from error
    except HarnessError as error:
        raise _unreachable(error, mirror) from error


def check_name(release: str, mirror: Url | None, *, offline: bool = False) -> None:
    """Check that release is `latest` or a dated one, whether mirror has it or not.

    Raises UsageError that lists the nearest releases, with offline those that are known anyway.
    """
    if release != LATEST and _day(release) is None:
        raise _unknown(release, mirror, known() if offline else _published_or_known(mirror))


def probe(release: str, arch: Arch, mirror: Url | None) -> Url:
    """The URL of the first file that a build from mirror asks for."""
    return Url.of(mirror or CDN) / _list_of(release, arch)


def _list_of(release: str, arch: Arch) -> str:
    return f"core/mirrors/{release}/{arch.name}/mirror.list"


def signs_metadata(release: str) -> bool:
    """Whether the CDN's repositories of release have a signed repomd.xml."""
    return release == LATEST or _order(release) >= _order(FIRST_SIGNED)


def has_spal(release: str) -> bool:
    """Whether release has Supplementary Packages."""
    is_dated = _day(release) is not None
    return release == LATEST or (is_dated and _order(release) >= _order(FIRST_WITH_SPAL))


def check_spal(release: str, arch: Arch, mirror: Url | None) -> None:
    """Check that mirror has SPAL's packages of release for arch.

    Raises MissingError if it has none, and HarnessError if it cannot be reached.
    """
    try:
        check_list(spal_list(release, arch, mirror))
    except MissingError as error:
        raise MissingError(
            f"{_whose(mirror)} has no Supplementary Packages (SPAL) of the release {release} for "
            f"{arch}: {error.message}"
        ) from error


def spal_list(release: str, arch: Arch, mirror: Url | None) -> Url:
    """Return the URL of SPAL's list of mirrors.

    No public page names the URL. This one is derived from the core repository's, and from that of
    kernel-livepatch, which have the same layout. mkosi/0001-*.patch has the same one.
    """
    return Url.of(mirror or CDN) / f"spal/mirrors/{release}/{arch.name}/mirror.list"


def newest(mirror: Url | None) -> str:
    """The newest release that mirror lists. Raises HarnessError if it lists none."""
    try:
        listed = published(mirror)
    except MissingError as error:
        raise HarnessError(
            f"the mirror does not say which release is the latest: {error.message}",
            hint=f"{catalog.option('release')} names one",
        ) from error
    except HarnessError as error:
        raise _unreachable(error, mirror) from error
    return max(listed, key=_order)


def latest(mirror: Url | None, seen: Path, *, allow_older: bool = False) -> str:
    """Return the newest release that mirror lists; it is never older than one seen there before.

    The file seen remembers it for each mirror. The list is not signed, so an attacker on the mirror
    or on the way to it could otherwise hold back every update. allow_older accepts and remembers an
    older release. Raises HarnessError if the newest listed release is older, or if none is listed.
    """
    found = newest(mirror)
    known_ones = _seen(seen)
    name = text_digest(str(Url.of(mirror or CDN)).rstrip("/"))
    before = known_ones.get(name, found)
    if _order(found) < _order(before) and not allow_older:
        raise HarnessError(
            f"{_whose(mirror)} lists {found} as its newest release, but {before} before: the list "
            "is out of date, or somebody has replaced it",
            hint=f"{catalog.option('release')} names a release; "
            f"{catalog.option('allow-older-index')} accepts the older one",
        )
    write_text(seen, json.dumps({**known_ones, name: found}, indent=2) + "\n")
    return found


def _seen(path: Path) -> dict[str, str]:
    """The newest release seen, by the sha256 of the mirror's address; none if path is damaged."""
    try:
        read_back = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    pairs = read_back.items() if isinstance(read_back, dict) else ()
    return {name: release for name, release in pairs if _day(str(release))}


def published(mirror: Url | None) -> list[str]:
    """The releases that mirror lists, at least one.

    Raises MissingError if it has no list, HarnessError if it cannot be reached.
    """
    url = Url.of(mirror or CDN) / "core/releasemd.xml"
    text = read(url, settings=LOOK).decode(errors="replace")
    if listed := [name for name in RELEASE.findall(text) if _day(name)]:
        return listed
    raise MissingError(f"{url} lists no release")


def known() -> list[str]:
    """The releases that were known when this harness was written."""
    path = Path(__file__).with_suffix(".toml")
    names: list[str] = tomllib.loads(path.read_text())["amazonlinux"]
    return names


def nearest(release: str, among: Iterable[str]) -> list[str]:
    """The releases in among nearest in time to release (or to today), the newest first."""
    day = _day(release) or date.max
    by_distance = sorted(among, key=lambda name: abs((_day(name) or date.min) - day))
    return sorted(by_distance[:NEAREST], key=_order, reverse=True)


def _missing(release: str, arch: Arch, mirror: Url | None, error: HarnessError) -> HarnessError:
    """The error for a mirror that answers, but lacks the first file of release.

    Only if the mirror lists its releases do we know that it lacks this one: a proxy, or a server
    without any mirror at the address, may answer in the same way.
    """
    try:
        listed = published(mirror)
    except MissingError:
        if mirror and _is_repository(mirror):
            return _single(release, arch, mirror)
        return HarnessError(
            f"{_whose(mirror)} lacks the first file of the release {release}, and does not list "
            f"its releases: {error.message}",
            hint=f"{WAYS_ON}; -- {catalog.flag('release')} takes "
            f"{', '.join(nearest(release, known()))} and others",
        )
    except HarnessError as unreachable:
        return _unreachable(unreachable, mirror)
    if release not in (*listed, LATEST):
        return _unknown(release, mirror, listed)
    return HarnessError(
        f"{_whose(mirror)} lacks the packages of the release {release} for {arch}: {error.message}",
        hint=WAYS_ON,
    )


def _is_repository(mirror: Url) -> bool:
    """Whether mirror is a single repository, such as one made by createrepo."""
    try:
        read(mirror / "repodata/repomd.xml", settings=LOOK)
    except HarnessError:
        return False
    return True


def _single(release: str, arch: Arch, mirror: Url) -> UsageError:
    return UsageError(
        f"{mirror} is a single repository, not a tree with the layout of Amazon's CDN",
        hint=f"write its address into a file {_list_of(release, arch)}, serve that, and name the "
        f"folder that holds core/ with {catalog.option('mirror')}",
    )


def _unknown(release: str, mirror: Url | None, among: Sequence[str]) -> UsageError:
    where = f"{mirror} has" if mirror else "there is"
    return UsageError(
        f"{where} no release {release} of Amazon Linux",
        hint=f"the nearest that exist: {', '.join(nearest(release, among))}",
    )


def _published_or_known(mirror: Url | None) -> list[str]:
    try:
        return published(mirror)
    except HarnessError:
        return known()


def _unreachable(error: HarnessError, mirror: Url | None) -> HarnessError:
    return HarnessError(f"{_whose(mirror)} cannot be reached: {error.message}", hint=WAYS_ON)


def _whose(mirror: Url | None) -> str:
    return "the mirror of Amazon Linux" if mirror else "Amazon's CDN"


def _day(release: str) -> date | None:
    """The day of a dated release, None if release is not one."""
    match = DATED.fullmatch(release)
    try:
        return date(int(match[1]), int(match[2]), int(match[3])) if match else None
    except ValueError:
        return None


def _order(release: str) -> list[int]:
    return [int(part) for part in release.split(".")]
