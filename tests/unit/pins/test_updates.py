"""update-pins, against GitHub, a CDN, a registry and Fedora's listings as loopback plays them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts import catalog
from scripts.arch import AARCH64, X86_64, Arch
from scripts.mkosi.pin import Pin as MkosiPin
from scripts.mkosi.source import digest_of_release
from scripts.packages import thirdparty
from scripts.pins import lookups, registry, updates
from scripts.sessions import update_pins
from scripts.stages import places
from scripts.system.errors import HarnessError, UsageError
from scripts.system.fetch import Settings
from scripts.system.terminal import Terminal
from tests.unit.mkosi.test_source import PATCH, make_package, pack
from tests.unit.server import Server

QUICK = Settings(attempts=1, pause=0.01, connect=1, stall=1)

# Where it is looked up what is newer: as in the checkout.
ADDRESSES = "scripts/pins/updates.toml"
OURS = "al2023-package-build/packages.toml"
CONTAINER = "scripts/sessions/container.toml"

MANIFEST = b'{"schemaVersion": 2, "manifests": []}'
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"
OTHER = b'{"schemaVersion": 2, "manifests": [1]}'
OTHER_DIGEST = f"sha256:{hashlib.sha256(OTHER).hexdigest()}"

# Pins of the tests' own, of which one digest is not known: update-pins changes the checkout's.
PINS = {
    "mkosi/pin.toml": f"""\
version = "27.1"

[upstream]
url = "https://github.com/systemd/mkosi/archive/refs/tags/v27.1.tar.gz"
sha256 = "{"3" * 64}"  # of that tag
newest = "https://github.com/systemd/mkosi/archive/refs/heads/main.tar.gz"
patched = "{"6" * 64}"

[debian]
package = "mkosi"
suites = ["testing"]
sha256 = "{"9" * 64}"
patched = "{"6" * 64}"
""",
    "mkosi.conf.d/amazonlinux.conf": """\
[Match]
Distribution=amazonlinux

# Dated releases never change.
[Distribution]
Release=2023
Snapshot=2023.12.20260930
""",
    "scripts/distributions/amazonlinux.toml": """\
# Those that are known to exist.
amazonlinux = [
    "2023.12.20260831",
    "2023.12.20260930",
]
""",
    thirdparty.PINS: f"""\
# What the fields mean.
[cosign]
version = "3.0.5"
url = "https://github.com/sigstore/cosign/releases/download/v{{version}}/cosign-{{version}}-1.{{arch}}.rpm"
package = "cosign"
releases = "https://api.github.com/repos/sigstore/cosign/releases/latest"
checksums = "https://github.com/sigstore/cosign/releases/download/v{{version}}/cosign_checksums.txt"

[cosign.sha256]
x86_64 = "{"4" * 64}"
aarch64 = "{"5" * 64}"

[docker-credential-pass]
version = "0.9.8"
url = "https://github.com/docker/docker-credential-helpers/releases/download/v{{version}}/docker-credential-pass-v{{version}}.linux-{{debian}}"
path = "/usr/bin/docker-credential-pass"
releases = "https://api.github.com/repos/docker/docker-credential-helpers/releases/latest"
checksums = "https://github.com/docker/docker-credential-helpers/releases/download/v{{version}}/checksums.txt"

[docker-credential-pass.sha256]
x86_64 = "{"7" * 64}"
aarch64 = ""

# Its publisher has no checksums.
[pass]
version = "1.7.4"
url = "https://raw.githubusercontent.com/zx2c4/password-store/{{version}}/src/password-store.sh"
path = "/usr/bin/pass"
releases = "https://api.github.com/repos/zx2c4/password-store/tags"

[pass.sha256]
noarch = "{"8" * 64}"
""",
    CONTAINER: f"""\
# Whatever else stands here stays.
[container]
name = "public.ecr.aws/docker/library/debian"
tag = "trixie-slim"
digest = "{DIGEST}"
""",
    OURS: f"""\
# Whatever else stands here stays.
[base-image]
tag = "2023"
digest = "{DIGEST}"  # of that tag

[package.cloud-init]
nevra = "cloud-init-22.2.2-1.amzn2023.1.16"

[source.fedora]
baseurl = "https://dl.fedoraproject.org/fedora/43/source/tree/"

[package.fuse-sshfs]
nevra = "fuse-sshfs-3.7.3-12.fc43"

