"""What stands in out/: finished files, their digests, and the manifest that describes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.system.digests import file_digest
from scripts.system.files import write_text

# By image: what of mkosi's output is an artifact, under its final name.
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "os-image": ("os-image.raw", "os-image.efi", "os-image.qcow2"),
    "container-with-kernel": ("container-with-kernel", "container-with-kernel.tar"),
    "wsl-rootfs": ("wsl-rootfs.tar.gz", "wsl-rootfs.wsl"),
}

CHECKSUMS = "SHA512SUMS"
MANIFEST = "manifest.json"
SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.intoto.json"
REPORT = "report.html"
BOOT_TEST = "boot-test/result.json"

# What describes a build as a whole; of each image there is a bill of materials besides.
DESCRIPTIONS = (SBOM, PROVENANCE, REPORT)


@dataclass(frozen=True)
class Artifact:
    """A finished file, or a file of a finished folder.

    name is its path below out/<distribution>/<arch>/, size in bytes, mtime_ns
    its modification time in nanoseconds (so that a file somebody has written
    to is noticed without reading it), sha512 in hex.
    """

    name: str
    size: int
    mtime_ns: int
    sha512: str

    @classmethod
    def of(cls, folder: Path, name: str) -> Artifact:
        """The artifact called name in folder; its file is read once."""
        path = folder / name
        stat = path.stat()
        return cls(name, stat.st_size, stat.st_mtime_ns, file_digest(path, "sha512"))

    def stands_in(self, out: Path) -> bool:
        """Whether the file is in out, as it was made."""
        try:
            stat = (out / self.name).stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)

    @property
    def output(self) -> str:
        """The output (a file or a folder) that this is, or belongs to."""
        return self.name.partition("/")[0]


def describe(folder: Path, outputs: Iterable[str]) -> list[Artifact]:
    """The artifacts that outputs in folder come to: each a file, or a file of a folder."""
    names: list[str] = []
    for output in outputs:
        path = folder / output
        if path.is_dir():
            names += [
                p.relative_to(folder).as_posix() for p in sorted(path.rglob("*")) if p.is_file()
            ]
        else:
            names.append(output)
    # hashlib lets go of the interpreter's lock, so that each thread has a core.
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(Artifact.of, folder), names))


def write_checksums(out: Path, artifacts: Iterable[Artifact]) -> None:
    """Write SHA512SUMS over all artifacts and a .sha512sum beside each output (`sha512sum -c`)."""
    lines: dict[str, list[str]] = {}
    for artifact in artifacts:
        lines.setdefault(artifact.output, []).append(f"{artifact.sha512}  {artifact.name}\n")
    for output, own in lines.items():
        write_text(out / f"{output}.sha512sum", "".join(own))
    write_text(out / CHECKSUMS, "".join("".join(own) for own in lines.values()))


def write_manifest(out: Path, manifest: Mapping[str, Any], artifacts: Iterable[Artifact]) -> None:
    """Write manifest.json: what manifest says, and the artifacts."""
    listed = [
        {key: value for key, value in asdict(artifact).items() if key != "mtime_ns"}
        for artifact in artifacts
    ]
    text = json.dumps({**manifest, "artifacts": listed}, indent=2, ensure_ascii=False)
    write_text(out / MANIFEST, text + "\n")


# Options that name pins of somebody's own, as manifest.json calls them.
PACKAGES = "packages"
THIRD_PARTY = "third_party_pins"


@dataclass(frozen=True)
class Contents:
    """What manifest.json says of the base beside the distribution's own packages.

    rpms are the file names of the RPMs in it that are not the distribution's, held the names of the
    packages and programs that were added. left_out is what it was built without: what
    --allow-missing named and is not held, and PACKAGES for packages of our own. other_pins are
    those of PACKAGES and THIRD_PARTY that were given.
    """

    rpms: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    other_pins: frozenset[str] = frozenset()


def contents(out: Path) -> Contents:
    """What the manifest in the folder out says of the base.

    Nothing where there is no manifest, or one that this version cannot read.
    """
    try:
        manifest = json.loads((out / MANIFEST).read_text())
        added, options = manifest["additions"], manifest["options"]
        files = {
            f"{package['name']}-{package['version']}.{package['architecture']}.rpm"
            for package in manifest["images"]["base"]["packages"]
        }
        wanted = {rpm for rpm in added["rpms"] if rpm.rsplit("-", 2)[0] in added["packages"]}
        held = {*added["packages"], *(Path(path).name for path in added["files"])}
        without = {PACKAGES} if options.get("without_packages") else set()
        return Contents(
            rpms=frozenset(wanted | files.intersection(added["rpms"])),
            held=frozenset(held),
            left_out=frozenset(without | (set(options.get("allow_missing", ())) - held)),
            other_pins=frozenset({PACKAGES, THIRD_PARTY} & options.keys()),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Contents()
