"""Takes the lab's images of Amazon Linux from their boot test to Finch's manifest.

The images of aarch64 are small files: building real ones here would take as long again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts import arch, catalog
from tests import flow, publishing, releases
from tests.e2e.checkout import Copy
from tests.flow import Publisher

# The servers that are published to, and what signs.
aws, bucket, s3_url = publishing.aws, publishing.bucket, publishing.s3_url
registry_host, repository = publishing.registry_host, publishing.repository
cosign, key, qemu_img, work = (
    publishing.cosign, publishing.key, publishing.qemu_img, publishing.work,
)  # fmt: skip

RUN = "25872286438"

pytestmark = pytest.mark.skipif(not arch.X86_64.is_native, reason="built on x86_64 machines only")


@pytest.fixture
def booted(amazon_images: Path, amazon_copy: Copy) -> Path:
    """The folder with the images, which have passed their boot test."""
    if not (amazon_images / "boot-test/result.json").exists():
        session = f"boot-test(arch='{arch.X86_64}')"
        boot = amazon_copy.nox(session, "--distribution", catalog.DEFAULT.name)
        assert boot.wait(within=1800) == 0, boot.output
    return amazon_images


def test_real_images_go_all_the_way_to_finch(
    booted: Path, amazon_copy: Copy, aws: Any, s3_url: str, bucket: str, repository: str,
    cosign: list[Any], key: Path, qemu_img: list[Any], work: Path, tmp_path: Path,
) -> None:  # fmt: skip
    flow.open_to_all(aws, bucket)
    root, out = amazon_copy.root, tmp_path / "out"
    # The images of aarch64 do not belong beside real ones that other tests look at.
    releases.write_build(out, arch.AARCH64, root, qemu_img)
    (out / catalog.DEFAULT.name / arch.X86_64.name).symlink_to(booted)
    publisher = Publisher(
        root, out, work, tmp_path / "deps", bucket, repository, f"{s3_url}/{bucket}", key,
        # The lab has keys and pins of its own.
        options=("--allow-altered",),
    )  # fmt: skip
    finch = publisher.consumer(cosign, tmp_path / "finch")

    flow.release(publisher, finch, RUN)
    flow.clean(publisher, finch, RUN)