[supplementary.fuse-sshfs]
nevra = "fuse-sshfs-3.7.3-2.5.spal2023"
""",
}

LATEST = "/api.github.com/repos/{}/releases/latest"
COSIGN = "/github.com/sigstore/cosign/releases/download/v{}/cosign_checksums.txt"
HELPERS = "/github.com/docker/docker-credential-helpers/releases/download/v{}/checksums.txt"
FOLDER = "Packages/f/"
LISTING = f"/dl.fedoraproject.org/fedora/43/source/tree/{FOLDER}"
MANIFEST_PATH = "/public.ecr.aws/v2/amazonlinux/amazonlinux/manifests/2023"
CONTAINER_PATH = "/public.ecr.aws/v2/docker/library/debian/manifests/trixie-slim"
CDN = "/cdn.amazonlinux.com/al2023"
RELEASES = f"{CDN}/core/releasemd.xml"
SRPMS = f"{CDN}/core/guids/0123/SRPMS"
SPAL = f"{CDN}/spal/guids/0123/x86_64"

ARM64 = "ab" * 32


@pytest.fixture
def root(checkout: Path, tmp_path: Path, server: Server) -> Path:
    """A checkout whose addresses are all on the server, where nothing is newer than what it pins.

    Only one digest is missing.
    """
    write(tmp_path, server, PINS | {ADDRESSES: (checkout / ADDRESSES).read_text()})
    publish(tmp_path, server)
    return tmp_path


def write(root: Path, server: Server, texts: Mapping[str, str]) -> None:
    """Write files of a checkout, with all addresses on the server."""
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.replace("https://", f"{server.url}/"))


def publish(root: Path, server: Server) -> None:
    """What the servers say while nothing is new."""
    pins = {pin.name: pin for pin in thirdparty.read_pins(root / thirdparty.PINS)}
    tags = {
        "systemd/mkosi": MkosiPin.read(root / "mkosi/pin.toml").version,
        "sigstore/cosign": pins["cosign"].version,
        "docker/docker-credential-helpers": pins["docker-credential-pass"].version,
    }
    for repository, version in tags.items():
        server.files[LATEST.format(repository)] = answer({"tag_name": f"v{version}"})
    server.files["/api.github.com/repos/zx2c4/password-store/tags"] = answer(
        [{"name": "1.6.5"}, {"name": pins["pass"].version}, {"name": "debian/1.9"}]
    )
    listed(server, COSIGN, pins["cosign"], pins["cosign"].sha256)
    helper = pins["docker-credential-pass"]
    known = {arch: digest or ARM64 for arch, digest in helper.sha256.items()}
    listed(server, HELPERS, helper, known)
    release = places.release_of(root, catalog.DISTRIBUTIONS["amazonlinux"])
    server.files[RELEASES] = f'<release version="{release}"/>'.encode()
    server.files[MANIFEST_PATH] = server.files[CONTAINER_PATH] = MANIFEST
    have_sources(server, release, "22.2.2-1.amzn2023.1.16")
    have_spal(server, release, "3.7.3-2.5.spal2023")
    packages = tomllib.loads((root / OURS).read_text())
    pinned = packages["package"]["fuse-sshfs"]["nevra"]
    for path in listings(packages, server):
        server.files[path] = source_rpms(pinned, "fuse-sshfs-3.7.6-1.fc43")


REPOMD = b"""\
<repomd xmlns="http://linux.duke.edu/metadata/repo">
<data type="filelists"><location href="repodata/f.xml.gz"/></data>
<data type="primary"><location href="repodata/p.xml.gz"/></data>
</repomd>"""


def have_sources(server: Server, release: str, *versions: str) -> None:
    """Have the CDN's release hold these versions of cloud-init's source, and one of bash's."""
    lists = f"{CDN}/core/mirrors/{release}/SRPMS/mirror.list"
    have(server, lists, SRPMS, "cloud-init", versions)


def have_spal(server: Server, release: str, *versions: str) -> None:
    """Have the CDN's SPAL of release hold these versions of fuse-sshfs, and one of bash."""
    have(server, f"{CDN}/spal/mirrors/{release}/x86_64/mirror.list", SPAL, "fuse-sshfs", versions)


