"""Describes a finished build in out/: bills of materials, provenance, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from scripts import catalog, origin
from scripts.build.manifest import MKOSI_PIN, Manifest
from scripts.build.workshop import Workshop
from scripts.description import inventory, provenance, report, sbom, singles
from scripts.description.inventory import Installed
from scripts.emulation import emulators
from scripts.mkosi.pin import Pin
from scripts.packages import thirdparty
from scripts.stages import inputs, plan
from scripts.stages.artifacts import PROVENANCE, SBOM
from scripts.stages.inputs import Input, Kind
from scripts.stages.records import Package, Record, outdated
from scripts.system.files import write_text


def write(shop: Workshop, records: Mapping[str, Record], manifest: Manifest) -> None:
    """Describe the images that have artifacts in out/.

    records has every finished stage by name. An image keeps the description that it has if one of
    its dependencies has been rebuilt since. Raises HarnessError if the package database of an image
    cannot be read, OSError if a description cannot be written.
    """
    root, out = shop.options.folders.root, shop.options.artifacts
    images = _Describer(shop, records).images()
    if not images:
        return
    for image in images:
        write_text(out / f"{image.name}.{SBOM}", sbom.to_json(image))
    write_text(out / SBOM, sbom.to_json(*images))
    checkout = origin.Checkout.of(root)
    if not checkout.commit:
        shop.progress.say(f"the commit of {root} is unknown: {checkout.reason}")
    text = provenance.to_json(
        [artifact for image in images for artifact in image.artifacts],
        manifest,
        _added(records),
        _packages(images),
        Pin.read(root / MKOSI_PIN),
        checkout,
        shop.options.builder,
        max(image.made for image in images),
    )
    write_text(out / PROVENANCE, text)
    report.write(out)


class _Describer:
    """Finds out what the images of one build hold."""

    def __init__(self, shop: Workshop, records: Mapping[str, Record]) -> None:
        self._shop = shop
        self._root = shop.options.folders.root
        self._records = records
        self._trees: dict[str, list[Installed]] = {}

    def images(self) -> list[sbom.Image]:
        """Return the images whose artifacts in out/ belong to the kept stages."""
        return [self._image(name) for name in catalog.IMAGES if self._is_current(name)]

    def _is_current(self, name: str) -> bool:
        record = self._records.get(name)
        if not record or not record.artifacts or any(outdated(self._root, name, self._records)):
            return False
        return all(
            artifact.stands_in(self._shop.options.artifacts) for artifact in record.artifacts
        )

    def _image(self, name: str) -> sbom.Image:
        record = self._records[name]
        below = _below(self._root, name)
        tree, installed = self._installed(below)
        held = [one for stage in below for one in self._records[stage].inputs]
        return sbom.Image(
            name=name,
            arch=self._shop.options.target.arch.name,
            system=inventory.system(tree),
            artifacts=record.artifacts,
            packages=[
                *_with_digests(installed, [self._records[stage] for stage in below]),
                *_known(record.packages, installed),
            ],
            initrd=_known(self._initrd(name), installed),
            files=self._single_files(tree, [*held, *record.inputs]),
            rpms=inputs.digests(held, Kind.RPM),
            made=max(artifact.mtime_ns for artifact in record.artifacts) // 10**9,
        )

    def _single_files(self, tree: Path, held: Sequence[Input]) -> list[sbom.SingleFile]:
        """Return the files without a package in an image whose stages had the inputs held.

        tree is the image's root file system, or that of an image below it. A file of a later stage
        replaces one of the same path.
        """
        options = self._shop.options
        arch, folders = options.target.arch, options.folders
        table = emulators.EmulationTable.read(folders.root / emulators.TABLE)
        kept = emulators.find(folders.root, folders.work, arch, options.sources.emulators)
        has_pins = options.target.distribution.has_rpms
        found = [
            *singles.emulators(tree, arch, table, kept),
            *singles.added(held, thirdparty.single_files(options) if has_pins else {}),
            *singles.ours(held, options.target.distribution.mkosi),
        ]
        return list({one.path: one for one in found}.values())

    def _installed(self, below: Sequence[str]) -> tuple[Path, list[Installed]]:
        """Return the newest kept tree among the stages of below, and the packages in it."""
        places = self._shop.places
        stage = next(one for one in reversed(below) if (places.stage(one) / one).is_dir())
        tree = places.stage(stage) / stage
        if stage not in self._trees:
            self._trees[stage] = inventory.of_tree(tree, self._shop.tools)
        return tree, self._trees[stage]

    def _initrd(self, name: str) -> Sequence[Package]:
        """Return the packages of the initrd that the image carries, if it carries one."""
        if catalog.INITRD not in plan.dependencies(self._root, name):
            return ()
        return self._records[catalog.INITRD].packages


def _below(root: Path, name: str) -> list[str]:
    """Return the stages that the image's root file system is built on, the lowest first."""
    needs = [need for need in plan.dependencies(root, name) if need != catalog.INITRD]
    return [one for need in needs for one in (*_below(root, need), need)]


def _known(packages: Sequence[Package], installed: Sequence[Installed]) -> list[Installed]:
    """Return packages with the details of those in installed that have the same version."""
    known = {(package.name, package.version): package for package in installed}
    kind = installed[0].kind
    return [
        replace(
            known.get(
                (package.name, package.version),
                Installed(kind, package.name, package.version, package.architecture, source=""),
            ),
            sha256=package.sha256,
            repository=package.repository,
        )
        for package in packages
    ]


def _with_digests(installed: Sequence[Installed], below: Sequence[Record]) -> list[Installed]:
    """Return installed with the sha256 and repository that the records of the stages noted."""
    noted = {package.key: package for record in below for package in record.packages}
    unknown = Package("unknown", "0", "")
    found = [(one, noted.get(one.key, unknown)) for one in installed]
    return [replace(one, sha256=of.sha256, repository=of.repository) for one, of in found]


def _packages(images: Sequence[sbom.Image]) -> dict[str, str]:
    """Return the sha256, by package URL, of the distribution's packages in images."""
    return {
        sbom.purl(package, image.system).to_string(): package.sha256
        for image in images
        for package in (*image.packages, *image.initrd)
        if package.sha256 and not image.own_digest(package)
    }


def _added(records: Mapping[str, Record]) -> dict[str, str]:
    """Return the sha256, by label, of the files and RPMs that are not the distribution's."""
    return inputs.to_labels(
        one for record in records.values() for one in record.inputs if _is_added(one)
    )


def _is_added(one: Input) -> bool:
    return one.kind in {Kind.FILE, Kind.RPM}
