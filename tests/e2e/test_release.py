"""Takes real images from build to release: describe, publish to loopback, fetch, compare."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from filelock import FileLock

from scripts import arch
from scripts.catalog import ROOT
from scripts.publish import programs
from scripts.publish.signing import CREDENTIALS
from scripts.system.process import run
from scripts.system.progress import Progress
from tests import manifests, services, wsl
from tests.e2e.checkout import DEBIAN, TOOLS, Build, Copy, copy, copy_tree, environ

NATIVE = arch.native()
RUN = "20260930"
WORK = ROOT / ".work"

# A package that no image has, and that needs only libc.
PACKAGE = "hello"


@pytest.fixture(scope="module")
def copied(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the checkout with up-to-date Debian images."""
    root = tmp_path_factory.mktemp("release") / "finch"
    WORK.mkdir(exist_ok=True)
    with FileLock(WORK / "lock", timeout=900):
        copied = copy(checkout, root, WORK, [*TOOLS, f"debian/{NATIVE}/stages"])
        finished = f"out/debian/{NATIVE}"
        if (checkout / finished).exists():
            copy_tree(checkout / finished, root / finished)
    build = copied.build(within=900)
    assert build.process.returncode == 0, build.output
    return copied


@pytest.fixture(scope="module")
def out(copied: Copy) -> Path:
    return copied.root / "out/debian" / NATIVE.name


def test_the_manifest_keeps_to_its_schema(out: Path) -> None:
    manifests.check(out / "manifest.json")


@pytest.mark.skipif(NATIVE.name != "x86_64", reason="there is a WSL rootfs on x86_64 only")
def test_windows_can_import_the_rootfs(out: Path) -> None:
    assert wsl.complaints(out / "wsl-rootfs.wsl") == []
    assert (out / "wsl-rootfs.wsl").samefile(out / "wsl-rootfs.tar.gz")


def test_every_image_has_a_bill_of_its_packages_with_licences(out: Path) -> None:
    for image in ("os-image", "container-with-kernel"):
        text = (out / f"{image}.sbom.cdx.json").read_text()
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        parts = {part["name"]: part for part in json.loads(text)["components"]}
        assert parts["bash"]["purl"].startswith("pkg:deb/debian/bash@")
        assert f"arch={NATIVE.debian}&distro=debian-13" in parts["bash"]["purl"]
        licensed = [part for part in parts.values() if part.get("licenses")]
        assert len(licensed) > 0.8 * len(parts)
        assert ("initrd" in parts) == (image == "os-image")


def test_the_tar_is_an_image_for_docker_and_for_others(out: Path) -> None:
    skopeo = programs.obtain("skopeo", WORK, Progress(live=False))
    tar = out / "container-with-kernel.tar"
    for kind in ("oci-archive", "docker-archive"):
        told = json.loads(run([*skopeo, "inspect", f"{kind}:{tar}"]).stdout)
        assert told["Architecture"] == NATIVE.debian


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with services.s3(Path(sys.executable)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        client = boto3.Session().client("s3")
        client.create_bucket(Bucket="finch")
        yield client


def test_a_release_comes_back_whole_and_verified(
    copied: Copy, out: Path, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "secret")
    cosign, skopeo = (
        programs.obtain(name, WORK, Progress(live=False)) for name in ("cosign", "skopeo")
    )
    run([*cosign, "generate-key-pair"], cwd=tmp_path, also=CREDENTIALS)
    with services.docker_registry(tmp_path / "registry", WORK) as host:
        command: list[str | Path] = [
            *(sys.executable, "-m", "scripts.sessions.publish", *DEBIAN, "--allow-unbooted"),
            *("--run-id", RUN, "--bucket", "finch", "--repository", f"{host}/finch"),
            *("--key", tmp_path / "cosign.key"),
        ]
        published = Build(command, copied.root, environ())
        assert published.wait(within=300) == 0, published.output
        again = Build(command, copied.root, environ())
        assert again.wait(within=300) == 0, again.output
        assert "everything has already been published" in again.output
        [digest] = {line.split()[-1] for line in again.lines if line.startswith(f"{host}/finch:")}
        inspect = ["--insecure-policy", "inspect", "--tls-verify=false"]
        told = run([*skopeo, *inspect, f"docker://{host}/finch@{digest}"]).stdout
        assert json.loads(told)["Architecture"] == NATIVE.debian
        labels = json.loads(told)["Labels"]
        title = "container-with-kernel (Debian)"
        assert labels["org.opencontainers.image.title"] == title
        assert labels["org.opencontainers.image.version"] == "trixie"

    back = tmp_path / "back"
    for entry in s3.list_objects_v2(Bucket="finch")["Contents"]:
        (back / entry["Key"]).parent.mkdir(parents=True, exist_ok=True)
        s3.download_file("finch", entry["Key"], str(back / entry["Key"]))
    for name in (
        f"finch-debian-trixie-{RUN}.SHA512SUMS",
        f"finch-debian-trixie-manifest-{RUN}.json",
    ):
        run(
            [*cosign, "verify-blob", "--key", tmp_path / "cosign.pub", "--insecure-ignore-tlog",
             "--bundle", back / f"{name}.bundle", back / name]
        )  # fmt: skip
    subprocess.run(
        ["sha512sum", "--check", "--strict", "--quiet", f"finch-debian-trixie-{RUN}.SHA512SUMS"],
        cwd=back,
        check=True,
    )
    image = back / f"finch-debian-trixie-os-image-{NATIVE.mkosi}-{RUN}.qcow2"
    assert image.read_bytes() == (out / "os-image.qcow2").read_bytes()


@pytest.mark.skipif(NATIVE.name != "x86_64", reason="there is a WSL rootfs on x86_64 only")
def test_a_diff_of_two_builds_that_differ_in_one_package_shows_that_package(
    copied: Copy, out: Path, tmp_path: Path
) -> None:
    copy_tree(out, tmp_path / "before")
    drop_in = copied.root / "mkosi.images/wsl-rootfs/mkosi.conf.d/debian.conf"
    drop_in.write_text(f"[Match]\nDistribution=debian\n\n[Content]\nPackages={PACKAGE}\n")
    build = copied.build("--image", "wsl-rootfs", within=600)
    assert build.process.returncode == 0, build.output

    diff: list[str | Path] = [
        sys.executable,
        "-m",
        "scripts.sessions.diff",
        tmp_path / "before",
        out,
        "--format",
        "json",
    ]
    told = subprocess.run(diff, cwd=copied.root, capture_output=True, text=True, check=True).stdout
    changes = json.loads(told)["changes"]
    assert [(one["kind"], one["name"]) for one in changes["packages"]] == [
        ("added", f"{PACKAGE} ({NATIVE.debian})")
    ]
    added = {one["name"] for one in changes["files of wsl-rootfs"] if one["kind"] == "added"}
    assert f"/usr/bin/{PACKAGE}" in added
    unchanged = ("packages of the initrd", "UKI sections", "partitions",
                 "files of container-with-kernel")  # fmt: skip
    assert not any(changes[aspect] for aspect in unchanged)
    assert {one["name"] for one in changes["sizes"]} <= {"wsl-rootfs.tar.gz", "wsl-rootfs.wsl"}
