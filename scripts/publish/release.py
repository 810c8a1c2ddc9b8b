"""What a release consists of: the builds that may be published, their names, and the manifest.

The names and the release manifest are in the form that finch-core's updater reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from scripts import catalog
from scripts.arch import Arch
from scripts.build import manifest as manifests
from scripts.build.manifest import Manifest
from scripts.catalog import Distribution
from scripts.mkosi.pin import Pin
from scripts.packages import recipes, thirdparty
from scripts.stages import inputs, places, plan
from scripts.stages.artifacts import BOOT_TEST, PROVENANCE, REPORT, SBOM, output_of
from scripts.stages.plan import StageTarget
from scripts.stages.records import Record, outdated
from scripts.system import strict
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError

# The name in the bucket of a copy of the newest release's manifest.
LATEST = "manifest.json"

# By description of a build: the template of its published name; see catalog.toml.
DESCRIPTIONS: Mapping[str, str] = {
    name: f"finch-{{product}}-{{arch}}-{{run}}.{name}" for name in (SBOM, PROVENANCE, REPORT)
}

# The template of the tag of a container image.
TAG = "{arch}-with-kernel-{run}"

# The options, by their names in the manifest of a build, that make a build differ from everybody
# else's. A mirror does not: what comes from it is signed, or its digest is known.
ALTERING = ("signing_key", "third_party_pins", "packages", "without_packages", "allow_missing")

# The files of the checkout that some of these options may also name.
OWN = {
    "signing_key": f"{recipes.FOLDER}/{recipes.AMAZON_KEY}",
    "third_party_pins": thirdparty.PINS,
}

# The updater compares releases by this number.
RUN_ID = re.compile(r"[0-9]{1,20}")
RUN_OF_NAME = re.compile(rf"-({RUN_ID.pattern})(\.[a-z0-9.]+)?$")

AGAIN = "build it again"


def published() -> Mapping[str, str]:
    """Map each artifact that is published to the template of its name.

    Images that people download come first.
    """
    images = sorted(catalog.IMAGES.values(), key=lambda image: not image.platforms)
    return {name: template for one in images for name, template in one.published.items()}


def platforms() -> Mapping[str, str]:
    """Map each artifact that people download to their platform, in the words of Go's GOOS."""
    images = catalog.IMAGES.values()
    return {name: platform for one in images for name, platform in one.platforms.items()}


@dataclass(frozen=True)
class Build:
    """A finished build in the folder out."""

    out: Path
    manifest: Manifest

    @classmethod
    def load(cls, out: Path) -> Build:
        """Return the build in out.

        Raises UsageError if there is none, HarnessError if its manifest is damaged or from a
        distribution that the catalogue does not have.
        """
        manifest = Manifest.read(out)
        if manifest.distribution not in catalog.DISTRIBUTIONS:
            raise HarnessError(
                f"{out} was built from an unknown distribution, {manifest.distribution!r}"
            )
        return cls(out, manifest)

    @property
    def distribution(self) -> Distribution:
        """The distribution that the images are made from."""
        return catalog.DISTRIBUTIONS[self.manifest.distribution]

    @property
    def arch(self) -> Arch:
        """The architecture of the images."""
        return self.manifest.arch

    @property
    def product(self) -> str:
        """What the distribution is called in the names of published files."""
        return self.distribution.product.format(release=self.manifest.release)

    @property
    def sha512(self) -> Mapping[str, str]:
        """The sha512 of each artifact, by name, when it was built."""
        return self.manifest.sha512

    @property
    def records(self) -> Mapping[str, Record]:
        """How each stage was built, by name, without artifacts."""
        return {
            name: Record(image.stage_key, image.inputs, image.seconds, (), image.packages)
            for name, image in self.manifest.images.items()
        }

    @property
    def images(self) -> Sequence[str]:
        """The names of the images that have artifacts in it."""
        outputs = {output_of(name) for name in self.sha512}
        return [name for name in catalog.IMAGES if not outputs.isdisjoint(catalog.artifacts(name))]

    def named(self, template: str, run: str) -> str:
        """Return the published name that template stands for; run is the number of the CI run."""
        return template.format(product=self.product, arch=self.arch.mkosi, run=run)


