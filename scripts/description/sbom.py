"""The software bill of materials of an image, as CycloneDX JSON."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from scripts.description.inventory import Installed, System
from scripts.stages.artifacts import Artifact

# The namespace of the serial numbers, so that equal contents have equal ones (RFC 9562, 5.5).
NAMESPACE = uuid.UUID("0e9c1a55-7f0a-4b0e-9f6c-2f6a1c5a6f10")

# The property that holds what a package takes when it is installed, in bytes.
SIZE = "finch:installed-size"

# The property of a package that was built or downloaded for these images: the distribution's
# advisories need not hold for it, though its package URL has the distribution's name.
ORIGIN = "finch:origin"

# Files that have been downloaded or built for the images have their digests in the stage that holds
# them, under names that begin so (scripts/stages/plan.py).
FILE_INPUT, RPM_INPUT = "file ", "RPM "


@dataclass(frozen=True)
class Image:
    """An image as its bill of materials tells of it.

    initrd are the packages that its initrd is made of, files the sha256 by path of what no package
    knows, rpms the sha256 by file name of the RPMs that are not the distribution's. made is when,
    in seconds since 1970.
    """

    name: str
    arch: str
    system: System
    artifacts: Sequence[Artifact]
    packages: Sequence[Installed]
    initrd: Sequence[Installed] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    rpms: Mapping[str, str] = field(default_factory=dict)
    made: float = 0


def to_json(*images: Image) -> str:
    """The bill of materials of an image, or of several that were built together, CycloneDX 1.6."""
    text: str = JsonV1Dot6(_bom(images)).output_as_string(indent=2)
    return text + "\n"


def purl(package: Installed, system: System) -> PackageURL:
    """The package URL (https://github.com/package-url/purl-spec) of an installed package."""
    version, qualifiers = package.version, {"arch": package.architecture, "distro": system.distro}
    if package.kind == "rpm" and ":" in version:
        qualifiers["epoch"], _, version = version.partition(":")
    if package.source and package.source != package.name:
        qualifiers["upstream"] = package.source  # what scanners look advisories up by
    return PackageURL(package.kind, system.id, package.name, version, qualifiers)


def own(inputs: Mapping[str, str], kind: str) -> dict[str, str]:
    """The digests of the files of a kind among the inputs of a stage."""
    return {
        name.removeprefix(kind): digest for name, digest in inputs.items() if name.startswith(kind)
    }


def _bom(images: Sequence[Image]) -> Bom:
    subjects = [_subject(image) for image in images]
    parts = [_parts(image) for image in images]
    known: dict[str, Component] = {}  # what several images hold stands there once
    for part in (part for own in parts for part in own):
        known.setdefault(str(part.bom_ref), part)
    several = len(images) > 1
    whole = _whole(images[0]) if several else subjects[0]
    bom = Bom(
        metadata=BomMetaData(
            component=whole,
            tools=ToolRepository(
                components=[Component(type=ComponentType.APPLICATION, name="finch-os-images")]
            ),
            timestamp=datetime.fromtimestamp(max(image.made for image in images), UTC),
        ),
        components=[*(subjects if several else []), *known.values()],
        serial_number=_serial(images),
    )
    if several:
        bom.register_dependency(whole, subjects)
    for subject, own in zip(subjects, parts, strict=True):
        bom.register_dependency(subject, [known[str(part.bom_ref)] for part in own])
    return bom


def _whole(image: Image) -> Component:
    """All images of one distribution and architecture together."""
    return Component(
        type=ComponentType.OPERATING_SYSTEM,
        name="finch-os-images",
        version=f"{image.system.version}-{image.arch}",
        bom_ref="images",
        supplier=OrganizationalEntity(name="Finch"),
    )


def _parts(image: Image) -> list[Component]:
    """What an image is made of."""
    system = Component(
        type=ComponentType.OPERATING_SYSTEM,
        name=image.system.id,
        version=image.system.version,
        description=image.system.name or None,
        bom_ref=f"os:{image.system.distro}",
    )
    initrd = [_initrd(image)] if image.initrd else []
    files = [_file(path, digest) for path, digest in sorted(image.files.items())]
    return [system, *_packages(image.packages, image), *initrd, *files]


def _subject(image: Image) -> Component:
    """The image itself, with its artifacts as parts and their digests."""
    parts = [
        Component(
            type=ComponentType.FILE,
            name=artifact.name,
            bom_ref=f"artifact:{artifact.name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_512, content=artifact.sha512)],
        )
        for artifact in image.artifacts
    ]
    return Component(
        type=ComponentType.CONTAINER
        if image.name.startswith("container")
        else ComponentType.OPERATING_SYSTEM,
        name=f"finch-{image.name}",
        version=f"{image.system.version}-{image.arch}",
        bom_ref=f"image:{image.name}",
        supplier=OrganizationalEntity(name="Finch"),
        components=parts,
    )


def _packages(installed: Iterable[Installed], image: Image, prefix: str = "") -> list[Component]:
    """A component for each package; prefix tells apart the same package in two places."""
    factory = LicenseFactory()
    components = []
    for package in installed:
        url = purl(package, image.system)
        file = f"{package.name}-{package.version.rpartition(':')[2]}.{package.architecture}.rpm"
        found = [factory.make_from_string(text) for text in package.licences]
        # A component has one expression, or any number of licences that are none.
        if len(found) > 1:
            found = [
                factory.make_with_name(one.value) if isinstance(one, LicenseExpression) else one
                for one in found
            ]
        components.append(
            Component(
                type=ComponentType.LIBRARY,
                name=package.name,
                version=package.version,
                purl=url,
                bom_ref=prefix + url.to_string(),
                licenses=found,
                properties=_properties(package, is_own=file in image.rpms),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image.rpms[file])]
                if file in image.rpms
                else [],
                external_references=[
                    ExternalReference(
                        type=ExternalReferenceType.WEBSITE, url=XsUri(package.homepage)
                    )
                ]
                if package.homepage
                else [],
            )
        )
    return components


def _properties(package: Installed, *, is_own: bool) -> list[Property]:
    return [
        *([Property(name=SIZE, value=str(package.size))] if package.size else []),
        *([Property(name=ORIGIN, value="not the distribution's")] if is_own else []),
    ]


def _initrd(image: Image) -> Component:
    """What the UKI carries beside the kernel: a system with packages of its own."""
    return Component(
        type=ComponentType.OPERATING_SYSTEM,
        name="initrd",
        bom_ref="initrd",
        components=_packages(image.initrd, image, "initrd:"),
    )


def _file(path: str, digest: str) -> Component:
    return Component(
        type=ComponentType.FILE,
        name=path,
        bom_ref=f"file:{path}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )


def _serial(images: Sequence[Image]) -> uuid.UUID:
    """A serial number of the contents: it changes with the artifacts and with nothing else."""
    texts = [
        text for image in images for text in (image.name, *(a.sha512 for a in image.artifacts))
    ]
    return uuid.uuid5(NAMESPACE, " ".join(texts))
