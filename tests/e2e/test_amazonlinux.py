"""Builds and boots all images of Amazon Linux from the lab, and tries each of the lab's faults.

This takes a quarter of an hour.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import arch, catalog
from scripts.boot.checks.needs import LEFT_OUT
from scripts.mkosi.sandbox import Tools
from tests import manifests, ownership, wsl
from tests.e2e.checkout import Arg, Build, Copy, amazonlinux, environ
from tests.e2e.surgery import Patient
from tests.lab import eras, repository, tampering
from tests.lab.eras import Era
from tests.lab.repository import World
from tests.lab.server import Fault, Kind, LabServer
from tests.lab.tampering import Tampering
from tests.lab.workshop import Workshop

ARCH = arch.X86_64

# A package of the base on which few others depend.
VICTIM = "chrony"

pytestmark = pytest.mark.skipif(not ARCH.is_native, reason="tried on x86_64 machines only")


@pytest.fixture(scope="module")
def copied(amazon_copy: Copy) -> Copy:
    return amazon_copy


@pytest.fixture(scope="module")
def lab(amazon_lab: LabServer) -> LabServer:
    return amazon_lab


@pytest.fixture(scope="module")
def shop(amazon_shop: Workshop) -> Workshop:
    return amazon_shop


@pytest.fixture(scope="module")
def built(amazon_images: Path) -> Path:
    """The folder with all the finished images."""
    return amazon_images


@pytest.fixture(scope="module")
def with_packages(shop: Workshop) -> Iterator[list[Arg]]:
    """The option for builds with our own packages; PATH and other variables lead to an engine."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shop.environment.items():
            patch.setenv(name, value)
        yield ["--packages", shop.pins]


# These tests spoil what mkosi fetches from the core repository; tests/e2e/test_packages.py spoils
# package builds, tests/e2e/test_supplementary.py spoils SPAL.
WITHOUT = ("--without-packages", "--allow-missing", "fuse-sshfs")


def build_base(copied: Copy, lab: LabServer, made: World, *args: Arg) -> Build:
    """Build the base as `./nox -s image` does, but without Nox, and return the finished build."""
    target = [*amazonlinux(lab, made), *(args or WITHOUT)]
    command = [sys.executable, "-m", "scripts.sessions.build", *target, "--image", "base"]
    build = Build(command, copied.root, environ())
    build.wait(within=600)
    return build


def target(copied: Copy) -> Path:
    return copied.root / "out/amazonlinux" / ARCH.name


def test_all_five_images_are_built(built: Path, copied: Copy) -> None:
    for name in (
        "os-image.raw", "os-image.qcow2", "os-image.efi", "wsl-rootfs.tar.gz",
        "container-with-kernel/index.json", "SHA512SUMS", "manifest.json",
    ):  # fmt: skip
        assert (built / name).exists(), name
    stages = copied.work / f"amazonlinux/{ARCH}/stages"
    assert {*catalog.images(ARCH.name)} <= {path.name for path in stages.iterdir()}


def test_the_image_boots_and_is_amazon_linux(built: Path, copied: Copy, era: Era) -> None:
    boot = copied.nox(f"boot-test(arch='{ARCH}')", "--distribution", "amazonlinux")
    assert boot.wait(within=1800) == 0, boot.output
    result = json.loads((built / "boot-test/result.json").read_text())
    checks = {check["name"]: check for check in result["checks"]}
    assert {check["status"] for check in checks.values()} == {"passed"}
    assert {
        "os-release", "packages", "repositories", "selinux-policy", "presets", "machine-id",
        "programs", "credentials", "mounts", "sshfs", "rpm-knows", "ssh-needs-a-key",
        "sshd-configuration", "privileged-files", "no-builder-traces", "system-running",
        "root-grown", "second-boot-running", "second-boot-same", "first-boot-once",
    } <= checks.keys()  # fmt: skip
    if era is eras.AMAZON:
        assert "StubInfo=systemd-stub 252." in checks["uefi"]["evidence"]
    assert not [name for name, check in checks.items() if LEFT_OUT in check["evidence"]]
    assert "SSHFS version 3.7.3" in checks["sshfs"]["evidence"]
    assert ".finch1" in checks["rpm-knows"]["evidence"]
    assert "(lab, not Amazon)" in result["guest"]["os"]