@dataclass(frozen=True)
class Upload:
    """A file and the key in the bucket that it goes to; sha512 in hex, size in bytes.

    replaces tells whether it may replace other bytes under its key.
    """

    source: Path
    key: str
    sha512: str
    size: int
    replaces: bool = False

    @classmethod
    def of(cls, source: Path, key: str, *, replaces: bool = False) -> Upload:
        """Return the upload of the file source. Reads the whole file."""
        digest = file_digest(source, "sha512")
        return cls(source, key, digest, source.stat().st_size, replaces)


@dataclass(frozen=True)
class Image:
    """A container image: its OCI layout, the tag that it gets, and the digest of its manifest."""

    layout: Path
    tag: str
    arch: Arch
    digest: str


@dataclass(frozen=True)
class Allowed:
    """Exceptions to what may be published.

    release is a release that the checkout does not pin ("" for the pinned one). unbooted allows
    images that have not passed a boot test. altered allows builds with options that make them
    differ from what others would build.
    """

    release: str = ""
    unbooted: bool = False
    altered: bool = False


def check(build: Build, root: Path, allowed: Allowed) -> None:
    """Raise HarnessError unless build is complete, up to date, unaltered and booted.

    Up to date means that the checkout at root, as it is now, would build the same: people will look
    there for how an image was made. The package sources are not compared, because they may
    differ from machine to machine.
    """
    _check_files(build)
    _check_fresh(build, root, allowed.release or places.release_of(root, build.distribution))
    _check_described(build)
    if not allowed.altered:
        _check_unaltered(build)
    if not allowed.unbooted:
        _check_booted(build)


def _check_files(build: Build) -> None:
    if published().keys().isdisjoint(build.sha512):
        raise HarnessError(f"{build.out} contains nothing to publish")
    for name, sha512 in build.sha512.items():
        path = build.out / name
        if _is_published(name) and not path.is_file():
            raise HarnessError(f"{path} is missing", hint=AGAIN)
        if _is_published(name) and file_digest(path, "sha512") != sha512:
            raise HarnessError(f"{path} has been changed since it was built", hint=AGAIN)
    for name in DESCRIPTIONS:
        if not (build.out / name).is_file():
            raise HarnessError(f"{build.out / name} is missing", hint=AGAIN)


def _is_published(name: str) -> bool:
    return name in published() or name.startswith(f"{catalog.CONTAINER}/")


def _check_fresh(build: Build, root: Path, release: str) -> None:
    own = build.manifest.release
    if own != release:
        raise HarnessError(
            f"{build.out} was built from release {own}, but {release} is to be published",
            hint=f"{AGAIN}, or publish with {catalog.option('release', own)}",
        )
    _check_stages(build, root)
    now = _pinned(_patches(build, root), manifests.pins(root, build.distribution))
    before = _pinned(build.manifest.mkosi.patches, build.manifest.pins)
    if before != now:
        reason = inputs.difference(inputs.from_labels(before), inputs.from_labels(now))
        raise _stale(f"{build.out}", reason)


def _check_stages(build: Build, root: Path) -> None:
    target = StageTarget(build.distribution.mkosi, build.arch, {})
    for stage in plan.plan(root, build.images, target):
        record = build.records.get(stage.name)
        before = plan.of_checkout(record.inputs if record else ())
        now = plan.of_checkout(stage.inputs)
        if {*before} != {*now}:
            raise _stale(f"{stage.name} in {build.out}", inputs.difference(before, now))
    for wanted in build.images:
        for name, need in outdated(root, wanted, build.records):
            raise _stale(f"{name} in {build.out}", f"{need} has been rebuilt since")


def _pinned(patches: Mapping[str, str], pins: Mapping[str, str]) -> dict[str, str]:
    """Return the sha256, by path in the checkout, of mkosi's patches and of the files with pins."""
    return {f"mkosi/{name}": digest for name, digest in patches.items()} | dict(pins)


def _patches(build: Build, root: Path) -> dict[str, str]:
    """Return the sha256 of each patch in the checkout that the build's mkosi should have, by name.

    Some patches apply to a full source tree only, and another mkosi may lack them.
    """
    optional = {*Pin.read(root / manifests.MKOSI_PIN).full_tree}
    optional -= build.manifest.mkosi.patches.keys()
    found = sorted((root / "mkosi").glob("*.patch"))
    return {path.name: file_digest(path) for path in found if path.name not in optional}


