from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from scripts.description import sbom
from scripts.description.inventory import Installed, System
from scripts.stages.artifacts import Artifact

DEBIAN = System("debian", "13", "Debian GNU/Linux 13 (trixie)")
AMAZON = System("amzn", "2023", "Amazon Linux 2023")

BASH = Installed("deb", "bash", "5.2-2+b1", "amd64", "bash", ("GPL-3.0-or-later",), "http://a.b/")
ZLIB = Installed("deb", "zlib1g", "1:1.3", "amd64", "zlib", ("Zlib", "its own"), size=7)
SHADOW = Installed(
    "rpm", "shadow-utils", "2:4.9-12.amzn2023", "x86_64", "shadow-utils-4.9-12.amzn2023.src.rpm",
    ("BSD-3-Clause AND GPL-2.0-or-later",),
)  # fmt: skip
ODD = Installed("rpm", "odd", "1-1", "x86_64", "", ("GPLv2+ with exceptions and BSD",))

RAW = Artifact("os-image.raw", 10, 0, "ab" * 64)


def image(name: str, packages: Sequence[Installed], **more: Any) -> sbom.Image:
    system = AMAZON if packages[0].kind == "rpm" else DEBIAN
    return sbom.Image(name, "x86_64", system, [RAW], packages, **more)


def load(text: str) -> Mapping[str, Any]:
    """The bill of materials, once it has been found to keep to CycloneDX's schema."""
    errors = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert errors is None, errors
    loaded: Mapping[str, Any] = json.loads(text)
    return loaded


def by_name(bom: Mapping[str, Any]) -> dict[str, Any]:
    return {component["name"]: component for component in bom["components"]}


def test_a_package_url_says_distribution_architecture_epoch_and_source() -> None:
    assert sbom.purl(BASH, DEBIAN).to_string() == (
        "pkg:deb/debian/bash@5.2-2%2Bb1?arch=amd64&distro=debian-13"
    )
    zlib = PackageURL.from_string(sbom.purl(ZLIB, DEBIAN).to_string())
    assert (zlib.version, zlib.qualifiers["upstream"]) == ("1:1.3", "zlib")
    shadow = PackageURL.from_string(sbom.purl(SHADOW, AMAZON).to_string())
    assert (shadow.type, shadow.namespace, shadow.name) == ("rpm", "amzn", "shadow-utils")
    assert shadow.version == "4.9-12.amzn2023"
    assert shadow.qualifiers["epoch"] == "2"
    assert shadow.qualifiers["distro"] == "amzn-2023"


def test_a_package_of_a_further_repository_names_it() -> None:
    sshfs = Installed("rpm", "fuse-sshfs", "3.7.3-2.5.spal2023", "x86_64", "", repository="spal")
    found = by_name(load(sbom.to_json(image("os-image", [SHADOW, sshfs]))))

    url = PackageURL.from_string(found["fuse-sshfs"]["purl"])
    assert (url.namespace, url.qualifiers["repository_id"]) == ("amzn", "spal")
    assert found["fuse-sshfs"]["properties"] == [
        {"name": sbom.ORIGIN, "value": "the distribution's repository spal"}
    ]
    assert "repository_id" not in found["shadow-utils"]["purl"]
    assert "properties" not in found["shadow-utils"]


def test_packages_have_their_licences_home_and_size() -> None:
    found = by_name(load(sbom.to_json(image("os-image", [BASH, ZLIB]))))

    assert found["bash"]["licenses"] == [{"license": {"id": "GPL-3.0-or-later"}}]
    assert found["bash"]["externalReferences"] == [{"type": "website", "url": "http://a.b/"}]
    assert [next(iter(entry["license"].values())) for entry in found["zlib1g"]["licenses"]] == [
        "Zlib",
        "its own",
    ]
    assert found["zlib1g"]["properties"] == [{"name": sbom.SIZE, "value": "7"}]


def test_an_spdx_expression_stays_one_and_another_text_is_a_name() -> None:
    found = by_name(load(sbom.to_json(image("os-image", [SHADOW, ODD]))))

    assert found["shadow-utils"]["licenses"] == [
        {"expression": "BSD-3-Clause AND GPL-2.0-or-later"}
    ]
    assert found["odd"]["licenses"] == [{"license": {"name": "GPLv2+ with exceptions and BSD"}}]


def test_the_image_is_the_subject_with_the_digests_of_its_artifacts() -> None:
    subject = load(sbom.to_json(image("os-image", [BASH])))["metadata"]["component"]

    assert subject["name"] == "finch-os-image"
    [part] = subject["components"]
    assert part["name"] == "os-image.raw"
    assert part["hashes"] == [{"alg": "SHA-512", "content": RAW.sha512}]


def test_files_and_rpms_of_our_own_have_their_digests() -> None:
    bom = load(
        sbom.to_json(
            image(
                "os-image",
                [SHADOW],
                files=[sbom.SingleFile("/usr/bin/helper", "cd" * 32)],
                rpms={"shadow-utils-4.9-12.amzn2023.x86_64.rpm": "ef" * 32},
            )
        )
    )
    found = by_name(bom)

    assert found["/usr/bin/helper"]["hashes"] == [{"alg": "SHA-256", "content": "cd" * 32}]
    assert found["shadow-utils"]["hashes"] == [{"alg": "SHA-256", "content": "ef" * 32}]
    assert sbom.ORIGIN in {entry["name"] for entry in found["shadow-utils"]["properties"]}


def test_packages_have_the_digest_of_their_file_if_it_is_known() -> None:
    known = replace(BASH, sha256="ab" * 32)
    found = by_name(load(sbom.to_json(image("os-image", [known, ZLIB]))))

    assert found["bash"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert "hashes" not in found["zlib1g"]
    assert "properties" not in found["bash"]


def test_the_packages_of_the_initrd_are_its_own_parts() -> None:
    bom = load(sbom.to_json(image("os-image", [BASH, ZLIB], initrd=[ZLIB])))

    assert [part["name"] for part in by_name(bom)["initrd"]["components"]] == ["zlib1g"]


def test_several_images_share_their_packages_and_each_depends_on_its_own() -> None:
    bom = load(sbom.to_json(image("os-image", [BASH, ZLIB]), image("wsl-rootfs", [BASH])))
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in bom["dependencies"]}
    bash, zlib = (sbom.purl(package, DEBIAN).to_string() for package in (BASH, ZLIB))

    assert [part["name"] for part in bom["components"]].count("bash") == 1
    assert {bash, zlib} <= set(needs["image:os-image"])
    assert bash in needs["image:wsl-rootfs"]
    assert zlib not in needs["image:wsl-rootfs"]


def test_equal_images_have_equal_bills_with_equal_serial_numbers() -> None:
    first, second = (sbom.to_json(image("os-image", [BASH, ZLIB])) for _ in range(2))

    assert first == second
