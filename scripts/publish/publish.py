"""Publishes finished builds.

Every reason for a refusal is checked first. Then files and images are uploaded under names that are
not taken yet. The release manifest, through which others find them, comes last.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from scripts import catalog
from scripts.publish import programs, push, release, s3
from scripts.publish.push import Registry
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
    with progress.task("builds") as task:
        for build in builds:
            task.step(f"checking {build.out}")
            release.check(build, wanted.root, wanted.allowed)
    found = [release.image(build, wanted.run) for build in builds]
    plan = Plan(
        builds,
        [upload for build in builds for upload in release.uploads(build, wanted.run)],
        [image for image in found if image],
    )
    _show(plan, wanted)
    if not wanted.dry_run:
        _publish(plan, wanted, progress)


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
    names = [*own, *([release.LATEST] if wanted.latest else [])]
    return [full for name in names for full in (name, *_bundle(name, wanted))]


def _bundle(name: str, wanted: Wanted) -> list[str]:
    return [f"{name}.bundle"] if wanted.is_signed else []


def _publish(plan: Plan, wanted: Wanted, progress: Progress) -> None:
    with contextlib.ExitStack() as stack:
        task = stack.enter_context(progress.task("publish"))
        place = None
        if wanted.repository and plan.images:
            skopeo = programs.obtain("skopeo", programs.known()["skopeo"], wanted.work, progress)
            place = stack.enter_context(push.opened(skopeo, wanted.repository))
        bucket = Bucket.open(wanted.bucket, wanted.work / "uploads") if wanted.bucket else None
        # Everything that could be refused is checked before the first upload, and before CI's
        # identity signs anything, because that is recorded in a public log forever.
        task.step("checking what is published already")
        new_images = [one for one in plan.images if place and not place.check(one)]
        new_files = [one for one in plan.files if bucket and not bucket.check(one)]
        if bucket:
            new_files += _release_files(plan, wanted, bucket, progress)
        _send(new_files, new_images, bucket, place, task)
    _tell(plan, wanted, len(new_files) + len(new_images))


def _send(
    files: Sequence[Upload],
    images: Sequence[Image],
    bucket: Bucket | None,
    place: Registry | None,
    task: Task,
) -> None:
    for image in images:
        assert place
        task.step(f"pushing {place.repository}:{image.tag}")
        place.push(image)
    for file in files:  # the manifest comes last
        assert bucket
        bucket.upload(file, task)


def _release_files(plan: Plan, wanted: Wanted, bucket: Bucket, progress: Progress) -> list[Upload]:
    """Return the files about the whole release that must be uploaded; the manifest comes last.

    Files that are published already stay as they are, including their dates and signatures.
    """
    files = _write_release(plan, wanted, bucket)
    there = [bucket.check(file) for file in files]
    if wanted.latest:
        _check_latest(wanted, bucket)
    found: list[Upload] = []
    for file, is_there in zip(files, there, strict=True):
        if wanted.is_signed:
            found.append(_signature(file, wanted, bucket, progress, is_there=is_there))
        found.append(file)
    if wanted.latest:
        found += _pointers(files[-1], wanted)
    return [one for one in found if not bucket.check(one)]


def _write_release(plan: Plan, wanted: Wanted, bucket: Bucket) -> list[Upload]:
    """Write the checksums and the manifest of the release to files, and return their uploads."""
    data = release.manifest(
        plan.builds,
        plan.images,
        run=wanted.run,
        base_url=wanted.base_url,
        repository=wanted.repository,
        now=datetime.now(UTC),
        days=wanted.days,
    )
    sums, manifest = (
        f"{plan.prefix}-{wanted.run}.{CHECKSUMS}",
        f"{plan.prefix}-manifest-{wanted.run}.json",
    )
    texts = {
        sums: release.checksums(plan.files).encode(),
        manifest: _manifest(data, bucket, manifest),
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
    # If the connection broke in between, the signature may be there without the file.
    there = bucket.read(key) if is_there else None
    if there is None:
        _signer(wanted, progress).sign(file.source)
    else:
        bundle.write_bytes(there)
    return Upload.of(bundle, key, replaces=True)


def _pointers(manifest: Upload, wanted: Wanted) -> list[Upload]:
    """Return the uploads that make manifest.json a copy of manifest; its signature comes first."""
    return [
        Upload.of(
            manifest.source.with_name(f"{manifest.key}{suffix}"),
            f"{release.LATEST}{suffix}",
            replaces=True,
        )
        for suffix in (*([".bundle"] if wanted.is_signed else []), "")
    ]


def _check_latest(wanted: Wanted, bucket: Bucket) -> None:
    """Raise HarnessError if manifest.json must not become this release's."""
    latest = catalog.flag("latest")
    there = release.newest_run(bucket.read(release.LATEST) or b"")
    if there > int(wanted.run):
        raise HarnessError(
            f"s3://{bucket.name}/{release.LATEST} belongs to run {there}, which is newer than "
            f"{wanted.run}",
            hint=f"publish without {latest}, or with a larger {catalog.flag('run-id')}",
        )
    if not wanted.is_signed and bucket.read(f"{release.LATEST}.bundle") is not None:
        raise UsageError(
            f"s3://{bucket.name}/{release.LATEST} is signed, but this release would not be",
            hint=f"sign it with {catalog.option('key')}, or publish without {latest}",
        )


def _manifest(data: Mapping[str, Any], bucket: Bucket, key: str) -> bytes:
    """Return the release manifest: the published one if there is one, else a new one.

    Raises HarnessError if the published one belongs to a different release.
    """
    there = bucket.read(key)
    if there is not None:
        try:
            known = json.loads(there)
        except ValueError:
            known = {}
        if not (isinstance(known, dict) and release.same(data, known)):
            raise HarnessError(
                f"s3://{bucket.name}/{key} belongs to a different release",
                hint=s3.OTHER_RUN,
            )
        return there
    return (json.dumps(data, indent=2) + "\n").encode()


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