def _stale(what: str, reason: str) -> HarnessError:
    return HarnessError(f"{what} is stale: {reason}", hint=AGAIN)


def _check_unaltered(build: Build) -> None:
    given, pins = build.manifest.options.to_json(), build.manifest.pins
    for name in ALTERING:
        if name in given and given[name] != pins.get(OWN.get(name, "")):
            raise HarnessError(
                f"{build.out} was built with {catalog.flag(name.replace('_', '-'))}, "
                "so others would build something else from this checkout",
                hint=f"build it without, or publish it with {catalog.option('allow-altered')}",
            )


def _check_described(build: Build) -> None:
    """Raise HarnessError unless the provenance describes exactly the files to be published."""
    path = build.out / PROVENANCE
    again = f"remove {path} and build again"
    try:
        subjects = strict.loads(path.read_text())["subject"]
        described = {subject["digest"]["sha512"] for subject in subjects}
    except strict.ODDITIES as error:
        raise HarnessError(f"{path} is not a provenance: {error!r}", hint=again) from error
    for name, sha512 in build.sha512.items():
        if _is_published(name) and sha512 not in described:
            raise HarnessError(f"{path} describes a different {name}", hint=again)


def _check_booted(build: Build) -> None:
    disk = build.sha512.get(catalog.DISK_IMAGE)
    if not disk:
        return
    again = catalog.command(
        "boot-test",
        catalog.flag("distribution"),
        build.distribution.name,
        arch=build.arch.name,
    )
    anyway = f"{catalog.option('allow-unbooted')} publishes it anyway"
    try:
        result = strict.loads((build.out / BOOT_TEST).read_text())
        passed, reason, booted = result["passed"], result["reason"], result["disk"]
    except (OSError, *strict.ODDITIES):
        raise HarnessError(
            f"the {catalog.DISK} in {build.out} has not been booted", hint=f"{again}; {anyway}"
        ) from None
    if booted != disk:
        raise HarnessError(
            f"the boot test in {build.out} tested a different {catalog.DISK}", hint=again
        )
    if not passed:
        raise HarnessError(
            f"the {catalog.DISK} in {build.out} failed its boot test: {reason}", hint=anyway
        )


def uploads(build: Build, run: str) -> list[Upload]:
    """Return the files of build that are published; those that people download come first."""
    found = [
        Upload(
            build.out / name,
            build.named(template, run),
            build.sha512[name],
            (build.out / name).stat().st_size,
        )
        for name, template in published().items()
        if name in build.sha512
    ]
    described = [
        Upload.of(build.out / name, build.named(template, run))
        for name, template in DESCRIPTIONS.items()
    ]
    return [*found, *described]


def image(build: Build, run: str) -> Image | None:
    """Return the container image of build, or None if it has none."""
    layout = build.out / catalog.CONTAINER
    if not any(name.startswith(f"{catalog.CONTAINER}/") for name in build.sha512):
        return None
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    return Image(layout, build.named(TAG, run), build.arch, entry["digest"])


def checksums(files: Iterable[Upload]) -> str:
    """Return the SHA512SUMS of files, under their published names."""
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
    """Return the release manifest, which expires in that number of days.

    digest repeats sha512 in the form that finch-core's updater reads.
    """
    downloads = [
        {
            "platform": platform,
            "arch": build.arch.debian,  # as Go's GOARCH
            "url": f"{base_url.rstrip('/')}/{build.named(published()[name], run)}",
            "sha512": build.sha512[name],
            "digest": f"sha512:{build.sha512[name]}",
        }
        for build in builds
        for name, platform in platforms().items()
        if name in build.sha512
    ]
    return {
        "published_at": _stamp(now),
        "expires_at": _stamp(now + timedelta(days=days)),
        "artifacts": downloads,
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
    """Whether two release manifests are about the same release, apart from their dates."""
    dates = ("published_at", "expires_at")
    return _without(ours, dates) == _without(theirs, dates)


def newest_run(text: bytes) -> int:
    """Return the largest run number in the names that a release manifest lists, or 0."""
    try:
        data = strict.loads(text)
        names = [one["url"] for one in data["artifacts"]]
        names += [one["image"] for one in data["container_images"]]
        found = [RUN_OF_NAME.search(name) for name in names]
    except strict.ODDITIES:
        return 0
    return max((int(match[1]) for match in found if match), default=0)


def _without(data: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
