"""A scanner that is not ours finds in the images what our bills of materials list."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts import arch
from tests import ownership
from tests.e2e import bills
from tests.e2e.bills import Rpm

CONTAINER = "container-with-kernel"

# RPMs that the scanner lists and our bill does not, by name.
EXCUSED = {
    "gpg-pubkey": "the key that rpm trusts, which is no software; rpm keeps it as a package",
}

pytestmark = pytest.mark.skipif(
    not arch.X86_64.is_native, reason="Amazon Linux is built on x86_64 machines only"
)


@dataclass(frozen=True)
class Scan:
    """What syft found: the distribution, and artifacts of any kind."""

    distribution: Mapping[str, Any]
    artifacts: list[dict[str, Any]]

    @property
    def rpms(self) -> set[Rpm]:
        """The RPMs with a name that is not excused."""
        found = (Rpm.of(one["purl"]) for one in self.artifacts if one["type"] == "rpm")
        return {rpm for rpm in found if rpm.name not in EXCUSED}


def scan(source: str) -> Scan:
    """Scan source, which syft's manual describes, without a network."""
    syft = Path(sys.executable).with_name("syft")
    done = subprocess.run(
        ["unshare", "--net", syft, "scan", "--quiet", source, "--output", "syft-json"],
        env=os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    return Scan(report["distro"], report["artifacts"])


@pytest.fixture(scope="module")
def container(amazon_images: Path) -> Scan:
    """The scan of the OCI layout."""
    return scan(f"oci-dir:{amazon_images / CONTAINER}")


@pytest.fixture(scope="module")
def rootfs(amazon_roots: dict[str, Path]) -> Scan:
    """The scan of the root file system for WSL."""
    return scan(f"dir:{amazon_roots['wsl-rootfs']}")


@pytest.fixture(params=[(CONTAINER, "container"), ("wsl-rootfs", "rootfs")], ids=lambda two: two[0])
def scanned(request: pytest.FixtureRequest) -> tuple[str, Scan]:
    """An image's name, and its scan."""
    name, fixture = request.param
    return name, request.getfixturevalue(fixture)


def test_the_scanner_knows_the_distribution(scanned: tuple[str, Scan]) -> None:
    _, found = scanned
    assert (found.distribution["id"], found.distribution["versionID"]) == ("amzn", "2023")


def test_the_scanner_finds_the_packages_of_the_bill_of_materials(
    amazon_images: Path, scanned: tuple[str, Scan]
) -> None:
    image, found = scanned
    listed = bills.packages(amazon_images, image)
    assert len(listed) > 150
    assert sorted(found.rpms - listed) == []
    assert sorted(listed - found.rpms) == []


def test_each_excuse_is_of_use(scanned: tuple[str, Scan]) -> None:
    _, found = scanned
    assert EXCUSED.keys() <= {one["name"] for one in found.artifacts if one["type"] == "rpm"}


def test_the_scanner_gives_packages_the_same_urls(
    amazon_images: Path, scanned: tuple[str, Scan]
) -> None:
    """Databases of advisories are searched by these."""
    image, found = scanned
    ours = {
        one["purl"] for one in bills.components(amazon_images, image) if one["type"] == "library"
    }
    theirs = {one["purl"] for one in found.artifacts if one["type"] == "rpm"}
    assert {url for url in theirs - ours if Rpm.of(url).name not in EXCUSED} == set()


def test_what_else_the_scanner_finds_is_in_files_that_the_bill_accounts_for(
    amazon_images: Path, container: Scan
) -> None:
    image = ownership.read(amazon_images / CONTAINER)
    bill = ownership.Bill.read(amazon_images / f"{CONTAINER}.sbom.cdx.json")
    owners = ownership.of_packages(image)
    others = [one for one in container.artifacts if one["type"] != "rpm"]
    assert {"go-module", "python"} <= {one["type"] for one in others}
    paths = {place["path"] for one in others for place in one["locations"]}
    unknown = {
        path
        for path in paths
        if path not in bill.files and owners.get(image.real(path)) not in bill.packages
    }
    assert unknown == set()
