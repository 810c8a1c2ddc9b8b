"""What a release consists of: the builds that may be published, their files, and their names.

The names are in the form that finch-core's updater reads.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath

from scripts import catalog
from scripts.arch import Arch
from scripts.build import manifest as manifests
from scripts.build.manifest import Manifest
from scripts.catalog import Distribution
from scripts.mkosi import source
from scripts.mkosi.pin import Pin
from scripts.packages import recipes, thirdparty
from scripts.publish import sources
from scripts.publish.sources import AGAIN
from scripts.stages import inputs, places, plan
from scripts.stages.artifacts import PROVENANCE, REPORT, SBOM, output_of
from scripts.stages.inputs import Kind
from scripts.stages.plan import StageTarget
from scripts.stages.records import Record, outdated
from scripts.system import strict
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, UsageError

# By description of a build: the template of its published name; see catalog.toml.
DESCRIPTIONS: Mapping[str, str] = {
    name: f"finch-{{product}}-{{arch}}-{{run}}.{name}" for name in (SBOM, PROVENANCE, REPORT)
}

# The templates of the tag of a container image, and of the tag that always names the newest one.
TAG = "{date}-build-{run}-{arch}-with-kernel"
MOVING_TAG = "latest-{arch}"

# A day as it stands in a tag: no number has leading zeros.
DAY = r"(?P<year>[0-9]{4})\.(?P<month>[1-9]|1[0-2])\.(?P<day>[1-9]|[12][0-9]|3[01])"

# The options, by their names in the manifest of a build, that make a build differ from everybody
# else's. A mirror does not: what comes from it is signed, or its digest is known.
ALTERING = (
    *("signing_key", "third_party_pins", "packages", "without_packages", "allow_missing"),
    "profile",
)

# The files of the checkout that some of these options may also name.
OWN = {
    "signing_key": f"{recipes.FOLDER}/{recipes.AMAZON_KEY}",
    "third_party_pins": thirdparty.PINS,
}

# The updater compares releases by this number, an integer of 64 bits. With leading zeros, two names
# could be of the same release.
RUN_ID = re.compile(r"[1-9][0-9]{0,17}")
RUN_OF_NAME = re.compile(rf"-(?P<run>{RUN_ID.pattern})(\.[a-z0-9.]+)?$")
RUN_OF_TAG = re.compile(rf":{DAY}-build-(?P<run>{RUN_ID.pattern})-[^:/]+$")

# A user's own configuration of mkosi, which git ignores; mkosi reads it besides the checkout's.
LOCAL = {"mkosi.local.conf", "mkosi.local"}

# The name of a distribution's release, which becomes part of file names.
RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# The digest of a container image; skopeo and the registry take others, which we do not make.
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def published() -> Mapping[str, str]:
    """Map each artifact that is published to the template of its name.

    Images that people download come first.
    """
    images = sorted(catalog.IMAGES.values(), key=lambda image: not image.platforms)
    return {name: template for one in images for name, template in one.published.items()}


def names(product: str, arch: Arch, run: str) -> list[str]:
    """Return the published names of all files that a build for arch may have, in their order."""
    images = catalog.IMAGES.values()
    built = {name for one in images if arch.name in one.arches for name in one.published}
    templates = [template for name, template in published().items() if name in built]
    return [
        named(template, product, arch, run) for template in (*templates, *DESCRIPTIONS.values())
    ]


def product(distribution: Distribution, name: str) -> str:
    """Return what a distribution is called in published names; name is that of its release.

    Raises UsageError if name would lead elsewhere in the bucket.
    """
    if not RELEASE.fullmatch(name):
        raise UsageError(f"{catalog.flag('release')} {name!r} is not the name of a release")
    return distribution.product.format(release=name)


def named(template: str, product: str, arch: Arch, run: str) -> str:
    """Return the published name that template stands for; run is the number of the CI run."""
    return template.format(product=product, arch=arch.mkosi, run=run)


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
        _check_names(out, manifest)
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
            name: Record(
                image.stage_key,
                image.inputs,
                image.seconds,
                (),
                image.packages,
                image.digest,
                image.built_from,
            )
            for name, image in self.manifest.images.items()
        }

    @property
    def images(self) -> Sequence[str]:
        """The names of the images that have artifacts in it."""
        outputs = {output_of(name) for name in self.sha512}
        return [name for name in catalog.IMAGES if not outputs.isdisjoint(catalog.artifacts(name))]

    def named(self, template: str, run: str) -> str:
        """Return the published name that template stands for; run is the number of the CI run."""
        return named(template, self.product, self.arch, run)


@dataclass(frozen=True)
class Upload:
    """A file and the key in the bucket that it goes to; sha512 in hex, size in bytes.

    replaces tells what may be under the key at that moment: None for a file that is published once
    and for all, else the ETag of the object that it takes the place of ("" for no object).
    """

    source: Path
    key: str
    sha512: str
    size: int
    replaces: str | None = None

    @classmethod
    def of(cls, source: Path, key: str, *, replaces: str | None = None) -> Upload:
        """Return the upload of the file source. Reads the whole file."""
        with sources.opened(source.parent, source.name) as file:
            digest = hashlib.file_digest(file, "sha512").hexdigest()
            return cls(source, key, digest, file.tell(), replaces)


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
    """Raise HarnessError unless build is complete, up to date and unaltered.

    Up to date means that the checkout at root, as it is now, would build the same: people will look
    there for how an image was made. The package sources are not compared, because they may
    differ from machine to machine.
    """
    _check_files(build)
    _check_fresh(build, root, allowed.release or places.release_of(root, build.distribution))
    if not allowed.altered:
        _check_unaltered(build)


def _check_names(out: Path, manifest: Manifest) -> None:
    """Raise HarnessError if a name in manifest is there twice, or would lead out of its folder."""
    names = [one.name for one in manifest.artifacts]
    odd = [name for name in names if not sources.is_inside(name) or names.count(name) > 1]
    odd += [] if RELEASE.fullmatch(manifest.release) else [manifest.release]
    if odd:
        raise HarnessError(
            f"the manifest in {out} has a name that no build makes: {odd[0]!r}", hint=AGAIN
        )


def _check_files(build: Build) -> None:
    if published().keys().isdisjoint(build.sha512):
        raise HarnessError(f"{build.out} contains nothing to publish")
    for name, sha512 in build.sha512.items():
        if _is_published(name) and sources.digest(build.out, name) != sha512:
            raise sources.changed(build.out / name)
    for name in DESCRIPTIONS:
        sources.opened(build.out, name).close()


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
    used = [
        catalog.flag(name.replace("_", "-"))
        for name in ALTERING
        if name in given and given[name] != pins.get(OWN.get(name, ""))
    ]
    if not source.is_pinned(build.manifest.mkosi.source):
        used.append("MKOSI_SOURCE")
    used += _local_files(build)
    if used:
        raise HarnessError(
            f"{build.out} was built with {used[0]}, "
            "so others would build something else from this checkout",
            hint=f"build it without, or publish it with {catalog.option('allow-altered')}",
        )


def _local_files(build: Build) -> list[str]:
    """Return the paths of the user's own mkosi configuration that took part in build."""
    paths = {
        path
        for record in build.records.values()
        for path in inputs.digests(record.inputs, Kind.CONFIGURATION)
    }
    return sorted(path for path in paths if not LOCAL.isdisjoint(PurePosixPath(path).parts))