def test_the_base_holds_our_own_packages_and_none_of_what_is_for_ec2(built: Path) -> None:
    manifests.check(built / "manifest.json")
    manifest = json.loads((built / "manifest.json").read_text())
    versions = {
        package["name"]: package["version"] for package in manifest["images"]["base"]["packages"]
    }
    for name in ("cloud-init", "cloud-init-cfg-onprem", "fuse-sshfs"):
        assert ".finch1" in versions[name]
    assert "amazon-linux-repo-cdn" in versions
    assert not {"amazon-linux-repo-s3", "cloud-init-cfg-ec2", "gnupg2-minimal"} & versions.keys()


def test_files_of_the_os_image_have_the_labels_of_the_policy(built: Path, tools: Tools) -> None:
    disk = Patient(built / "os-image.raw", ARCH, tools)
    for path, label in {
        "/usr/bin/bash": "system_u:object_r:shell_exec_t:s0",
        "/etc/shadow": "system_u:object_r:shadow_t:s0",
        "/usr/sbin/sshd": "system_u:object_r:sshd_exec_t:s0",
    }.items():
        assert f'security.selinux ({len(label) + 1}) = "{label}' in disk.attributes(path)


def test_it_takes_at_most_a_third_longer_than_debian(built: Path, checkout: Path) -> None:
    """Compares the stages that both distributions have; the tools tree exists already."""
    of_debian = checkout / f"out/debian/{ARCH}/manifest.json"
    if not of_debian.exists():
        pytest.fail(f"there is no {of_debian}: build it with `./nox -s quickstart`", pytrace=False)
    ours, debians = (
        {name: image["seconds"] for name, image in json.loads(path.read_text())["images"].items()}
        for path in (built / "manifest.json", of_debian)
    )
    both = ours.keys() & debians.keys()
    assert "os-image" in both
    amount, allowed = (sum(times[name] for name in both) for times in (ours, debians))
    print(f"Amazon Linux {amount:.0f} s, Debian {allowed:.0f} s")
    assert amount <= 1.3 * allowed


def test_windows_can_import_the_rootfs(built: Path) -> None:
    assert wsl.complaints(built / "wsl-rootfs.wsl") == []


def test_third_party_files_are_in_the_manifest_and_in_what_stands_on_the_base(
    built: Path,
) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    packages = {package["name"] for package in manifest["images"]["base"]["packages"]}
    assert {"cosign", "gnupg2", "tree"} <= packages
    assert set(manifest["additions"]["files"]) == {
        "/usr/bin/docker-credential-pass", "/usr/bin/pass",
    }  # fmt: skip
    with tarfile.open(built / "wsl-rootfs.tar.gz") as archive:
        members = {member.name.removeprefix("./"): member for member in archive}
    for name in ("cosign", "docker-credential-pass", "pass"):
        member = members[f"usr/bin/{name}"]
        assert (member.mode & 0o7777, member.uid, member.gid) == (0o755, 0, 0)


def test_the_wsl_rootfs_is_a_root_without_kernel_identity_or_host_keys(built: Path) -> None:
    with tarfile.open(built / "wsl-rootfs.tar.gz") as archive:
        members = {member.name.removeprefix("./"): member for member in archive}
    assert {"etc/wsl.conf", "etc/wsl-distribution.conf", "usr/bin/bash"} <= members.keys()
    assert not [name for name in members if name.startswith("usr/lib/modules/")]
    assert not [name for name in members if "ssh_host_" in name]
    assert members["etc/machine-id"].size == 0