def have(server: Server, list_: str, folder: str, name: str, versions: tuple[str, ...]) -> None:
    nevras = [(name, *version.split("-")) for version in versions]
    packages = "".join(
        f'<package><name>{name}</name><version epoch="0" ver="{ver}" rel="{rel}"/></package>'
        for name, ver, rel in [*nevras, ("bash", "5.2.15", "1.amzn2023.0.2")]
    )
    primary = f'<metadata xmlns="http://linux.duke.edu/metadata/common">{packages}</metadata>'
    server.files[list_] = f"{server.url}{folder}/\n".encode()
    server.files[f"{folder}/repodata/repomd.xml"] = REPOMD
    server.files[f"{folder}/repodata/p.xml.gz"] = gzip.compress(primary.encode())


def listings(packages: dict[str, Any], server: Server) -> list[str]:
    """Where the server lists Fedora's source RPMs: in one repository, or in several."""
    urls = packages["source"]["fedora"]["baseurl"]
    urls = [urls] if isinstance(urls, str) else urls
    return [f"{url.removeprefix(server.url)}{FOLDER}" for url in urls]


def source_rpms(*nevras: str) -> bytes:
    """A folder's listing, as a web server writes it."""
    return "".join(f'<a href="{nevra}.src.rpm">{nevra}.src.rpm</a>\n' for nevra in nevras).encode()


def answer(data: Any) -> bytes:
    return json.dumps(data).encode()


def listed(
    server: Server, path: str, pin: thirdparty.PinnedFile, digests: Any, version: str = ""
) -> None:
    """Publish a version's checksums, by default of the pinned one."""
    version = version or pin.version
    lines = [
        f"{digests[arch.name]}  {thirdparty.fill(pin.url, version, arch).rpartition('/')[2]}\n"
        for arch in (X86_64, AARCH64)
    ]
    server.files[path.format(version)] = "".join(lines).encode()


def run(root: Path, *, check: bool = False) -> str:
    """The table of a run that succeeds."""
    said = io.StringIO()
    console = Terminal(file=said, width=300)
    updates.update(root, check=check, console=console, settings=QUICK)
    return said.getvalue()


def row(table: str, name: str) -> str:
    [line] = [line for line in table.splitlines() if re.match(rf"[│|] {name} ", line)]
    return line


def contents(root: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in root.rglob("*") if path.is_file()}


def pin(root: Path, name: str) -> thirdparty.PinnedFile:
    return next(p for p in thirdparty.read_pins(root / thirdparty.PINS) if p.name == name)


def test_the_missing_digest_is_filled_in_and_nothing_else_changes(root: Path) -> None:
    before = contents(root)
    table = run(root)

    assert "no digest" in row(table, "docker-credential-pass")
    path = str(root / thirdparty.PINS)
    expected = before | {path: before[path].replace('aarch64 = ""', f'aarch64 = "{ARM64}"')}
    assert contents(root) == expected != before
    assert pin(root, "docker-credential-pass").digest(AARCH64) == ARM64


def test_where_nothing_is_newer_a_check_succeeds_and_a_run_changes_nothing(root: Path) -> None:
    run(root)
    before = contents(root)

    run(root, check=True)
    run(root)
    assert contents(root) == before


def test_a_check_fails_on_a_difference_and_changes_nothing(root: Path) -> None:
    before = contents(root)

    with pytest.raises(HarnessError, match=r"^1 of 10 .*: docker-credential-pass$") as caught:
        run(root, check=True)
    assert caught.value.exit_code == 1
    assert contents(root) == before


def test_a_newer_release_is_pinned_with_its_publishers_digests(root: Path, server: Server) -> None:
    old = pin(root, "cosign")
    server.files[LATEST.format("sigstore/cosign")] = answer({"tag_name": "v3.10.0"})
    new = {"x86_64": "1" * 64, "aarch64": "2" * 64}
    listed(server, COSIGN, old, new, "3.10.0")
    text = (root / thirdparty.PINS).read_text()

    table = run(root)

    assert "3.0.5" in row(table, "cosign")
    assert "3.10.0" in row(table, "cosign")
    assert pin(root, "cosign").version == "3.10.0"
    assert pin(root, "cosign").sha256 == new
    after = (root / thirdparty.PINS).read_text()
    assert [line for line in after.splitlines() if line.startswith("#")] == [
        line for line in text.splitlines() if line.startswith("#")
    ]


