"""Makes the real lab, and checks its RPMs, signatures and layout. This takes a minute or two."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from scripts import arch, catalog, options
from scripts.distributions import amazonlinux
from scripts.packages import thirdparty
from scripts.pins.lookups import Lookups
from scripts.sessions import arguments
from scripts.system.digests import file_digest
from scripts.system.errors import MachineError
from scripts.system.progress import Progress
from scripts.system.url import Url
from tests.lab import debs, eras, keys, repository, tampering, world
from tests.lab.fixups import Programs
from tests.lab.repository import World
from tests.lab.server import LabServer
from tests.lab.tables import DIST, Tables
from tests.lab.tampering import Tampering

ARCH = arch.X86_64
RELEASE = world.RELEASES[0]
NAMES = "tests/amazon-package-names.txt"
LATER = "tests/integration/amazon-packages.toml"
COMMON = "{http://linux.duke.edu/metadata/common}"
REPO = "{http://linux.duke.edu/metadata/repo}"

# Packages with everything that may differ between runs: bytecode, links, splits, users, scriptlets.
SAMPLES = ("bash", "chrony", "openssh-clients", "python3-pyyaml", "ca-certificates")

pytestmark = pytest.mark.skipif(not ARCH.is_native, reason="tried on x86_64 machines only")


@pytest.fixture(scope="module")
def said() -> dict[str, float]:
    """The messages while the lab is made, and their times."""
    return {}


@pytest.fixture(scope="module")
def made(checkout: Path, said: dict[str, float]) -> World:
    def say(text: str) -> None:
        said[text] = time.monotonic()

    try:
        world.provide()
        return world.make(checkout / ".work/lab", ARCH, say)
    except MachineError as error:
        pytest.fail(f"{error.message}: {error.hint}", pytrace=False)


@pytest.mark.usefixtures("made")
def test_from_downloaded_packages_it_is_made_in_five_minutes(said: dict[str, float]) -> None:
    """This proves something only in a fresh checkout; in others the lab is already made."""
    [downloaded] = [when for text, when in said.items() if "Debian packages are downloaded" in text]
    [finished] = [when for text, when in said.items() if "releases are complete" in text]
    assert finished - downloaded < 5 * 60


def packages(made: World, release: str) -> list[Path]:
    return [made.base / "blobstore" / blob for blob in repository.packages_of(made, release)]


def primary(made: World, release: str) -> Iterator[ET.Element]:
    """Yield the packages in the metadata of release."""
    folder = made.repository(release)
    repomd = ET.parse(folder / "repodata/repomd.xml")
    data = next(each for each in repomd.iter(f"{REPO}data") if each.get("type") == "primary")
    location = data.find(f"{REPO}location")
    assert location is not None
    text = gzip.decompress((folder / location.attrib["href"]).read_bytes())
    yield from ET.fromstring(text).iter(f"{COMMON}package")


def text_of(package: ET.Element, name: str) -> str:
    found = package.find(f"{COMMON}{name}")
    assert found is not None
    return found.text or ""


@pytest.fixture(scope="module")
def names(made: World) -> set[str]:
    return {text_of(package, "name") for package in primary(made, made.releases[0])}


def test_every_name_is_amazons_or_has_a_reason(checkout: Path, names: set[str]) -> None:
    published = set((checkout / NAMES).read_text().split())
    later = tomllib.loads((checkout / LATER).read_text())["later"]
    invented = Tables(ARCH, RELEASE).invented
    assert names - published - later.keys() == invented.keys()


def test_versions_are_those_of_amazon_linux_or_nearly(made: World) -> None:
    """Amazon's: systemd 252.23, dnf 4.14, cloud-init 22.2.2, chrony 4.3, and a kernel of 6.18."""
    versions = {}
    for package in primary(made, RELEASE):
        version = package.find(f"{COMMON}version")
        assert version is not None
        versions[text_of(package, "name")] = version.attrib["ver"]

    for name, wanted in {
        "systemd": "252.", "systemd-boot-unsigned": "252.", "systemd-udev": "252.",
        "dnf": "4.14.", "cloud-init": "22.", "chrony": "4.3", "openssh-server": "9.2p1",
    }.items():  # fmt: skip
        assert versions[name].startswith(wanted), name
    assert tuple(map(int, versions["kernel6.18"].split(".")[:2])) >= (6, 12)