def test_every_file_belongs_to_a_component_or_has_a_reason_not_to(built: Path) -> None:
    image = "container-with-kernel"
    bill = built / f"{image}.sbom.cdx.json"
    assert ownership.complaints(built / image, bill, "amazonlinux") == []
    files = {
        part["name"]: part
        for part in json.loads(bill.read_text())["components"]
        if part["type"] == "file"
    }
    for path, purl, licence in (
        ("/usr/bin/docker-credential-pass", "pkg:github/docker/docker-credential-helpers@v", "MIT"),
        ("/usr/bin/pass", "pkg:github/zx2c4/password-store@", "GPL-2.0-or-later"),
    ):
        assert files[path]["purl"].startswith(purl)
        assert files[path]["version"] in files[path]["purl"]
        assert files[path]["licenses"] == [{"license": {"id": licence}}]
        assert files[path]["hashes"][0]["alg"] == "SHA-256"


def test_the_bill_of_materials_names_amazon_s_packages_as_rpm_knows_them(built: Path) -> None:
    bom = json.loads((built / "os-image.sbom.cdx.json").read_text())
    packages = [part for part in bom["components"] if part["type"] == "library"]
    assert len(packages) > 150
    assert all(part["purl"].startswith("pkg:rpm/amzn/") for part in packages)
    assert all("distro=amzn-2023" in part["purl"] for part in packages)
    assert {"bash", "kernel6.18", "systemd"} <= {part["name"] for part in packages}


def test_nothing_is_built_again_where_nothing_changed(
    built: Path, copied: Copy, lab: LabServer, made: World, with_packages: list[Arg]
) -> None:
    before = (built / "os-image.raw").stat()
    again = build_base(copied, lab, made, *with_packages)
    assert "everything is up to date" in again.output
    assert (built / "os-image.raw").stat() == before


@pytest.fixture
def unbuilt(copied: Copy, tmp_path: Path) -> Iterator[Copy]:
    """The copy without its stages and finished images, which are put back after the test.

    Other tests use these images, which a base that was built again would make stale.
    """
    moved = {
        copied.work / f"amazonlinux/{ARCH}/stages": tmp_path / "stages",
        target(copied): tmp_path / "out",
    }
    for place, aside in moved.items():
        if place.exists():
            place.rename(aside)
    yield copied
    for place, aside in moved.items():
        shutil.rmtree(place, ignore_errors=True)
        if aside.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            aside.rename(place)


@pytest.mark.usefixtures("built")
def test_an_offline_build_asks_nobody_for_what_is_there(
    unbuilt: Copy, lab: LabServer, made: World, with_packages: list[Arg]
) -> None:
    every = Fault(Kind.UNAVAILABLE, "")
    with lab.broken(every):
        build = build_base(unbuilt, lab, made, "--offline", *with_packages)
    assert build.process.returncode == 0, build.output
    assert every.seen == 0


@pytest.fixture
def forgetful(unbuilt: Copy) -> Copy:
    """The copy without its base and its packages."""
    shutil.rmtree(unbuilt.work / f"amazonlinux/{ARCH}", ignore_errors=True)
    return unbuilt


def failed_cleanly(build: Build, copied: Copy) -> str:
    """Check that a build failed cleanly and left nothing behind, and return its error."""
    assert build.process.returncode == 1, build.output
    assert "Traceback" not in build.output
    sentence, *rest = build.error
    assert all(line.startswith((" hint: ", "  log: ")) for line in rest), build.error
    left = {path.name for path in target(copied).glob("*")} if target(copied).exists() else set()
    assert left <= {"build.log"}
    assert not (copied.work / f"amazonlinux/{ARCH}/stages/base").exists()
    assert copied.leftovers() == []
    return sentence


