"""Software bills of materials of images, as CycloneDX JSON."""

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
from cyclonedx.model.license import License, LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from scripts import catalog
from scripts.description.inventory import Installed, System
from scripts.stages.artifacts import Artifact
from scripts.stages.records import rpm_name

# The namespace of serial numbers: equal contents get equal serial numbers (RFC 9562, 5.5).
NAMESPACE = uuid.UUID("0e9c1a55-7f0a-4b0e-9f6c-2f6a1c5a6f10")

# The property that holds the installed size of a package, in bytes.
SIZE = "finch:installed-size"

# The property of a package that was built or downloaded for these images, or that comes from a
# further repository of the distribution. Its package URL names the distribution, but the
# distribution's advisories may not apply to it.
ORIGIN = "finch:origin"


@dataclass(frozen=True)
class SingleFile:
    """A file of an image that belongs to no package, by its absolute path.

    version, purl and licences (an SPDX expression) are those of the project that it comes from, ""
    if they are not known. origin says in a few words how it came into the image.
    """

    path: str
    sha256: str
    version: str = ""
    purl: str = ""
    licences: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Image:
    """An image, with everything that its bill of materials says about it.

    packages are those of its root file system, initrd those of its initrd. files are those that
    belong to no package. rpms has the sha256, by file name, of RPMs that the
    distribution does not provide. made is when the image was finished, in seconds since 1970.
    """

    name: str
    arch: str
    system: System
    artifacts: Sequence[Artifact]
    packages: Sequence[Installed]
    initrd: Sequence[Installed] = ()
    files: Sequence[SingleFile] = ()
    rpms: Mapping[str, str] = field(default_factory=dict)
    made: float = 0

    def own_digest(self, package: Installed) -> str:
        """Return the sha256 of a package that the distribution does not provide, else ""."""
        return self.rpms.get(rpm_name(package.name, package.version, package.architecture), "")


def to_json(*images: Image) -> str:
    """Return the bill of materials of one image, or of several from one build (CycloneDX 1.6)."""
    text: str = JsonV1Dot6(_bom(images)).output_as_string(indent=2)
    return text + "\n"


def purl(package: Installed, system: System) -> PackageURL:
    """Return the package URL of a package (https://github.com/package-url/purl-spec)."""
    version, qualifiers = package.version, {"arch": package.architecture, "distro": system.distro}
    if package.kind == "rpm" and ":" in version:
        qualifiers["epoch"], _, version = version.partition(":")
    if package.repository:
        qualifiers["repository_id"] = package.repository
    if package.source and package.source != package.name:
        qualifiers["upstream"] = package.source  # scanners look up advisories by this name
    return PackageURL(package.kind, system.id, package.name, version, qualifiers)


def _bom(images: Sequence[Image]) -> Bom:
    subjects = [_subject(image) for image in images]
    parts = [_parts(image) for image in images]
    known: dict[str, Component] = {}  # a part of several images is listed once
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
    """Return the component that stands for all images of the build together."""
    return Component(
        type=ComponentType.OPERATING_SYSTEM,
        name="finch-os-images",
        version=f"{image.system.version}-{image.arch}",
        bom_ref="images",
        supplier=OrganizationalEntity(name="Finch"),
    )


def _parts(image: Image) -> list[Component]:
    """Return the components that an image is made of."""
    system = Component(
        type=ComponentType.OPERATING_SYSTEM,
        name=image.system.id,
        version=image.system.version,
        description=image.system.name or None,
        bom_ref=f"os:{image.system.distro}",
    )
    initrd = [_initrd(image)] if image.initrd else []
    files = [_file(one) for one in sorted(image.files, key=lambda one: one.path)]
    return [system, *_packages(image.packages, image), *initrd, *files]


def _subject(image: Image) -> Component:
    """Return the component that stands for an image, with its artifacts as parts."""
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
        if image.name == catalog.CONTAINER
        else ComponentType.OPERATING_SYSTEM,
        name=f"finch-{image.name}",
        version=f"{image.system.version}-{image.arch}",
        bom_ref=f"image:{image.name}",
        supplier=OrganizationalEntity(name="Finch"),
        components=parts,
    )


def _packages(installed: Iterable[Installed], image: Image, prefix: str = "") -> list[Component]:
    """Return a component for each package. Their references begin with prefix."""
    factory = LicenseFactory()
    return [_package(package, image, prefix, factory) for package in installed]


def _package(package: Installed, image: Image, prefix: str, factory: LicenseFactory) -> Component:
    url = purl(package, image.system)
    own, home = image.own_digest(package), package.homepage
    digest = own or package.sha256
    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        purl=url,
        bom_ref=prefix + url.to_string(),
        licenses=_licences(package.licences, factory),
        properties=_properties(package, is_own=own != ""),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else [],
        external_references=[ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(home))]
        if home
        else [],
    )


def _licences(texts: Sequence[str], factory: LicenseFactory) -> list[License]:
    """Return one SPDX expression, or any number of licences of which none is an expression."""
    found = [factory.make_from_string(text) for text in texts if text.strip()]
    if len(found) == 1:
        return found
    return [
        factory.make_with_name(one.value) if isinstance(one, LicenseExpression) else one
        for one in found
    ]


def _properties(package: Installed, *, is_own: bool) -> list[Property]:
    return [
        *([Property(name=SIZE, value=str(package.size))] if package.size else []),
        *(
            [Property(name=ORIGIN, value=origin)]
            if (origin := _origin(package, is_own=is_own))
            else []
        ),
    ]


def _origin(package: Installed, *, is_own: bool) -> str:
    if is_own:
        return "not the distribution's"
    return f"the distribution's repository {package.repository}" if package.repository else ""


def _initrd(image: Image) -> Component:
    """Return the component for the initrd in the UKI, a system with packages of its own."""
    return Component(
        type=ComponentType.OPERATING_SYSTEM,
        name=catalog.INITRD,
        bom_ref=catalog.INITRD,
        components=_packages(image.initrd, image, f"{catalog.INITRD}:"),
    )


def _file(one: SingleFile) -> Component:
    # Images of one build may hold different files at the same path.
    return Component(
        type=ComponentType.FILE,
        name=one.path,
        version=one.version or None,
        purl=PackageURL.from_string(one.purl) if one.purl else None,
        bom_ref=f"file:{one.path}:{one.sha256[:16]}",
        licenses=_licences([one.licences] if one.licences else [], LicenseFactory()),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one.sha256)],
        properties=[Property(name=ORIGIN, value=one.origin)] if one.origin else [],
    )


def _serial(images: Sequence[Image]) -> uuid.UUID:
    """Return the serial number, which changes only if the artifacts change."""
    texts = [
        text for image in images for text in (image.name, *(a.sha512 for a in image.artifacts))
    ]
    return uuid.uuid5(NAMESPACE, " ".join(texts))