def test_what_the_images_are_made_of_is_there(names: set[str]) -> None:
    assert {
        "systemd", "cloud-init", "chrony", "systemd-resolved", "systemd-networkd", "bash", "dnf",
        "sudo", "setup", "shadow-utils", "selinux-policy", "tar", "fuse3", "fuse3-libs",
        "openssh-clients", "openssh-server", "system-release", "filesystem",
        "systemd-boot-unsigned", "cloud-utils-growpart", "kernel6.18", "kernel6.18-modules-extra",
        "libselinux", "libselinux-utils",
    } <= names  # fmt: skip


def test_each_location_leads_to_the_package_with_the_digest_that_is_said(made: World) -> None:
    for release in made.releases:
        listed = list(primary(made, release))
        assert len(listed) > 150
        for package in listed:
            location = package.find(f"{COMMON}location")
            assert location is not None
            href = location.attrib["href"]
            assert href.startswith("../../../../blobstore/")
            file = made.repository(release) / href
            assert file_digest(file) == text_of(package, "checksum")


def test_each_release_and_the_latest_has_its_list_of_mirrors(made: World) -> None:
    assert set(made.releases) == set(amazonlinux.known())
    for release, of in [(name, name) for name in made.releases] + [("latest", made.releases[0])]:
        path = made.base / f"core/mirrors/{release}/{ARCH}/mirror.list"
        assert repository.guid(of) in path.read_text()


def test_a_release_says_which_one_it_is(made: World) -> None:
    for release in made.releases:
        [version] = [
            package.find(f"{COMMON}version")
            for package in primary(made, release)
            if text_of(package, "name") == "system-release"
        ]
        assert version is not None
        assert version.attrib["ver"] == release