REPOMD = r"repodata/repomd\.xml$"
PRIMARY = r"repodata/.*primary\.xml"
PACKAGE = rf"/blobstore/.*/{VICTIM}-"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(Kind.NOT_FOUND, REPOMD), ("repomd.xml", "404")),
        (Fault(Kind.NOT_FOUND, PACKAGE), (VICTIM, "404")),
        (Fault(Kind.UNAVAILABLE, PRIMARY), ("primary.xml", "503")),
        (Fault(Kind.UNAVAILABLE, PACKAGE), (VICTIM, "503")),
        (Fault(Kind.STALL, PRIMARY), ("primary.xml",)),
        (Fault(Kind.TRUNCATED, PACKAGE), (VICTIM,)),
        (Fault(Kind.WRONG_DIGEST, PRIMARY), ("primary.xml", "digest")),
        (Fault(Kind.WRONG_DIGEST, PACKAGE), (VICTIM, "digest")),
        (Fault(Kind.STALE, r"mirror\.list$"), ("repomd.xml", "404", "0" * 64)),
    ],
    ids=lambda value: f"{value.kind.value} {value.pattern}" if isinstance(value, Fault) else "",
)
def test_a_fault_that_lasts_fails_the_build_in_one_sentence_and_the_next_run_succeeds(
    forgetful: Copy, lab: LabServer, made: World, fault: Fault, words: tuple[str, ...]
) -> None:
    with lab.broken(fault):
        sentence = failed_cleanly(build_base(forgetful, lab, made), forgetful)
    assert fault.seen > 1, "it was not tried again"
    for word in ("amazonlinux", lab.url, *words):
        assert word in sentence
    after = build_base(forgetful, lab, made)
    assert after.process.returncode == 0, after.output


MIRROR_LIST = r"core/mirrors/.*/mirror\.list$"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Kind.NOT_FOUND, ("lacks the packages of the release", "404")),
        (Kind.UNAVAILABLE, ("cannot be reached", "503")),
        (Kind.TRUNCATED, ("cannot be reached", "the connection broke")),
    ],
    ids=lambda value: value.value if isinstance(value, Kind) else "",
)
def test_a_list_of_mirrors_that_cannot_be_had_stops_the_build_before_it_begins(
    forgetful: Copy, lab: LabServer, made: World, kind: Kind, words: tuple[str, ...]
) -> None:
    with lab.broken(Fault(kind, MIRROR_LIST)):
        build = build_base(forgetful, lab, made)
    sentence = failed_cleanly(build, forgetful)
    for word in ("mirror of Amazon Linux", f"{lab.mirror}/core/mirrors/", *words):
        assert word in sentence
    assert "quickstart" in build.output
    assert "will be built" not in build.output


COSIGN = r"/third-party/github\.com/.*/cosign-.*\.rpm$"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(Kind.NOT_FOUND, COSIGN), ("cosign", "404")),
        (Fault(Kind.TRUNCATED, COSIGN), ("cosign",)),
        (Fault(Kind.WRONG_DIGEST, COSIGN), ("cosign", "sha256", "is pinned")),
    ],
    ids=lambda value: value.kind.value if isinstance(value, Fault) else "",
)
def test_a_third_party_file_that_is_not_what_is_pinned_stops_the_build(
    forgetful: Copy, lab: LabServer, made: World, fault: Fault, words: tuple[str, ...]
) -> None:
    shutil.rmtree(forgetful.work / "third-party", ignore_errors=True)
    with lab.broken(fault):
        sentence = failed_cleanly(build_base(forgetful, lab, made), forgetful)
    for word in (lab.third_party, *words):
        assert word in sentence
    assert not list(forgetful.work.glob("third-party/*/cosign-*"))


def test_a_fault_that_passes_is_not_noticed(forgetful: Copy, lab: LabServer, made: World) -> None:
    shutil.rmtree(forgetful.work / "third-party", ignore_errors=True)
    with lab.broken(
        Fault(Kind.TRUNCATED, COSIGN, times=1),
        Fault(Kind.UNAVAILABLE, r"mirror\.list$", times=1),
        Fault(Kind.TRUNCATED, PRIMARY, times=1),
        Fault(Kind.WRONG_DIGEST, PACKAGE, times=1),
        Fault(Kind.UNAVAILABLE, r"/blobstore/.*/tar-", times=1),
    ):
        build = build_base(forgetful, lab, made)
    assert build.process.returncode == 0, build.output