def test_an_older_release_is_no_reason_to_go_back(root: Path, server: Server) -> None:
    server.files[LATEST.format("sigstore/cosign")] = answer({"tag_name": "v2.6.1"})
    run(root)

    assert pin(root, "cosign").version == "3.0.5"


@pytest.mark.parametrize(("digit", "said"), [("9", "could not be looked up: cosign"), ("0", "")])
def test_a_version_of_thousands_of_digits_is_compared_like_any_other(
    root: Path, server: Server, digit: str, said: str
) -> None:
    server.files[LATEST.format("sigstore/cosign")] = answer({"tag_name": f"v{digit * 5000}.1"})
    with pytest.raises(HarnessError, match=said) if said else contextlib.nullcontext():
        run(root)
    assert pin(root, "cosign").version == "3.0.5"


def test_a_pin_without_an_address_of_its_releases_is_named(root: Path) -> None:
    pinned = replace(pin(root, "cosign"), releases="")
    with pytest.raises(HarnessError, match=r"^cosign in .* does not say where releases are$"):
        lookups.Lookups(root, QUICK).third_party(pinned)


def test_a_release_whose_published_digest_changed_is_refused(root: Path, server: Server) -> None:
    old = pin(root, "cosign")
    listed(server, COSIGN, old, {"x86_64": "6" * 64, "aarch64": old.sha256["aarch64"]})
    said = io.StringIO()

    with pytest.raises(HarnessError, match="cosign"):
        updates.update(root, check=False, console=Terminal(file=said, width=400), settings=QUICK)
    assert "cosign 3.0.5 has changed" in said.getvalue()
    assert "6" * 64 in said.getvalue()
    assert pin(root, "cosign") == old


def test_checksums_that_do_not_name_the_file_are_no_digest(root: Path, server: Server) -> None:
    server.files[COSIGN.format("3.0.5")] = f"{'0' * 64}  cosign-linux-amd64\n".encode()
    old = pin(root, "cosign")

    with pytest.raises(HarnessError, match="cosign"):
        run(root)
    assert pin(root, "cosign") == old


def test_without_checksums_the_digest_is_that_of_the_download(root: Path, server: Server) -> None:
    server.files["/api.github.com/repos/zx2c4/password-store/tags"] = answer([{"name": "1.8"}])
    script = b"#!/bin/bash"
    path = "/raw.githubusercontent.com/zx2c4/password-store/1.8/src/password-store.sh"
    server.files[path] = script
    table = run(root)

    assert "computed from the download" in row(table, "pass")
    assert pin(root, "pass").sha256 == {"noarch": hashlib.sha256(script).hexdigest()}


def asset(root: Path, name: str, arch: Arch, digest: str, version: str = "") -> dict[str, str]:
    """What GitHub's API says of a release's file."""
    own = pin(root, name)
    url = thirdparty.fill(own.url, version or own.version, arch)
    return {"name": url.rpartition("/")[2], "digest": digest}


def test_githubs_digests_stand_in_for_checksums_that_are_out_of_reach(
    root: Path, server: Server
) -> None:
    del server.files[HELPERS.format("0.9.8")]
    digests = {X86_64: "7" * 64, AARCH64: ARM64}
    assets = [
        asset(root, "docker-credential-pass", arch, f"sha256:{digest}")
        for arch, digest in digests.items()
    ]
    api = LATEST.format("docker/docker-credential-helpers")
    server.files[api] = answer({"tag_name": "v0.9.8", "assets": assets})
    run(root)

    assert pin(root, "docker-credential-pass").digest(AARCH64) == ARM64


@pytest.mark.parametrize("digest", [None, 3, "md5:00", "sha256:00", "sha256:" + "G" * 64])
def test_what_is_no_sha256_of_githubs_stands_in_for_nothing(
    root: Path, server: Server, digest: Any
) -> None:
    del server.files[HELPERS.format("0.9.8")]
    assets = [asset(root, "docker-credential-pass", arch, digest) for arch in (X86_64, AARCH64)]
    api = LATEST.format("docker/docker-credential-helpers")
    server.files[api] = answer({"tag_name": "v0.9.8", "assets": [*assets, 3, {}]})

    with pytest.raises(HarnessError, match="could not be looked up: docker-credential-pass"):
        run(root)
    assert pin(root, "docker-credential-pass").digest(AARCH64) == ""


