"""Describes the files of an image that belong to no package: where each comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

from packageurl import PackageURL

from scripts.arch import Arch
from scripts.description.sbom import SingleFile
from scripts.emulation.emulators import EmulationTable, Emulators
from scripts.options import BAKE
from scripts.packages.thirdparty import PinnedFile
from scripts.stages import configuration, inputs
from scripts.stages.inputs import Input, Kind
from scripts.system.digests import file_digest

# The licence of this repository (LICENSE).
OURS = "Apache-2.0"

SHA256_DIGITS = 64


def added(held: Iterable[Input], pins: Mapping[str, PinnedFile]) -> Iterator[SingleFile]:
    """Yield the files among the inputs held of an image's stages that a build adds by itself.

    pins has the pins of single files by path. If a file's digest is not the pinned one, the pins
    have changed since, and only its digest is known.
    """
    for path, digest in inputs.digests(held, Kind.FILE).items():
        pin = pins.get(path)
        if pin and digest in pin.sha256.values():
            origin = f"{pin.name}, third-party/pins.toml"
            yield SingleFile(path, digest, pin.version, pin.package_url, pin.licence, origin)
        else:
            yield SingleFile(path, digest)


def ours(held: Iterable[Input], distribution: str) -> Iterator[SingleFile]:
    """Yield the files that mkosi copied from this repository, as they were at that time.

    held are the inputs of the stages of an image, which is of distribution. Links are left out:
    they have no contents.
    """
    trees = (configuration.EXTRA, configuration.SKELETON, configuration.tree_of(distribution))
    for name, described in inputs.digests(held, Kind.CONFIGURATION).items():
        digest = described.split()[-1]
        folder, path = configuration.split(name)
        if folder in trees and len(digest) == SHA256_DIGITS and not described.startswith("->"):
            yield SingleFile(f"/{path}", digest, licences=OURS, origin=name)


def emulators(
    tree: Path, arch: Arch, table: EmulationTable, kept: Emulators | None
) -> Iterator[SingleFile]:
    """Yield the emulators in the tree of an image of arch, and what registers them.

    table lists the emulators, and kept has those that were obtained. An emulator in the tree has
    their version, licences and origin if it is the same file.
    """
    for one in table.foreign_to(arch):
        program, registration = (
            tree / path.lstrip("/") for path in (one.path, one.registration_path)
        )
        if program.is_file():
            digest = file_digest(program)
            is_kept = kept is not None and kept.digests.get(one.program) == digest
            described = _described(kept, one.program) if kept and is_kept else {}
            yield SingleFile(one.path, digest, **described)
        if registration.is_file():
            digest = file_digest(registration)
            yield SingleFile(
                one.registration_path, digest, licences=OURS, origin="binfmt/targets.toml"
            )


def _described(kept: Emulators, program: str) -> dict[str, str]:
    """Return the fields of a SingleFile for a program of kept."""
    if kept.source == BAKE:
        made = kept.table.bake
        (version, purl), licences = (made.commit, made.package_url), made.licences
        origin = f"{program} of docker buildx bake {made.reference} {made.target}"
    else:
        package = kept.table.debian
        (version, purl), licences = _package(kept), package.licences
        origin = f"{program} of Debian's {package.package}"
    return {"version": version, "purl": purl, "licences": licences, "origin": origin}


def _package(kept: Emulators) -> tuple[str, str]:
    """The version and the package URL of the package that emulators were taken from."""
    # apt names files <package>_<version>_<architecture>.deb, and escapes the colon of an epoch.
    name, version, architecture = (unquote(part) for part in Path(kept.package).stem.split("_"))
    qualifiers = {"arch": architecture, "upstream": kept.table.debian.source}
    if len(kept.table.debian.suites) == 1:
        qualifiers["distro"] = kept.table.debian.suites[0]
    return version, PackageURL("deb", "debian", name, version, qualifiers).to_string()