@pytest.mark.parametrize("wrong", Tampering, ids=lambda wrong: wrong.value)
def test_a_package_that_is_not_what_was_signed_never_reaches_an_image(
    forgetful: Copy, lab: LabServer, made: World, wrong: Tampering
) -> None:
    instead = tampering.repository_with(made, wrong, VICTIM)
    with lab.broken(Fault(Kind.STALE, r"mirror\.list$", instead=instead)):
        sentence = failed_cleanly(build_base(forgetful, lab, made), forgetful)
    assert VICTIM in sentence
    assert "amazonlinux" in sentence
    assert lab.url in sentence
    after = build_base(forgetful, lab, made)
    assert after.process.returncode == 0, after.output


UNSIGNED = "is not signed, and nothing was installed from it"
UNTRUSTED = "is not signed with the key that is trusted, and nothing was installed from it"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Tampering.ALTERED, UNTRUSTED),
        (Tampering.FOREIGN, UNTRUSTED),
        (Tampering.UNSIGNED, UNSIGNED),
    ],
    ids=lambda value: value.value if isinstance(value, Tampering) else "",
)
def test_metadata_that_is_not_what_was_signed_stops_the_build(
    forgetful: Copy, lab: LabServer, made: World, wrong: Tampering, words: str
) -> None:
    instead = tampering.repository_with(made, wrong, tampering.METADATA)
    with lab.broken(Fault(Kind.STALE, r"mirror\.list$", instead=instead)):
        sentence = failed_cleanly(build_base(forgetful, lab, made), forgetful)
    assert f"repomd.xml of the repository amazonlinux at {lab.url}" in sentence
    assert words in sentence


@pytest.mark.parametrize(
    ("index", "words"),
    [(1, "the packages of the repository amazonlinux at "), (-1, UNSIGNED)],
    ids=["signed", "of before metadata was signed"],
)
def test_a_list_of_mirrors_that_leads_to_an_older_release_is_refused(
    forgetful: Copy, lab: LabServer, made: World, index: int, words: str
) -> None:
    older = made.releases[index]
    with lab.broken(Fault(Kind.STALE, r"mirror\.list$", instead=repository.guid(older))):
        sentence = failed_cleanly(build_base(forgetful, lab, made), forgetful)
    assert words in sentence


def test_a_release_of_before_metadata_was_signed_is_still_built(
    forgetful: Copy, lab: LabServer, made: World
) -> None:
    lab.requests.clear()
    build = build_base(forgetful, lab, made, *WITHOUT, "--release", made.releases[-1])
    assert build.process.returncode == 0, build.output
    assert not [path for path in lab.requests if path.endswith(".asc")]


def test_a_single_repository_is_refused_with_the_way_to_build_from_it(
    forgetful: Copy, lab: LabServer, made: World
) -> None:
    plain = made.repository(made.releases[0]).relative_to(made.www).as_posix()
    build = build_base(forgetful, lab, made, *WITHOUT, "--mirror", f"{lab.url}/{plain}")
    assert build.process.returncode == 2, build.output
    assert "is a single repository" in build.output
    assert f"core/mirrors/{made.releases[0]}/{made.arch.name}/mirror.list" in build.output


def test_a_release_that_does_not_exist_lists_the_nearest(
    copied: Copy, lab: LabServer, made: World
) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "scripts.sessions.build", *amazonlinux(lab, made), *WITHOUT,
            "--release", "2023.12.20260901",
        ],
        cwd=copied.root, env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no release 2023.12.20260901" in done.stderr
    assert "2023.12.20260831" in done.stderr


def test_a_release_that_has_not_the_kernel_yet_is_told_from_a_mistake(
    forgetful: Copy, lab: LabServer, made: World
) -> None:
    target = [*amazonlinux(lab, made), *WITHOUT, "--release", made.releases[-1]]
    command = [
        sys.executable,
        "-m",
        "scripts.sessions.build",
        *target,
        "--image",
        "base-with-kernel",
    ]
    build = Build(command, forgetful.root, environ())
    assert build.wait(within=600) == 1, build.output
    assert "Unable to find a match: kernel6.18" in build.error[0]
    assert "--release" in build.error[1]