def test_third_party_releases_stand_where_their_pins_say(made: World, tmp_path: Path) -> None:
    with LabServer(made.www) as server:
        opts = arguments.parse(
            [
                "--arch", ARCH.name, "--work", os.fspath(tmp_path),
                "--third-party-mirror", server.third_party,
                "--third-party-pins", os.fspath(made.pins_file),
            ],
            {},
        )  # fmt: skip
        added = thirdparty.download(opts, Progress())
    own = thirdparty.read_pins(catalog.ROOT / thirdparty.PINS)

    assert [pin.name for pin in thirdparty.read_pins(made.pins_file)] == [pin.name for pin in own]
    [rpm] = added.rpms
    asked = subprocess.run(
        ["rpm", "-qp", "--qf", "%{name} %{version}\n[%{filenames}\n]", rpm],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert rpm.name == f"{asked[0].replace(' ', '-')}-1.{ARCH}.rpm"
    assert "/usr/bin/cosign" in asked
    for path in added.files.values():
        done = subprocess.run(
            ["bash", "-c", 'cat "$1" > tool && chmod +x tool && ./tool version', "-", path],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_a_third_party_release_is_in_no_repository(names: set[str]) -> None:
    assert not {"cosign", "pass", "docker-credential-helpers"} & names


def test_the_metadata_is_signed_with_the_labs_key_where_amazon_s_is(
    made: World, tmp_path: Path
) -> None:
    gpg = ["gpg", "--homedir", os.fspath(tmp_path), "--batch", "--no-autostart"]
    subprocess.run([*gpg, "--import", made.key_file], check=True)
    signed = [name for name in made.releases if amazonlinux.signs_metadata(name)]
    assert 0 < len(signed) < len(made.releases)
    for release in made.releases:
        repomd = made.repository(release) / "repodata/repomd.xml"
        if release not in signed:
            assert not repomd.with_name("repomd.xml.asc").exists()
            continue
        done = subprocess.run(
            [*gpg, "--status-fd=1", "--verify", f"{repomd}.asc", repomd],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"[GNUPG:] VALIDSIG {made.key.fingerprint} " in done.stdout


def check_signatures(key: Path | None, paths: list[Path], database: Path) -> str:
    """Return the complaints of rpmkeys when it trusts only key."""
    rpmkeys = ["rpmkeys", "--dbpath", os.fspath(database)]
    if key:
        subprocess.run([*rpmkeys, "--import", key], check=True)
    required = "--define=_pkgverify_level all"
    done = subprocess.run(
        [*rpmkeys, required, "--checksig", *paths], capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if not line.endswith("signatures OK")]
    return "\n".join(lines)


def test_every_package_is_signed_with_the_labs_key(made: World, tmp_path: Path) -> None:
    paths = packages(made, made.releases[0])
    assert check_signatures(made.key_file, paths, tmp_path / "trusting") == ""
    assert len(check_signatures(None, paths, tmp_path / "knowing").splitlines()) == len(paths)


@pytest.mark.parametrize("wrong", Tampering, ids=lambda wrong: wrong.value)
def test_what_is_tampered_with_is_that_package_alone(
    made: World, wrong: Tampering, tmp_path: Path
) -> None:
    guid = tampering.repository_with(made, wrong, "chrony")
    listed = (made.base / f"core/guids/{guid}/{ARCH}" / repository.MARK).read_text()
    paths = [made.base / "blobstore" / blob for blob in listed.splitlines()[1:]]
    [complaint] = check_signatures(made.key_file, paths, tmp_path / "db").splitlines()
    assert re.search(r"/chrony-[^/]*\.rpm: ", complaint)


@pytest.mark.parametrize("wrong", Tampering, ids=lambda wrong: wrong.value)
def test_where_the_metadata_is_tampered_with_every_package_is_genuine(
    made: World, wrong: Tampering
) -> None:
    guid = tampering.repository_with(made, wrong, tampering.METADATA)
    folder = made.base / f"core/guids/{guid}/{ARCH}"
    signature = folder / "repodata/repomd.xml.asc"

    assert (folder / repository.MARK).read_text() == (
        made.repository(RELEASE) / repository.MARK
    ).read_text()
    assert signature.exists() == (wrong is not Tampering.UNSIGNED)


def test_an_rpm_that_is_made_again_is_the_same_to_the_byte(
    made: World, checkout: Path, tmp_path: Path
) -> None:
    del made
    work = checkout / ".work/lab"
    tables = Tables(ARCH, RELEASE)
    deb_list = world.archive_of(work, eras.AMAZON, ARCH, print).obtain(tables.roots)
    wanted = [recipe for recipe in tables.recipes(deb_list) if recipe.name in SAMPLES]
    key = keys.obtain(work / "keys", "Amazon Linux")
    programs = Programs(work / "programs", deb_list)
    there, here = (world.Maker(folder, programs, key).make(wanted) for folder in (work, tmp_path))
    for old, new in zip(there, here, strict=True):
        assert old.folder != new.folder
        assert [path.name for path in old.paths] == [path.name for path in new.paths]
        digests = [[file_digest(path) for path in each.paths] for each in (old, new)]
        assert digests[0] == digests[1], old.recipe.name


def test_making_it_again_takes_seconds_and_changes_nothing(made: World, checkout: Path) -> None:
    repomd = made.repository(made.releases[0]) / "repodata/repomd.xml"
    before, began = repomd.stat(), time.monotonic()
    world.make(checkout / ".work/lab", ARCH, print)
    assert time.monotonic() - began < 20
    assert repomd.stat() == before


@contextlib.contextmanager
def served(checkout: Path, *switches: str) -> Iterator[str]:
    """Serve the lab until Ctrl-C; yields what the session prints once it serves."""
    command = [sys.executable, "-m", "tests.lab", "--port", "0", *switches]
    with subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            lines = [*itertools.takewhile(lambda line: "boot-test" not in line, process.stdout)]
            yield "".join(lines)
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130


def test_it_is_served_without_an_engine_and_fails_as_told(made: World, checkout: Path) -> None:
    with served(
        checkout, "--without-engine", "--fault", "503=/releasemd:1", "--tamper", "unsigned=chrony"
    ) as said:
        [mirror] = re.findall(r"--mirror (\S+)", said)
        releasemd = f"{mirror}/core/releasemd.xml"
        answers = [requests.get(releasemd, timeout=5).status_code for _ in range(2)]
        packages, sources = (
            requests.get(f"{mirror}/core/mirrors/latest/{folder}/mirror.list", timeout=5).text
            for folder in (ARCH.name, "SRPMS")
        )
    guid = tampering.repository_with(made, Tampering.UNSIGNED, "chrony")

    assert "--without-packages" in said
    assert "Fault: chrony is unsigned." in said
    assert answers == [503, 200]
    assert packages == f"{mirror}/core/guids/{guid}/{ARCH}/\n"
    assert sources == f"{mirror}/core/guids/{repository.guid(made.releases[0])}/SRPMS/\n"


OUT_OF_REACH = """\
#!/bin/sh
case " $* " in
*" update "* | *" download "* | *" --download-only "*)
    echo "E: Failed to fetch: no route to host" >&2
    exit 100
    ;;
esac
exec /usr/bin/apt-get "$@"
"""


def test_on_a_plane_it_is_made_of_what_was_downloaded_before(
    made: World, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt-get").write_text(OUT_OF_REACH)
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(debs, "LISTS_AGE", 0)
    said: list[str] = []

    assert world.make(checkout / ".work/lab", ARCH, said.append) == made
    assert [line for line in said if "cannot refresh" in line] == [
        "apt cannot refresh its lists, so the lab uses the old ones: "
        "Failed to fetch: no route to host"
    ]


def test_a_machine_without_rpm_is_told_what_to_install(checkout: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab", "--make-only", "--work", tmp_path / "lab"],
        cwd=checkout,
        env={**os.environ, "PATH": os.fspath(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: the lab needs ")
    assert "apt-get install --no-install-recommends createrepo-c" in done.stderr


def test_source_rpms_are_where_amazon_and_fedora_have_them(made: World) -> None:
    folders = {
        "cloud-init": made.repository(RELEASE).with_name("SRPMS"),
        "fuse-sshfs": made.www / repository.FEDORA_SOURCES,
    }
    for name, folder in folders.items():
        [path] = folder.glob("repodata/*-primary.xml.gz")
        [package] = ET.fromstring(gzip.decompress(path.read_bytes())).iter(f"{COMMON}package")
        assert text_of(package, "name") == name
        location = package.find(f"{COMMON}location")
        assert location is not None
        assert (folder / location.attrib["href"]).resolve().is_file()


def test_update_pins_finds_amazons_source_as_the_cdn_has_it(made: World, checkout: Path) -> None:
    with LabServer(made.www) as server:
        found = Lookups(checkout).amazon_source_rpm(
            "cloud-init",
            cdn=server.mirror,
            file=options.PACKAGES,
            key="package.cloud-init.nevra",
        )
    assert re.fullmatch(rf"cloud-init-22\.[\w.+~]+-[\w.+~]+\.{DIST}", found.newest)
    assert found.note == f"of Amazon Linux {RELEASE}"


def test_amazons_spec_carries_the_patch_that_is_taken_out(made: World) -> None:
    [blob] = [
        blob
        for blob in (made.repository(RELEASE).with_name("SRPMS") / repository.MARK)
        .read_text()
        .splitlines()
        if "cloud-init" in blob
    ]
    cpio = subprocess.run(
        ["rpm2cpio", made.base / "blobstore" / blob], capture_output=True, check=True
    ).stdout
    assert b"\nPatch10010: 0010-Repair-mounts-module.patch\n" in cpio


def test_fuse_sshfs_is_no_package_of_the_distribution(names: set[str]) -> None:
    assert "fuse-sshfs" not in names
    assert {"rpm-build", "dnf-plugins-core", "patch"} <= names


def test_spal_has_a_signed_fuse_sshfs_for_each_release_that_has_it(
    made: World, tmp_path: Path
) -> None:
    with LabServer(made.www) as server:
        for release in (*made.releases, amazonlinux.LATEST):
            url = amazonlinux.spal_list(release, ARCH, Url(server.mirror))
            [address] = requests.get(url.bare, timeout=10).text.split()
            repomd = requests.get(f"{address}repodata/repomd.xml", timeout=10)
            signature = requests.get(f"{address}repodata/repomd.xml.asc", timeout=10)
            assert repomd.ok
            assert signature.ok == amazonlinux.signs_metadata(release)
    [blob] = (made.spal(RELEASE) / repository.MARK).read_text().splitlines()[1:]
    assert Path(blob).name == f"fuse-sshfs-3.7.3-2.5.spal2023.{ARCH}.rpm"
    assert check_signatures(made.key_file, [made.base / "blobstore" / blob], tmp_path / "db") == ""