def test_checksums_that_github_contradicts_are_not_pinned(root: Path, server: Server) -> None:
    odd = asset(root, "docker-credential-pass", AARCH64, f"sha256:{'e' * 64}")
    api = LATEST.format("docker/docker-credential-helpers")
    server.files[api] = answer({"tag_name": "v0.9.8", "assets": [odd]})
    said = io.StringIO()

    with pytest.raises(HarnessError, match="docker-credential-pass"):
        updates.update(root, check=False, console=Terminal(file=said, width=500), settings=QUICK)
    assert f"but GitHub's API names {'e' * 64}" in said.getvalue()
    assert pin(root, "docker-credential-pass").digest(AARCH64) == ""


def test_only_the_pins_that_are_named_are_looked_up(root: Path, server: Server) -> None:
    said = io.StringIO()
    names = ["docker-credential-pass", "base-image"]
    updates.update(root, names, check=False, console=Terminal(file=said), settings=QUICK)

    assert server.asked == [
        LATEST.format("docker/docker-credential-helpers"),
        HELPERS.format("0.9.8"),
        MANIFEST_PATH,
    ]
    assert pin(root, "docker-credential-pass").digest(AARCH64) == ARM64


def test_a_name_that_no_pin_has_is_refused_with_those_there_are(root: Path, server: Server) -> None:
    with pytest.raises(UsageError, match="there is no pin called 'docker'") as caught:
        updates.update(root, ["cosign", "docker"], check=False, console=Terminal(), settings=QUICK)
    assert caught.value.hint == (
        "pins are mkosi, amazonlinux, cosign, docker-credential-pass, pass, base-image, "
        "ci-container, fuse-sshfs, cloud-init, spal-fuse-sshfs"
    )
    assert server.asked == []


def test_spal_without_the_wanted_version_is_named_and_nothing_pinned(
    root: Path, server: Server
) -> None:
    have_spal(server, "2023.12.20260930", "3.7.6-1.1.spal2023")
    said = io.StringIO()

    with pytest.raises(HarnessError, match="spal-fuse-sshfs"):
        updates.update(root, check=False, console=Terminal(file=said, width=400), settings=QUICK)
    assert "SPAL of 2023.12.20260930 has no RPM of fuse-sshfs 3.7.3" in said.getvalue()
    assert 'nevra = "fuse-sshfs-3.7.3-2.5.spal2023"' in ours(root)