def check_described(build: Build, files: Iterable[Upload]) -> None:
    """Raise HarnessError unless the provenance describes exactly the files to be published.

    files are what `uploads` returned: the provenance that is read here is the one among them.
    """
    path = build.out / PROVENANCE
    again = f"remove {path} and build again"
    with sources.opened(build.out, PROVENANCE) as file:
        text = file.read()
    if hashlib.sha512(text).hexdigest() not in {one.sha512 for one in files if one.source == path}:
        raise sources.changed(path)
    try:
        subjects = strict.loads(text)["subject"]
        described = {(subject["name"], subject["digest"]["sha512"]) for subject in subjects}
    except strict.ODDITIES as error:
        raise HarnessError(f"{path} is not a provenance: {error!r}", hint=again) from error
    for name, sha512 in build.sha512.items():
        if _is_published(name) and (name, sha512) not in described:
            raise HarnessError(f"{path} describes a different {name}", hint=again)


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


def image(build: Build, run: str, day: date) -> Image | None:
    """Return the container image of build, pushed on day (in UTC), or None if it has none.

    Raises HarnessError if its layout does not hold exactly one image.
    """
    if not any(name.startswith(f"{catalog.CONTAINER}/") for name in build.sha512):
        return None
    return Image(
        build.out / catalog.CONTAINER,
        tag(build.arch, run, day),
        build.arch,
        only_digest(build.out / catalog.CONTAINER),
    )


def tag(arch: Arch, run: str, day: date) -> str:
    """Return the tag of the container image of run for arch that is pushed on day."""
    written = f"{day.year:04}.{day.month}.{day.day}"
    return TAG.format(date=written, run=run, arch=arch.mkosi)


def first_tag(tags: Iterable[str], arch: Arch, run: str) -> str:
    """Return the earliest of tags that `tag` gives to run and arch, or "" if there is none."""
    form = re.compile(TAG.format(date=DAY, run=run, arch=re.escape(arch.mkosi)))
    found = [(match, one) for one in tags if (match := form.fullmatch(one))]
    return min(found, key=lambda pair: [int(n) for n in pair[0].groups()], default=("", ""))[1]


def runs_after(tags: Iterable[str], arch: Arch, run: str) -> dict[str, int]:
    """Map those of tags that `tag` gives to arch and to a newer run than run to that run."""
    form = re.compile(
        TAG.format(date=DAY, run=f"(?P<run>{RUN_ID.pattern})", arch=re.escape(arch.mkosi))
    )
    found = {one: int(match["run"]) for one in tags if (match := form.fullmatch(one))}
    return {one: number for one, number in found.items() if number > int(run)}


def only_digest(layout: Path) -> str:
    """Return the digest of the only image in an OCI layout.

    Raises HarnessError if it has none or several, or if its digest is no sha256.
    """
    try:
        with sources.opened(layout, "index.json") as file:
            [entry] = strict.loads(file.read())["manifests"]
        if DIGEST.fullmatch(entry["digest"]):
            return str(entry["digest"])
    except strict.ODDITIES:
        pass
    raise HarnessError(f"{layout} is not an OCI image layout with one image", hint=AGAIN)


def checksums(sums: Mapping[str, str]) -> bytes:
    """Return SHA512SUMS, in the form of sha512sum(1), for the sha512 by published name."""
    return "".join(f"{sha512}  {key}\n" for key, sha512 in sums.items()).encode()
