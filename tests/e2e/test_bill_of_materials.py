"""The bill of materials of the built image accounts for every file in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.options import Options
from tests import ownership

IMAGE = "container-with-kernel"


@pytest.fixture(scope="module")
def out(opts: Options) -> Path:
    """The folder with the finished Debian images."""
    if not (opts.artifacts / IMAGE / "index.json").exists():
        pytest.fail(f"there is no {IMAGE}: build it with `./nox -s quickstart`", pytrace=False)
    return opts.artifacts


def component(bill: Path, path: str) -> dict[str, Any]:
    """The component for the file at path in a bill of materials."""
    components = json.loads(bill.read_text())["components"]
    [found] = [one for one in components if one["name"] == path]
    assert isinstance(found, dict)
    return found


def test_every_file_belongs_to_a_component_or_has_a_reason_not_to(out: Path) -> None:
    assert ownership.complaints(out / IMAGE, out / f"{IMAGE}.sbom.cdx.json", "debian") == []


def test_a_planted_file_would_be_noticed(out: Path) -> None:
    image = ownership.read(out / IMAGE)
    listed = ownership.Bill.read(out / f"{IMAGE}.sbom.cdx.json")
    assert "/usr/bin/planted" not in ownership.of_packages(image)
    assert "/usr/bin/planted" not in listed.files


@pytest.mark.parametrize("bill", [f"{IMAGE}.sbom.cdx.json", "os-image.sbom.cdx.json"])
def test_an_emulator_has_a_version_a_package_url_a_digest_and_a_licence(
    out: Path, opts: Options, bill: str
) -> None:
    other = "aarch64" if opts.target.arch.name == "x86_64" else "x86_64"
    found = component(out / bill, f"/usr/bin/qemu-{other}-static")
    assert found["type"] == "file"
    assert found["version"][0].isdigit()
    assert found["purl"].startswith("pkg:deb/debian/qemu-user@")
    assert found["hashes"][0]["alg"] == "SHA-256"
    assert found["licenses"] == [{"expression": "GPL-2.0-only AND LGPL-2.1-or-later"}]