def test_mkosi_is_pinned_with_version_address_and_digests(
    root: Path, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mkosi")
    archive = pack(make_package(folder / "source", "28"), folder / "v28.tar.gz").read_bytes()
    server.files[LATEST.format("systemd/mkosi")] = answer({"tag_name": "v28"})
    server.files["/github.com/systemd/mkosi/archive/refs/tags/v28.tar.gz"] = archive
    (root / "mkosi/0001-Know.patch").write_text(PATCH)
    run(root)

    pinned = MkosiPin.read(root / "mkosi/pin.toml")
    assert pinned.version == "28"
    assert pinned.url.endswith("/v28.tar.gz")
    assert pinned.sha256 == hashlib.sha256(archive).hexdigest()
    with_patch = digest_of_release(root / "mkosi", folder / "v28.tar.gz")
    assert pinned.digests == {with_patch}
    assert pinned.package_sha256 == "", "the digest of an older package vouches for no newer one"
    (root / "mkosi/0001-Know.patch").unlink()
    assert with_patch != digest_of_release(root / "mkosi", folder / "v28.tar.gz")


def test_a_mkosi_that_the_patches_do_not_apply_to_is_not_pinned(
    root: Path,
    server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("mkosi")
    tree = make_package(folder / "source", "28")
    (tree / "mkosi/config.py").write_text("rewritten\n")
    server.files[LATEST.format("systemd/mkosi")] = answer({"tag_name": "v28"})
    server.files["/github.com/systemd/mkosi/archive/refs/tags/v28.tar.gz"] = pack(
        tree, folder / "v28.tar.gz"
    ).read_bytes()
    (root / "mkosi/0001-Know.patch").write_text(PATCH)
    with pytest.raises(HarnessError, match="could not be looked up: mkosi"):
        run(root)

    assert MkosiPin.read(root / "mkosi/pin.toml").version == "27.1"


def test_a_newer_amazon_linux_is_the_release_and_known(root: Path, server: Server) -> None:
    name = "2023.13.20261109"
    server.files[RELEASES] = (
        f'<release version="2023.12.20260930"/><release version="{name}"/>'.encode()
    )
    have_sources(server, name, "22.2.2-1.amzn2023.1.9", "22.2.2-1.amzn2023.1.17")
    have_spal(server, name, "3.7.3-2.7.spal2023", "3.7.3-2.12.spal2023", "3.7.6-1.1.spal2023")
    run(root)

    assert 'nevra = "fuse-sshfs-3.7.3-2.12.spal2023"' in ours(root)

    assert 'nevra = "cloud-init-22.2.2-1.amzn2023.1.17"' in ours(root)
    assert places.release_of(root, catalog.DISTRIBUTIONS["amazonlinux"]) == name
    listed_now = tomllib.loads((root / "scripts/distributions/amazonlinux.toml").read_text())[
        "amazonlinux"
    ]
    assert listed_now == ["2023.12.20260831", "2023.12.20260930", name]
    conf = "mkosi.conf.d/amazonlinux.conf"
    changed = PINS[conf].replace("Snapshot=2023.12.20260930", f"Snapshot={name}")
    assert (root / conf).read_text() == changed


@pytest.mark.parametrize(
    ("path", "data", "said"),
    [
        (f"{SRPMS}/repodata/p.xml.gz", b"<html>", "cannot be read"),
        (f"{SRPMS}/repodata/repomd.xml", b"<repomd/>", "cannot be read"),
        (
            f"{SRPMS}/repodata/p.xml.gz",
            gzip.compress(b"<metadata/>", mtime=0),
            "no source RPM of cloud-init",
        ),
    ],
)
def test_a_repository_without_the_source_is_named_and_nothing_pinned(
    root: Path, server: Server, path: str, data: bytes, said: str
) -> None:
    server.files[path] = data
    told = io.StringIO()

    with pytest.raises(HarnessError, match="cloud-init"):
        updates.update(root, check=False, console=Terminal(file=told, width=400), settings=QUICK)
    assert said in told.getvalue()
    assert 'nevra = "cloud-init-22.2.2-1.amzn2023.1.16"' in ours(root)


def ours(root: Path) -> str:
    return (root / OURS).read_text()


def test_another_image_under_the_tag_is_pinned_by_its_digest(root: Path, server: Server) -> None:
    before = ours(root)
    server.files[MANIFEST_PATH] = OTHER
    run(root)

    assert ours(root) == before.replace(DIGEST, OTHER_DIGEST)


def test_a_newer_source_rpm_of_the_wanted_version_is_pinned(root: Path, server: Server) -> None:
    before = ours(root)
    server.files[LISTING] = source_rpms(
        "fuse-sshfs-3.7.3-9.fc43", "fuse-sshfs-3.7.3-100.fc43", "fuse-sshfs-3.7.6-1.fc43"
    )
    table = run(root)

    assert ours(root) == before.replace("3.7.3-12", "3.7.3-100")
    assert "fuse-sshfs-3.7.6-1.fc43 exists too" in row(table, "fuse-sshfs")


ARCHIVE = "/archives.fedoraproject.org/fedora/43/source/tree/"


def with_an_archive(root: Path, server: Server) -> None:
    """Have source RPMs looked for in an archive too, after the first place."""
    text = ours(root)
    url = f"{server.url}{LISTING.removesuffix(FOLDER)}"
    assert f'"{url}"' in text
    (root / OURS).write_text(text.replace(f'"{url}"', f'["{url}", "{server.url}{ARCHIVE}"]'))


def test_a_source_rpm_is_looked_for_where_its_release_has_moved(root: Path, server: Server) -> None:
    with_an_archive(root, server)
    before = ours(root)
    del server.files[LISTING]
    server.files[f"{ARCHIVE}{FOLDER}"] = source_rpms("fuse-sshfs-3.7.3-13.fc43")
    run(root)

    assert ours(root) == before.replace("3.7.3-12", "3.7.3-13")


def test_of_several_places_of_source_rpms_the_first_that_answers_counts(
    root: Path, server: Server
) -> None:
    with_an_archive(root, server)
    before = ours(root)
    server.files[f"{ARCHIVE}{FOLDER}"] = source_rpms("fuse-sshfs-3.7.3-13.fc43")
    run(root)

    assert ours(root) == before
    assert f"{ARCHIVE}{FOLDER}" not in server.asked


def test_a_repository_whose_address_is_no_string_is_named_with_its_key(root: Path) -> None:
    text = ours(root)
    (root / OURS).write_text(re.sub(r"^baseurl = .*$", "baseurl = 3", text, flags=re.MULTILINE))
    said = io.StringIO()

    with pytest.raises(HarnessError, match="fuse-sshfs"):
        updates.update(root, check=False, console=Terminal(file=said, width=400), settings=QUICK)
    assert "source.fedora.baseurl must be a string or a list of strings, not 3" in said.getvalue()


def test_where_no_place_of_source_rpms_answers_each_is_named(root: Path, server: Server) -> None:
    with_an_archive(root, server)
    del server.files[LISTING]
    said = io.StringIO()

    with pytest.raises(HarnessError, match="fuse-sshfs"):
        updates.update(root, check=False, console=Terminal(file=said, width=400), settings=QUICK)
    assert "fuse-sshfs: no repository answers: " in said.getvalue()
    for path in (LISTING, f"{ARCHIVE}{FOLDER}"):
        assert f"{server.url}{path} cannot be downloaded" in said.getvalue()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (LATEST.format("systemd/mkosi"), "mkosi"),
        (LATEST.format("sigstore/cosign"), "cosign"),
        (RELEASES, "amazonlinux"),
        (MANIFEST_PATH, "base-image"),
        (CONTAINER_PATH, "ci-container"),
        (LISTING, "fuse-sshfs"),
    ],
)
@pytest.mark.parametrize("wrong", [404, b"<html>Please log in</html>"], ids=["404", "a portal"])
def test_a_source_that_does_not_answer_is_reported_and_the_rest_go_on(
    root: Path, server: Server, path: str, name: str, wrong: int | bytes
) -> None:
    if isinstance(wrong, int):
        server.statuses[path] = wrong
    else:
        server.files[path] = wrong
    said = io.StringIO()
    console = Terminal(file=said, width=300)

    with pytest.raises(HarnessError, match="could not be looked up") as caught:
        updates.update(root, check=False, console=console, settings=QUICK)

    assert name in caught.value.message
    assert "unknown" in row(said.getvalue(), name)
    assert f"\n{name}: " in said.getvalue()
    assert pin(root, "docker-credential-pass").digest(AARCH64) == ARM64


