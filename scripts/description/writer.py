"""Describes a finished build in out/: bills of materials, provenance, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts import origin
from scripts.build.manifest import MKOSI_PIN
from scripts.description import inventory, provenance, report, sbom
from scripts.description.inventory import Installed
from scripts.mkosi.pin import Pin
from scripts.mkosi.sandbox import Tools
from scripts.options import Options
from scripts.stages import plan
from scripts.stages.artifacts import OUTPUTS, PROVENANCE, SBOM
from scripts.stages.places import Places
from scripts.stages.records import Package, Record, outdated
from scripts.system.files import write_text

INITRD = "initrd"


def write(
    opts: Options,
    at: Places,
    tools: Tools,
    records: Mapping[str, Record],
    manifest: Mapping[str, Any],
) -> None:
    """Write all of it for the images of records that have artifacts; manifest is manifest.json's.

    An image keeps the description that it has where what it stood on has been built anew since.
    Raises HarnessError where the package database of an image cannot be read.
    """
    finished = [
        name
        for name in OUTPUTS
        if _is_current(name, opts.folders.root, records)
        and all(artifact.stands_in(opts.artifacts) for artifact in records[name].artifacts)
    ]
    if not finished:
        return
    trees: dict[str, list[Installed]] = {}
    images = [_image(name, opts, at, tools, records, trees) for name in finished]
    for image in images:
        write_text(opts.artifacts / f"{image.name}.{SBOM}", sbom.to_json(image))
    write_text(opts.artifacts / SBOM, sbom.to_json(*images))
    standing = [artifact for image in images for artifact in image.artifacts]
    text = provenance.to_json(
        standing,
        manifest,
        {name: digest for record in records.values() for name, digest in _added(record).items()},
        Pin.read(opts.folders.root / MKOSI_PIN),
        origin.Checkout.of(opts.folders.root),
        opts.builder,
        max(image.made for image in images),
    )
    write_text(opts.artifacts / PROVENANCE, text)
    report.write(opts.artifacts)


def _is_current(name: str, root: Path, records: Mapping[str, Record]) -> bool:
    """Whether what the image name was made from is what is kept now."""
    return name in records and not any(outdated(root, name, records))


def _image(
    name: str,
    opts: Options,
    at: Places,
    tools: Tools,
    records: Mapping[str, Record],
    trees: dict[str, list[Installed]],
) -> sbom.Image:
    below = _below(opts.folders.root, name)
    # The tree that the image was made from is the newest one that is kept.
    stage = next(one for one in reversed(below) if (at.stage(one) / one).is_dir())
    tree = at.stage(stage) / stage
    if stage not in trees:
        trees[stage] = inventory.of_tree(tree, tools)
    artifacts = records[name].artifacts
    inputs = {key: text for one in below for key, text in records[one].inputs.items()}
    packages = [*trees[stage], *_known(records[name].packages, trees[stage])]
    in_uki = (
        records[INITRD].packages if INITRD in plan.dependencies(opts.folders.root, name) else ()
    )
    return sbom.Image(
        name=name,
        arch=opts.target.arch.name,
        system=inventory.system(tree),
        artifacts=artifacts,
        packages=packages,
        initrd=_known(in_uki, trees[stage]),
        files=sbom.own(inputs, sbom.FILE_INPUT),
        rpms=sbom.own(inputs, sbom.RPM_INPUT),
        made=max(artifact.mtime_ns for artifact in artifacts) // 10**9,
    )


def _below(root: Path, name: str) -> list[str]:
    """The stages that the root file system of the image name stands on, the lowest first."""
    needs = [need for need in plan.dependencies(root, name) if need != INITRD]
    return [one for need in needs for one in (*_below(root, need), need)]


def _known(packages: Sequence[Package], installed: Sequence[Installed]) -> list[Installed]:
    """Packages that mkosi lists by name and version, with what is known of the same elsewhere."""
    known = {(package.name, package.version): package for package in installed}
    kind = installed[0].kind
    return [
        known.get(
            (package.name, package.version),
            Installed(kind, package.name, package.version, package.architecture, source=""),
        )
        for package in packages
    ]


def _added(record: Record) -> dict[str, str]:
    """The files and RPMs among a stage's inputs that are not the distribution's."""
    kinds = (sbom.FILE_INPUT, sbom.RPM_INPUT)
    return {name: text for name, text in record.inputs.items() if name.startswith(kinds)}
