"""Fixtures and helpers for tests that publish to a real registry and an S3 server on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from scripts.arch import AARCH64, X86_64, Arch
from scripts.boot.results import Check, Result, Status, to_json
from scripts.build import manifest
from scripts.catalog import ROOT
from scripts.formats import oci_layout
from scripts.publish import programs, release
from scripts.publish import publish as publishing
from scripts.publish.signing import CREDENTIALS
from scripts.sessions import publish
from scripts.stages import artifacts
from scripts.system.digests import file_digest
from scripts.system.process import run
from scripts.system.progress import Progress
from tests import builds, services

WORK = ROOT / ".work"

RUN = "4711"

QCOW2 = "finch-debian-trixie-os-image-x86-64-4711.qcow2"
ROOTFS = "common/x86-64/finch-debian-trixie-rootfs-x86-64-4711.tar.gz"
SUMS = "finch-debian-trixie-4711.SHA512SUMS"
MANIFEST = "finch-debian-trixie-manifest-4711.json"


def tag(arch: str = "x86-64", run: str = RUN) -> str:
    """The tag of a container image that is pushed today."""
    today = datetime.now(UTC)
    return f"{today.year}.{today.month}.{today.day}-build-{run}-{arch}-with-kernel"


IMAGES = {
    name: {"bash": "5.2"}
    for name in (
        "base", "base-with-kernel", "initrd", "os-image", "container-with-kernel", "wsl-rootfs",
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def skopeo() -> list[Any]:
    return programs.obtain("skopeo", WORK, Progress(live=False))


@pytest.fixture(scope="module")
def registry_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with services.docker_registry(tmp_path_factory.mktemp("registry"), WORK) as host:
        yield host


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with services.s3(Path(sys.executable)) as url:
        yield url


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, s3_url: str, tmp_path: Path) -> Any:
    """A client of the S3 server; the environment points the harness to the same server."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GITHUB_", "ACTIONS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return boto3.client("s3", config=Config(retries={"max_attempts": 1}))


@pytest.fixture
def bucket(aws: Any, tmp_path: Path) -> str:
    name = "finch-" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    aws.create_bucket(Bucket=name)
    return name


@pytest.fixture
def repository(registry_host: str, bucket: str) -> str:
    return f"{registry_host}/{bucket}"


@pytest.fixture(name="root")
def built_from(tmp_path: Path) -> Path:
    """A copy of the configuration in the checkout."""
    root = tmp_path / "checkout"
    for name in ("mkosi.images", "mkosi.conf.d", "mkosi.profiles", "mkosi", "binfmt"):
        shutil.copytree(ROOT / name, root / name, symlinks=True)
    shutil.copy(ROOT / "mkosi.conf", root)
    return root


@pytest.fixture(scope="module")
def qemu_img() -> list[Any]:
    return programs.obtain("qemu-img", WORK, Progress(live=False))


OUTPUTS = (
    "os-image.raw", "os-image.qcow2", "container-with-kernel", "container-with-kernel.tar",
    "wsl-rootfs.tar.gz", "wsl-rootfs.wsl",
)  # fmt: skip


@pytest.fixture
def out(root: Path, qemu_img: list[Any]) -> Path:
    """A finished and booted build of that checkout, with small files."""
    return make_build(root, qemu_img, X86_64, b"disk", IMAGES, OUTPUTS)


@pytest.fixture
def other(root: Path, qemu_img: list[Any], out: Path) -> Path:
    """A build for aarch64 beside the one for x86_64, as from a job of its own."""
    assert out.exists()
    images = {name: packages for name, packages in IMAGES.items() if name != "wsl-rootfs"}
    outputs = [name for name in OUTPUTS if not name.startswith("wsl-rootfs")]
    return make_build(root, qemu_img, AARCH64, b"chip", images, outputs)


def make_build(
    root: Path,
    qemu_img: list[Any],
    arch: Arch,
    disk: bytes,
    images: dict[str, dict[str, str]],
    outputs: Sequence[str],
) -> Path:
    out = root / "out/debian" / arch.name
    out.mkdir(parents=True)
    builds.write_rootfs(out, {"etc/hostname": "finch"})
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(f"etc-{arch}"))
    builds.write_layout(out / "container-with-kernel", layer.getvalue())
    oci_layout.pack_oci(out / "container-with-kernel")
    (out / "os-image.raw").write_bytes(disk * 16384)
    convert(qemu_img, out / "os-image.raw", out / "os-image.qcow2")
    (out / artifacts.REPORT).write_text("<!doctype html>")
    (out / artifacts.SBOM).write_text("{}")
    builds.write_manifest(out, images, *outputs, root=root, machine=arch)
    builds.write_provenance(out)
    boot(out, arch=arch)
    return out


def convert(qemu_img: list[Any], raw: Path, qcow2: Path) -> None:
    run([*qemu_img, "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd",
         raw, qcow2])  # fmt: skip


def boot(out: Path, *, passed: bool = True, reason: str = "", arch: Arch = X86_64) -> None:
    """Write the result of a boot test of the os-image in out."""
    (out / "boot-test").mkdir(exist_ok=True)
    checks = [
        Check("disk", "The disk has two partitions", Status.PASSED),
        Check("ssh", "sshd answers", Status.PASSED if passed else Status.FAILED, reason=reason),
    ]
    result = Result(
        "debian", arch.name, checks, "kvm", "KVM works", "10.0", 20.0,
        disk=file_digest(out / "os-image.raw", "sha512"),
    )  # fmt: skip
    (out / artifacts.BOOT_TEST).write_text(to_json(result))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder of its own for what is kept between runs, with the programs that are there."""
    (WORK / "programs").mkdir(parents=True, exist_ok=True)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/programs").symlink_to(WORK / "programs")
    return tmp_path / "work"


@pytest.fixture
def tell(root: Path, out: Path, bucket: str, repository: str, work: Path) -> Callable[..., None]:
    """Publishes the build as the session does."""
    assert out.exists()

    def tell(*more: str, **environ: str) -> None:
        argv = ["--distribution", "debian", "--run-id", RUN, "--bucket", bucket,
                "--repository", repository, "--work", str(work), *more]  # fmt: skip
        wanted = publish.parse(argv, environ, root=root)
        publishing.publish(wanted, Progress(live=False))

    return tell


@contextlib.contextmanager
def told(out: Path) -> Iterator[dict[str, Any]]:
    """What manifest.json in out says, to be changed in the with block."""
    path = out / manifest.NAME
    data: dict[str, Any] = json.loads(path.read_text())
    yield data
    path.write_text(json.dumps(data))


def keys(aws: Any, bucket: str) -> set[str]:
    return {one["Key"] for one in aws.list_objects_v2(Bucket=bucket).get("Contents", [])}


def fetch(aws: Any, bucket: str, key: str) -> bytes:
    body: bytes = aws.get_object(Bucket=bucket, Key=key)["Body"].read()
    return body


@pytest.fixture(scope="module")
def cosign() -> list[Any]:
    return programs.obtain("cosign", WORK, Progress(live=False))


@pytest.fixture
def key(cosign: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COSIGN_PASSWORD", "secret")
    run([*cosign, "generate-key-pair"], cwd=tmp_path, also=CREDENTIALS)
    return tmp_path / "cosign.key"


MIB = 1 << 20


@pytest.fixture
def upload(tmp_path: Path) -> release.Upload:
    """An upload in three parts."""
    path = tmp_path / "large"
    path.write_bytes(os.urandom(12 * MIB))
    return release.Upload.of(path, "large-4711")


def open_uploads(aws: Any, bucket: str) -> list[Any]:
    found: list[Any] = aws.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return found