def test_the_projects_own_pins_are_all_found(
    checkout: Path, tmp_path: Path, server: Server
) -> None:
    names = (*PINS, ADDRESSES)
    write(tmp_path, server, {name: (checkout / name).read_text() for name in names})
    publish(tmp_path, server)
    run(tmp_path)

    assert pin(tmp_path, "docker-credential-pass").digest(AARCH64)
    assert DIGEST in ours(tmp_path)
    assert DIGEST in (tmp_path / CONTAINER).read_text()


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError):
        update_pins.main(["--chekc"])


def test_checksums_are_read_as_sha256sum_writes_them() -> None:
    text = f"{'A' * 64} *binary\n{'b' * 64}  text\nnonsense\n\n{'c' * 63}  short\n"
    assert lookups.checksums(text) == {"binary": "a" * 64, "text": "b" * 64}


def test_a_registry_that_wants_a_token_gets_one(server: Server) -> None:
    server.challenge = f'Bearer realm="{server.url}/token/",service="ecr",scope="aws"'
    server.files["/v2/image/manifests/2023"] = MANIFEST
    server.files["/token/?service=ecr&scope=aws"] = answer({"token": "a.secret"})
    server.token = "a.secret"

    assert registry.digest(f"{server.url}/v2/image/manifests/2023", settings=QUICK) == DIGEST
    assert server.asked == [
        "/v2/image/manifests/2023", "/token/?service=ecr&scope=aws", "/v2/image/manifests/2023",
    ]  # fmt: skip


@pytest.mark.parametrize("challenge", ['Basic realm="x"', "Bearer", ""])
def test_a_registry_that_wants_something_else_is_reported(server: Server, challenge: str) -> None:
    server.challenge, server.token = challenge, "a.secret"

    with pytest.raises(HarnessError, match="credentials"):
        registry.digest(f"{server.url}/v2/image/manifests/2023", settings=QUICK)
