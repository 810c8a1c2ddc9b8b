"""Publish finished builds.

Everything that could be refused is checked first. Then files and images go up under names that are
still free. The release manifest, which is how others find them, comes last.
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

from scripts.publish import programs, push, release
from scripts.publish.push import Registry
from scripts.publish.release import Allowed, Build, Image, Upload
from scripts.publish.s3 import Bucket
from scripts.publish.signing import Signer
from scripts.stages.artifacts import CHECKSUMS, MANIFEST
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Progress, Task


@dataclass(frozen=True)
class Wanted:
    """What was asked for; bucket and repository are "" where nothing goes there.

    key is the private key to sign with, None where there is none; has_identity says whether cosign
    can do without. latest: the release is also to be the one that manifest.json tells of.
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
        """Whether there is something to sign with."""
        return self.key is not None or self.has_identity


@dataclass(frozen=True)
class Plan:
    """What is published: files, in the order of their upload, and images."""

    builds: Sequence[Build]
    files: Sequence[Upload]
    images: Sequence[Image]

    @property
    def prefix(self) -> str:
        """What the names of the files that are about the whole release begin with."""
        return f"finch-{self.builds[0].product}"


def publish(wanted: Wanted, progress: Progress) -> None:
    """Publish what wanted asks for, or show what would be done. Raises HarnessError."""
    builds = [release.load(out) for out in wanted.outs]
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
            print(f"{name} ({decimal(file.size)}) → s3://{wanted.bucket}/{file.key}")
        for name in _names(plan, wanted):
            print(f"written anew → s3://{wanted.bucket}/{name}")
    if wanted.repository:
        for image in plan.images:
            name = f"{image.layout.parent.name}/{image.layout.name}"
            print(f"{name} ({image.digest}) → {wanted.repository}:{image.tag}")
    if not wanted.is_signed:
        print("nothing is signed: there is neither --key nor an identity of CI's")


def _names(plan: Plan, wanted: Wanted) -> list[str]:
    """The names of the files that are about the whole release."""
    own = [f"{plan.prefix}-{wanted.run}.{CHECKSUMS}", f"{plan.prefix}-manifest-{wanted.run}.json"]
    names = [*own, *([MANIFEST] if wanted.latest else [])]
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
        # All that could be refused is looked at before the first byte goes out, and before CI's
        # identity signs anything, which stands in a public log for ever.
        task.step("looking at what is there")
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
    for file in files:  # the manifest is the last of them
        assert bucket
        bucket.upload(file, task)


def _release_files(plan: Plan, wanted: Wanted, bucket: Bucket, progress: Progress) -> list[Upload]:
    """Of the files that are about the whole release those to upload; the manifest is last.

    Those that are published already stay as they are, dates and signatures included.
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
    """Checksums and manifest of the release, as files."""
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
    """The signature of file: what is published of it, if file itself is, else a new one."""
    key = f"{file.key}.bundle"
    bundle = file.source.with_name(key)
    # A signature may be alone there, where the connection was cut before what it is of.
    there = bucket.read(key) if is_there else None
    if there is None:
        _signer(wanted, progress).sign(file.source)
    else:
        bundle.write_bytes(there)
    return Upload.of(bundle, key, replaces=True)


def _pointers(manifest: Upload, wanted: Wanted) -> list[Upload]:
    """What lets manifest.json be manifest: first the signature, which is of no other."""
    return [
        Upload.of(
            manifest.source.with_name(f"{manifest.key}{suffix}"),
            f"{MANIFEST}{suffix}",
            replaces=True,
        )
        for suffix in (*([".bundle"] if wanted.is_signed else []), "")
    ]


def _check_latest(wanted: Wanted, bucket: Bucket) -> None:
    """Raise HarnessError where manifest.json is better left as it is."""
    there = release.newest_run(bucket.read(MANIFEST) or b"")
    if there > int(wanted.run):
        raise HarnessError(
            f"s3://{bucket.name}/{MANIFEST} tells of run {there} already, which is newer than "
            f"{wanted.run}",
            hint="publish without --latest, or under a larger --run-id",
        )
    if not wanted.is_signed and bucket.read(f"{MANIFEST}.bundle") is not None:
        raise UsageError(
            f"s3://{bucket.name}/{MANIFEST} is signed, which this release would not be",
            hint="-- --key FILE signs it; without --latest it is published unsigned",
        )


def _manifest(data: Mapping[str, Any], bucket: Bucket, key: str) -> bytes:
    """The release manifest: what is published of it, if that tells of the same release."""
    there = bucket.read(key)
    if there is not None:
        try:
            known = json.loads(there)
        except ValueError:
            known = {}
        if not (isinstance(known, dict) and release.same(data, known)):
            raise HarnessError(
                f"s3://{bucket.name}/{key} tells of another release",
                hint="what is published is never replaced; publish under another --run-id",
            )
        return there
    return (json.dumps(data, indent=2) + "\n").encode()


def _signer(wanted: Wanted, progress: Progress) -> Signer:
    cosign = programs.obtain("cosign", programs.known()["cosign"], wanted.work, progress)
    return Signer(cosign, wanted.key)


def _tell(plan: Plan, wanted: Wanted, new: int) -> None:
    for image in plan.images:
        if wanted.repository:
            print(f"{wanted.repository}:{image.tag} is {image.digest}")
    if wanted.bucket:
        print(f"{wanted.base_url.rstrip('/')}/{plan.prefix}-manifest-{wanted.run}.json")
    if not new:
        print("everything was published already")
