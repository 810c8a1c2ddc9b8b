"""Publishes finished builds.

Every reason for a refusal is checked first. Then files and images are uploaded under names that are
not taken yet. The release manifest, through which others find them, comes last.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.filesize import decimal

from scripts import catalog
from scripts.publish import announcement, booted, layout, programs, push, registry, release, s3
from scripts.publish.announcement import Validity
from scripts.publish.registry import Registry
from scripts.publish.release import Allowed, Build, Image, Upload
from scripts.publish.s3 import Bucket
from scripts.publish.signing import Signer
from scripts.stages.artifacts import CHECKSUMS
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Progress, Task
from scripts.system.text import say


@dataclass(frozen=True)
class Wanted:
    """What to publish and where to.

    outs are the folders of the builds, and run is the number of the CI run. bucket and repository
    are "" if nothing goes there. base_url is where people download the bucket's files, and days is
    how long the release is valid. key is the private key to sign with, if any; has_identity tells
    whether cosign can sign without one. latest makes manifest.json in the bucket this release's.
    root is the checkout, and work is what is kept between runs.
    """

    outs: tuple[Path, ...]
    run: str
    bucket: str
    repository: str
    base_url: str
    days: int
    key: Path | None
    has_identity: bool
    latest: bool
    dry_run: bool
    allowed: Allowed
    root: Path
    work: Path

    @property
    def is_signed(self) -> bool:
        """Whether the release is signed."""
        return self.key is not None or self.has_identity


@dataclass(frozen=True)
class Plan:
    """What will be published: files, in the order of their upload, and container images."""

    builds: Sequence[Build]
    files: Sequence[Upload]
    images: Sequence[Image]

    @property
    def prefix(self) -> str:
        """How the names of files about the whole release begin."""
        return f"finch-{self.builds[0].product}"


def publish(wanted: Wanted, progress: Progress) -> None:
    """Publish what wanted asks for, or only show it. Raises HarnessError."""
    builds = [Build.load(out) for out in wanted.outs]
    qemu_img = programs.obtain("qemu-img", programs.known()["qemu-img"], wanted.work, progress)
    with progress.task("builds") as task:
        for build in builds:
            task.step(f"checking {build.out}")
            release.check(build, wanted.root, wanted.allowed)
            if not wanted.allowed.unbooted:
                booted.check(build)
            booted.check_disks(build, qemu_img, wanted.work)
        plan = _plan(builds, wanted)
    _show(plan, wanted)
    if not wanted.dry_run:
        _publish(plan, wanted, progress)


def _plan(builds: Sequence[Build], wanted: Wanted) -> Plan:
    files: list[Upload] = []
    for build in builds:
        own = release.uploads(build, wanted.run)
        release.check_described(build, own)
        files += own
    images = [release.image(build, wanted.run) for build in builds]
    return Plan(builds, files, [image for image in images if image])


def _show(plan: Plan, wanted: Wanted) -> None:
    if wanted.bucket:
        for file in plan.files:
            name = f"{file.source.parent.name}/{file.source.name}"
            say(f"{name} ({decimal(file.size)}) → s3://{wanted.bucket}/{file.key}")
        for name in _names(plan, wanted):
            say(f"newly written → s3://{wanted.bucket}/{name}")
    if wanted.repository:
        for image in plan.images:
            name = f"{image.layout.parent.name}/{image.layout.name}"
            say(f"{name} ({image.digest}) → {wanted.repository}:{image.tag}")
    if not wanted.is_signed:
        say(f"nothing is signed: there is no {catalog.flag('key')} and no identity of a CI job")


def _names(plan: Plan, wanted: Wanted) -> list[str]:
    """Return the names of the files about the whole release."""
    own = [f"{plan.prefix}-{wanted.run}.{CHECKSUMS}", f"{plan.prefix}-manifest-{wanted.run}.json"]
    names = [*own, *([announcement.LATEST] if wanted.latest else [])]
    return [full for name in names for full in (name, *_bundle(name, wanted))]


def _bundle(name: str, wanted: Wanted) -> list[str]:
    return [f"{name}.bundle"] if wanted.is_signed else []


def _publish(plan: Plan, wanted: Wanted, progress: Progress) -> None:
    with contextlib.ExitStack() as stack:
        task = stack.enter_context(progress.task("publish"))
        place = None
        if wanted.repository and plan.images:
            skopeo = programs.obtain("skopeo", programs.known()["skopeo"], wanted.work, progress)
            place = stack.enter_context(registry.opened(skopeo, wanted.repository))
        bucket = Bucket.open(wanted.bucket, wanted.work / "uploads") if wanted.bucket else None
        # Everything that could be refused is checked before the first upload, and before CI's
        # identity signs anything, because that is recorded in a public log forever.
        task.step("checking what is published already")
        new_images = [one for one in plan.images if place and not push.check(place, one)]
        new_files = [one for one in plan.files if bucket and not bucket.check(one)]
        about = _release_files(plan, wanted, bucket, progress) if bucket else []
        copies = _copies(plan, new_images, wanted, stack)
        _send(copies, new_files, bucket, place, task)
        # The release manifest names the images by their digests and by their tags.
        if place:
            for image in plan.images:
                push.confirm(place, image)
        _send([], about, bucket, place, task)
    _tell(plan, wanted, len(new_files) + len(new_images) + len(about))


def _copies(
    plan: Plan, images: Sequence[Image], wanted: Wanted, stack: contextlib.ExitStack
) -> list[Image]:
    """Return images with layouts that nobody else writes to, as long as stack is open."""
    found = []
    wanted.work.mkdir(parents=True, exist_ok=True)
    for build in plan.builds:
        for image in images:
            if image.layout.parent == build.out:
                folder = tempfile.TemporaryDirectory(dir=wanted.work, prefix="image-")
                found.append(layout.copy(build, image, Path(stack.enter_context(folder))))
    return found


def _send(
    images: Sequence[Image],
    files: Sequence[Upload],
    bucket: Bucket | None,
    place: Registry | None,
    task: Task,
) -> None:
    for image in images:
        assert place
        task.step(f"pushing {place.repository}:{image.tag}")
        push.push(place, image)
    for file in files:  # the manifest comes last
        assert bucket
        bucket.upload(file, task)


def _release_files(plan: Plan, wanted: Wanted, bucket: Bucket, progress: Progress) -> list[Upload]:
    """Return the files about the whole release that must be uploaded; the manifest comes last.

    Their contents are always made here. Files that are published already stay as they are,
    including their dates and signatures, if they have exactly these contents.
    """
    files = _write_release(plan, wanted, bucket)
    there = [bucket.check(file) for file in files]
    newest = _check_latest(wanted, bucket) if wanted.latest else None
    found: list[Upload] = []
    for file, is_there in zip(files, there, strict=True):
        if wanted.is_signed:
            found.append(_signature(file, wanted, bucket, progress, is_there=is_there))
        found.append(file)
    if newest:
        found += _pointers(files[-1], newest)
    return [one for one in found if not bucket.check(one)]


def _write_release(plan: Plan, wanted: Wanted, bucket: Bucket) -> list[Upload]:
    """Write the checksums and the manifest of the release to files, and return their uploads."""
    sums, manifest = (
        f"{plan.prefix}-{wanted.run}.{CHECKSUMS}",
        f"{plan.prefix}-manifest-{wanted.run}.json",
    )
    texts = {
        sums: release.checksums(plan.files),
        manifest: _manifest(plan, wanted, bucket, manifest),
    }
    folder = wanted.work / "release" / wanted.run
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    return [Upload.of(folder / name, name) for name in texts]


def _signature(
    file: Upload, wanted: Wanted, bucket: Bucket, progress: Progress, *, is_there: bool
) -> Upload:
    """Return the signature of file: the published one if file is published, else a new one."""
    key = f"{file.key}.bundle"
    bundle = file.source.with_name(key)
    signer = _signer(wanted, progress)
    # If the connection broke in between, the signature may be there without the file.
    there = bucket.read(key)
    if there and is_there:
        bundle.write_bytes(there.data)
        signer.check(file.source, bundle)
    else:
        signer.sign(file.source)
    return Upload.of(bundle, key, replaces=there.etag if there else "")


def _pointers(manifest: Upload, newest: Mapping[str, str]) -> list[Upload]:
    """Return the uploads that make manifest.json a copy of manifest; its signature comes first.

    newest has the ETag, by suffix, of what each of them replaces.
    """
    return [
        Upload.of(
            manifest.source.with_name(f"{manifest.key}{suffix}"),
            f"{announcement.LATEST}{suffix}",
            replaces=etag,
        )
        for suffix, etag in newest.items()
    ]


def _check_latest(wanted: Wanted, bucket: Bucket) -> dict[str, str]:
    """Return the ETags of manifest.json and of its signature ("" for no object), by suffix.

    They make sure that no other publish comes between this look and our upload. Raises HarnessError
    if manifest.json must not become this release's.
    """
    option, where = catalog.flag("latest"), f"s3://{bucket.name}/{announcement.LATEST}"
    latest = bucket.read(announcement.LATEST)
    there = announcement.newest_run(latest.data if latest else b"")
    if there > int(wanted.run):
        raise HarnessError(
            f"{where} belongs to run {there}, which is newer than {wanted.run}",
            hint=f"publish without {option}, or with a larger {catalog.flag('run-id')}",
        )
    signature = bucket.read(f"{announcement.LATEST}.bundle")
    if not wanted.is_signed and signature:
        raise UsageError(
            f"{where} is signed, but this release would not be",
            hint=f"sign it with {catalog.option('key')}, or publish without {option}",
        )
    signed = {".bundle": signature.etag if signature else ""} if wanted.is_signed else {}
    return signed | {"": latest.etag if latest else ""}


def _manifest(plan: Plan, wanted: Wanted, bucket: Bucket, key: str) -> bytes:
    """Return the release manifest, made from the builds.

    If one is published already, only its dates are used again, so that it has the same bytes if it
    is this release's. Raises HarnessError if we would not have chosen its dates, or if it is still
    to be signed.
    """
    now = datetime.now(UTC)
    there = bucket.read(key)
    where = f"s3://{bucket.name}/{key}"
    # Our own manifest is never published without its signature, which is uploaded first. Signing
    # this one would vouch for dates that somebody else has chosen.
    if there and wanted.is_signed and not bucket.read(f"{key}.bundle"):
        raise HarnessError(
            f"{where} is published without a signature, so it cannot be signed any more",
            hint=s3.OTHER_RUN,
        )
    validity = (
        announcement.validity_of(there.data, where, now)
        if there
        else Validity.starting(now, wanted.days)
    )
    return announcement.manifest(
        plan.builds,
        plan.images,
        run=wanted.run,
        base_url=wanted.base_url,
        repository=wanted.repository,
        validity=validity,
    )


def _signer(wanted: Wanted, progress: Progress) -> Signer:
    cosign = programs.obtain("cosign", programs.known()["cosign"], wanted.work, progress)
    return Signer(cosign, wanted.key)


def _tell(plan: Plan, wanted: Wanted, new: int) -> None:
    for image in plan.images:
        if wanted.repository:
            say(f"{wanted.repository}:{image.tag} is {image.digest}")
    if wanted.bucket:
        say(f"{wanted.base_url.rstrip('/')}/{plan.prefix}-manifest-{wanted.run}.json")
    if not new:
        say("everything has already been published")
