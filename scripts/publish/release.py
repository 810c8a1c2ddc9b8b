"""What a release consists of: which builds may be published, under which names, and its manifest.

Names and manifest are those of finch-core, whose updater reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from scripts import arch as arches
from scripts import catalog
from scripts.arch import Arch
from scripts.build import manifest as manifests
from scripts.catalog import DISK_IMAGE
from scripts.mkosi.pin import Pin
from scripts.packages import recipes, thirdparty
from scripts.stages import places, plan
from scripts.stages.artifacts import BOOT_TEST, MANIFEST, OUTPUTS, PROVENANCE, REPORT, SBOM
from scripts.stages.plan import Target
from scripts.stages.records import Record, outdated
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, UsageError

# What the distribution is called in the names of files.
PRODUCTS = {"amazonlinux": "al2023"}

# By artifact: the name it is published under. arch is mkosi's, run the number of CI's run.
NAMES: Mapping[str, str] = {
    "os-image.qcow2": "finch-{product}-os-image-{arch}-{run}.qcow2",
    "wsl-rootfs.tar.gz": "common/{arch}/finch-{product}-rootfs-{arch}-{run}.tar.gz",
    "wsl-rootfs.wsl": "common/{arch}/finch-{product}-rootfs-{arch}-{run}.wsl",
    "container-with-kernel.tar": "finch-{product}-container-with-kernel-{arch}-{run}.tar",
}
DESCRIPTIONS: Mapping[str, str] = {
    name: f"finch-{{product}}-{{arch}}-{{run}}.{name}" for name in (SBOM, PROVENANCE, REPORT)
}
TAG = "{arch}-with-kernel-{run}"

# Who downloads what, in the words of Go's GOOS.
PLATFORMS: Mapping[str, str] = {"os-image.qcow2": "darwin", "wsl-rootfs.tar.gz": "windows"}

CONTAINER = "container-with-kernel"

# The options of a build that make it another than everybody's, by their names in manifest.json. A
# mirror does not: what comes from there is signed, or its digest is known.
ALTERING = ("signing_key", "third_party_pins", "packages", "without_packages", "allow_missing")

# Among these, files of the checkout that an option may name as well.
OWN = {
    "signing_key": f"{recipes.FOLDER}/{recipes.AMAZON_KEY}",
    "third_party_pins": thirdparty.PINS,
}

# The updater compares releases by this number.
RUN_ID = re.compile(r"[0-9]{1,20}")
RUN_OF_NAME = re.compile(rf"-({RUN_ID.pattern})(\.[a-z0-9.]+)?$")


@dataclass(frozen=True)
class Build:
    """A finished build in the folder out; manifest is what its manifest.json says."""

    out: Path
    manifest: Mapping[str, Any]

    @property
    def distribution(self) -> str:
        """The distribution."""
        return str(self.manifest["distribution"])

    @property
    def product(self) -> str:
        """What the distribution is called in the names of files."""
        return PRODUCTS.get(self.distribution, f"{self.distribution}-{self.manifest['release']}")

    @property
    def arch(self) -> Arch:
        """The architecture."""
        return arches.parse(self.manifest["arch"])

    @property
    def sha512(self) -> Mapping[str, str]:
        """The sha512 of each file, by name, as it was built."""
        return {entry["name"]: entry["sha512"] for entry in self.manifest["artifacts"]}

    @property
    def records(self) -> Mapping[str, Record]:
        """How each stage was built, by name."""
        return {
            name: Record(image["stage_key"], image["inputs"], image["seconds"], (), ())
            for name, image in self.manifest["images"].items()
        }

    @property
    def images(self) -> Sequence[str]:
        """The images that have artifacts in it."""
        outputs = {name.partition("/")[0] for name in self.sha512}
        return [name for name, own in OUTPUTS.items() if not outputs.isdisjoint(own)]

    def named(self, template: str, run: str) -> str:
        """The name of a file, by its template."""
        return template.format(product=self.product, arch=self.arch.mkosi, run=run)


@dataclass(frozen=True)
class Upload:
    """A file, and the key it is published under; sha512 in hex, size in bytes.

    replaces: other bytes may stand under its key, as under that of manifest.json.
    """

    source: Path
    key: str
    sha512: str
    size: int
    replaces: bool = False

    @classmethod
    def of(cls, source: Path, key: str, *, replaces: bool = False) -> Upload:
        """The upload of the file source, which is read once."""
        digest = file_digest(source, "sha512")
        return cls(source, key, digest, source.stat().st_size, replaces)


@dataclass(frozen=True)
class Image:
    """A container image: its OCI layout, the tag it gets, and the digest of its manifest."""

    layout: Path
    tag: str
    arch: Arch
    digest: str


def load(out: Path) -> Build:
    """The build in the folder out. Raises UsageError where none is finished there."""
    path = out / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        build = Build(out, manifest)
        _ = build.arch, build.product, build.sha512, build.records
    except FileNotFoundError:
        raise UsageError(
            f"there is no finished build in {out}", hint="./nox -s build makes one"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise HarnessError(f"{path} is no manifest of a build: {error!r}") from error
    return build


@dataclass(frozen=True)
class Allowed:
    """What may be published that else is refused.

    release is one that the checkout does not pin, "" for the one that it pins; unbooted what has
    not booted, altered what was built with options that others would build without.
    """

    release: str = ""
    unbooted: bool = False
    altered: bool = False


def check(build: Build, root: Path, allowed: Allowed) -> None:
    """Raise HarnessError unless build is whole, fresh and as everybody's, and has booted.

    Fresh means of the checkout at root as it is: an image that another configuration would give is
    not the one that people will look for in it. Of the package sources, which may differ from
    machine to machine, nothing is asked.
    """
    _check_files(build)
    _check_fresh(
        build,
        root,
        allowed.release or places.release_of(root, catalog.DISTRIBUTIONS[build.distribution]),
    )
    _check_described(build)
    if not allowed.altered:
        _check_unaltered(build)
    if not allowed.unbooted:
        _check_booted(build)


def _check_files(build: Build) -> None:
    if not any(name in build.sha512 for name in NAMES):
        raise HarnessError(f"{build.out} holds nothing that is published")
    for name, sha512 in build.sha512.items():
        path = build.out / name
        if _is_published(name) and not path.is_file():
            raise HarnessError(f"{path} is gone", hint="build it again")
        if _is_published(name) and file_digest(path, "sha512") != sha512:
            raise HarnessError(f"{path} was written to since it was built", hint="build it again")
    for name in DESCRIPTIONS:
        if not (build.out / name).is_file():
            raise HarnessError(f"{build.out / name} is gone", hint="build again")


def _is_published(name: str) -> bool:
    return name in NAMES or name.startswith(f"{CONTAINER}/")


def _check_fresh(build: Build, root: Path, release: str) -> None:
    own = build.manifest["release"]
    if own != release:
        raise HarnessError(
            f"{build.out} is of release {own}, where {release} is wanted",
            hint=f"build it again, or publish with -- --release {own}",
        )
    _check_stages(build, root)
    now = {f"mkosi/{name}": digest for name, digest in _patches(build, root).items()}
    now |= manifests.pins(root, catalog.DISTRIBUTIONS[build.distribution])
    before = {
        f"mkosi/{name}": digest for name, digest in build.manifest["mkosi"]["patches"].items()
    }
    before |= build.manifest.get("pins", {})
    if before != now:
        raise _stale(f"{build.out}", plan.difference(before, now))


def _check_stages(build: Build, root: Path) -> None:
    target = Target(build.distribution, build.arch, {})
    for stage in plan.plan(root, build.images, target):
        record = build.records.get(stage.name)
        before, now = plan.of_tree(record.inputs if record else {}), plan.of_tree(stage.inputs)
        if before != now:
            raise _stale(f"{stage.name} in {build.out}", plan.difference(before, now))
    for wanted in build.images:
        for name, need in outdated(root, wanted, build.records):
            raise _stale(f"{name} in {build.out}", f"{need} was built anew since")


def _patches(build: Build, root: Path) -> dict[str, str]:
    """The sha256 of each patch at root that the build's mkosi should have, by name.

    Some may be missing from it, which only a full source tree takes.
    """
    optional = set(Pin.read(root / manifests.MKOSI_PIN).full_tree)
    optional -= build.manifest["mkosi"]["patches"].keys()
    found = sorted((root / "mkosi").glob("*.patch"))
    return {path.name: file_digest(path) for path in found if path.name not in optional}


def _stale(what: str, reason: str) -> HarnessError:
    return HarnessError(f"{what} is stale: {reason}", hint="build it again")


def _check_unaltered(build: Build) -> None:
    given, pins = build.manifest["options"], build.manifest["pins"]
    for name in ALTERING:
        if name in given and given[name] != pins.get(OWN.get(name, "")):
            raise HarnessError(
                f"{build.out} was built with --{name.replace('_', '-')}, "
                "and so is not what others would build from this checkout",
                hint="build it without, or -- --allow-altered publishes it all the same",
            )


def _check_described(build: Build) -> None:
    """Raise HarnessError unless the provenance is of the very files that are published."""
    path = build.out / PROVENANCE
    again = f"remove {path} and build again"
    try:
        subjects = json.loads(path.read_text())["subject"]
        described = {subject["digest"]["sha512"] for subject in subjects}
    except (ValueError, KeyError, TypeError) as error:
        raise HarnessError(f"{path} is no provenance: {error!r}", hint=again) from error
    for name, sha512 in build.sha512.items():
        if _is_published(name) and sha512 not in described:
            raise HarnessError(f"{path} is of another {name} than this one", hint=again)


def _check_booted(build: Build) -> None:
    if DISK_IMAGE not in build.sha512:
        return
    again = f"./nox -s \"boot-test(arch='{build.arch}')\" -- --distribution {build.distribution}"
    try:
        result = json.loads((build.out / BOOT_TEST).read_text())
        passed, reason, disk = result["passed"], result["reason"], result["disk"]
    except (OSError, ValueError, KeyError):
        raise HarnessError(
            f"the os-image in {build.out} has not been booted",
            hint=f"{again}; -- --allow-unbooted publishes it all the same",
        ) from None
    if disk != build.sha512[DISK_IMAGE]:
        raise HarnessError(
            f"the boot test in {build.out} was of another os-image than this one", hint=again
        )
    if not passed:
        raise HarnessError(
            f"the os-image in {build.out} failed its boot test: {reason}",
            hint="-- --allow-unbooted publishes it all the same",
        )


def uploads(build: Build, run: str) -> list[Upload]:
    """The files of build that are published, those that people download first."""
    found = [
        Upload(
            build.out / name,
            build.named(template, run),
            build.sha512[name],
            (build.out / name).stat().st_size,
        )
        for name, template in NAMES.items()
        if name in build.sha512
    ]
    described = [
        Upload.of(build.out / name, build.named(template, run))
        for name, template in DESCRIPTIONS.items()
    ]
    return [*found, *described]


def image(build: Build, run: str) -> Image | None:
    """The container image of build, None where it has none."""
    layout = build.out / CONTAINER
    if not any(name.startswith(f"{CONTAINER}/") for name in build.sha512):
        return None
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    return Image(layout, build.named(TAG, run), build.arch, entry["digest"])


def checksums(files: Iterable[Upload]) -> str:
    """SHA512SUMS over files, under the names they are published with."""
    return "".join(f"{file.sha512}  {file.key}\n" for file in files)


def manifest(
    builds: Iterable[Build],
    images: Iterable[Image],
    *,
    run: str,
    base_url: str,
    repository: str,
    now: datetime,
    days: int,
) -> dict[str, Any]:
    """The release manifest, which is good for days from now on.

    digest repeats sha512 the way finch-core's updater reads it.
    """
    published = [
        {
            "platform": platform,
            "arch": build.arch.debian,  # as Go's GOARCH
            "url": f"{base_url.rstrip('/')}/{build.named(NAMES[name], run)}",
            "sha512": build.sha512[name],
            "digest": f"sha512:{build.sha512[name]}",
        }
        for build in builds
        for name, platform in PLATFORMS.items()
        if name in build.sha512
    ]
    return {
        "published_at": _stamp(now),
        "expires_at": _stamp(now + timedelta(days=days)),
        "artifacts": published,
        "container_images": [
            {
                "arch": one.arch.debian,
                "image": f"{repository}:{one.tag}",
                "digest": one.digest,
            }
            for one in images
            if repository
        ],
    }


def same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two release manifests tell of the same release, whenever they were written."""
    dates = ("published_at", "expires_at")
    return _without(ours, dates) == _without(theirs, dates)


def newest_run(text: bytes) -> int:
    """The largest number of a run in the names that a release manifest tells of, 0 for none."""
    try:
        data = json.loads(text)
        names = [one["url"] for one in data["artifacts"]]
        names += [one["image"] for one in data["container_images"]]
        found = [RUN_OF_NAME.search(name) for name in names]
    except (ValueError, KeyError, TypeError):
        return 0
    return max((int(match[1]) for match in found if match), default=0)


def _without(data: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
