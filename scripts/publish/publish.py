"""Publishes finished builds.

Every reason for a refusal is checked first. Then files and images are uploaded under names that are
not taken yet. The release manifest, through which others find them, comes last.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.filesize import decimal

from scripts import catalog
from scripts.arch import Arch
from scripts.publish import (
    announcement,
    booted,
    latest,
    layout,
    programs,
    push,
    registry,
    release,
)
from scripts.publish.announcement import Announcement, Pushed, Validity
from scripts.publish.documents import Document, SharedDocuments
from scripts.publish.registry import Registry
from scripts.publish.release import Allowed, Build, Image, Upload
from scripts.publish.run import Own, Run
from scripts.publish.s3 import Bucket, LostError
from scripts.publish.signing import Signing
from scripts.system.progress import Progress, Task
from scripts.system.text import say

# The suffix of the file beside a published one that has its sha512 alone, as finch-core's scripts
# read it.
CHECKSUM = ".sha512sum"

# How often the documents of a run are written anew because another job has just done so.
ATTEMPTS = 5


@dataclass(frozen=True)
class Wanted:
    """What to publish and where to.

    outs are the folders of the builds, and run is the number of the CI run. bucket and repository
    are "" if nothing goes there. base_url is where people download the bucket's files, and days is
    how long the release is valid. latest makes this release the one that people get; with partial,
    even if it does not serve all of them. root is the checkout, and work is what is kept between
    runs.
    """

    outs: tuple[Path, ...]
    run: str
    bucket: str
    repository: str
    base_url: str
    days: int
    signing: Signing
    latest: bool
    partial: bool
    dry_run: bool
    allowed: Allowed
    root: Path
    work: Path

    @property
    def folder(self) -> Path:
        """Where files about the release are written before their upload."""
        return self.work / "release" / self.run


@dataclass(frozen=True)
class Plan:
    """What will be published: files, in the order of their upload, and container images."""

    builds: Sequence[Build]
    files: Sequence[Upload]
    images: Sequence[Image]
    run: Run

    @property
    def archs(self) -> list[Arch]:
        """The architectures of the builds."""
        return [build.arch for build in self.builds]

    def own(self, validity: Validity) -> Own:
        """Return what the run's documents say about this plan."""
        images = [
            Pushed(one.arch.debian, f"{self.run.repository}:{one.tag}", one.digest)
            for one in self.images
            if self.run.repository
        ]
        downloads = announcement.downloads(
            self.builds, run=self.run.number, base_url=self.run.base_url
        )
        announced = Announcement(validity, tuple(downloads), tuple(images))
        return Own(self.archs, {file.key: file.sha512 for file in self.files}, announced)


def publish(wanted: Wanted, progress: Progress) -> None:
    """Publish what wanted asks for, or only show it. Raises HarnessError."""
    builds = [Build.load(out) for out in wanted.outs]
    qemu_img = programs.obtain("qemu-img", wanted.work, progress)
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
    today = datetime.now(UTC).date()
    images = [release.image(build, wanted.run, today) for build in builds]
    run = Run(builds[0].product, wanted.run, wanted.base_url, wanted.repository)
    return Plan(builds, files, [image for image in images if image], run)


def _show(plan: Plan, wanted: Wanted) -> None:
    if wanted.bucket:
        for file in plan.files:
            name = f"{file.source.parent.name}/{file.source.name}"
            where = f"s3://{wanted.bucket}/{file.key}"
            say(f"{name} ({decimal(file.size)}) → {where}, and {CHECKSUM}")
        for name in _names(plan, wanted):
            say(f"newly written → s3://{wanted.bucket}/{name}")
    if wanted.repository:
        for image in plan.images:
            name = f"{image.layout.parent.name}/{image.layout.name}"
            tags = [image.tag, *([push.moving(image.arch)] if wanted.latest else [])]
            for tag in tags:
                say(f"{name} ({image.digest}) → {wanted.repository}:{tag}")
    if not wanted.signing.is_possible:
        say(f"nothing is signed: there is no {catalog.flag('key')} and no identity of a CI job")


def _names(plan: Plan, wanted: Wanted) -> list[str]:
    """Return the names of the files about the whole release."""
    names = [plan.run.sums, plan.run.manifest, *([announcement.LATEST] if wanted.latest else [])]
    suffixes = ["", ".bundle"] if wanted.signing.is_possible else [""]
    return [f"{name}{suffix}" for name in names for suffix in suffixes]


def _publish(plan: Plan, wanted: Wanted, progress: Progress) -> None:
    with contextlib.ExitStack() as stack:
        task = stack.enter_context(progress.task("publish"))
        place = None
        if wanted.repository and plan.images:
            skopeo = programs.obtain("skopeo", wanted.work, progress)
            place = stack.enter_context(registry.opened(skopeo, wanted.repository))
        bucket = Bucket.open(wanted.bucket, wanted.work / "uploads") if wanted.bucket else None
        # Everything that could be refused is checked before the first upload, and before CI's
        # identity signs anything, because that is recorded in a public log forever.
        task.step("checking what is published already")
        plan = _settled(plan, place, bucket)
        new_images = [one for one in plan.images if place and not push.check(place, one)]
        with_sums = _with_checksums(plan.files, wanted.folder)
        new_files = [one for one in with_sums if bucket and not bucket.check(one)]
        about = _About.prepared(plan, wanted, bucket, progress) if bucket else None
        moved = _moved(plan, about, place) if place and wanted.latest else {}
        uploads = about.shared.uploads(about.documents) if about else []
        _send(_copies(plan, new_images, wanted, stack), new_files, bucket, place, task)
        # The release manifest names the images by their digests and by their tags.
        if place:
            for image in plan.images:
                push.confirm(place, image.tag, image.digest)
        new = about.send(uploads, task) if about else 0
        for arch, digest in moved.items():
            assert place
            push.move(place, arch, digest)
    _tell(plan, wanted, len(new_files) + len(new_images) + new + len(moved))


def _settled(plan: Plan, place: Registry | None, bucket: Bucket | None) -> Plan:
    """Return plan with the tags that an earlier publish of the same run has given its images."""
    if not place:
        return plan
    there = bucket.read(plan.run.manifest) if bucket else None
    known = announcement.tags(there.data) if there else []
    images = [push.settle(place, one, plan.run.number, known) for one in plan.images]
    return replace(plan, images=images)


def _with_checksums(files: Iterable[Upload], folder: Path) -> list[Upload]:
    """Return files, each after a file in folder with its sha512 alone.

    What finds a file by its name finds its checksum, too.
    """
    found = []
    for file in files:
        key = f"{file.key}{CHECKSUM}"
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_text(f"{file.sha512}\n")
        found += [Upload.of(folder / key, key), file]
    return found


def _moved(plan: Plan, about: _About | None, place: Registry) -> dict[Arch, str]:
    """Return the digests of the images whose moving tag must move: also of other jobs' images.

    Raises HarnessError as `latest.moving` does.
    """
    own = {
        one.arch: one.digest
        for one in plan.images
        if push.moves(place, one.arch, one.digest, plan.run.number)
    }
    names = {arch.debian for arch in plan.archs}
    others = [one for one in (about.images if about else ()) if one.arch not in names]
    return own | latest.moving(place, others, plan.run.number)


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
    for file in files:
        assert bucket
        bucket.upload(file, task)


@dataclass(frozen=True)
class _About:
    """The files about the whole release.

    images are all container images of the run. etags are those of what
    manifest.json and its signature replace (none, if they are to stay); see `latest.replaced`.
    """

    shared: SharedDocuments
    own: Own
    images: Sequence[Pushed]
    documents: Sequence[Document]
    etags: Mapping[str, str]

    @classmethod
    def prepared(cls, plan: Plan, wanted: Wanted, bucket: Bucket, progress: Progress) -> _About:
        """Make the files, unsigned. Raises HarnessError if one of them must not be published."""
        signer = wanted.signing.signer(wanted.work, progress)
        shared = SharedDocuments(plan.run, bucket, wanted.folder, signer)
        now = datetime.now(UTC)
        own = plan.own(Validity.starting(now, wanted.days))
        announced, documents = shared.merge(own, now)
        etags: Mapping[str, str] = {}
        if wanted.latest:
            if not wanted.partial:
                latest.check_whole(announced)
            etags = latest.replaced(bucket, wanted.run, is_signed=signer is not None)
        return cls(shared, own, announced.images, documents, etags)

    def send(self, uploads: Sequence[Upload], task: Task) -> int:
        """Upload the files, and return how many were new. Raises HarnessError.

        uploads are those of documents, in which everything is signed.
        """
        new = self._send_documents(uploads, task)
        manifest = self.shared.folder / self.shared.run.manifest
        bucket = self.shared.bucket
        pointers = [one for one in latest.pointers(manifest, self.etags) if not bucket.check(one)]
        _send([], pointers, bucket, None, task)
        return new + len(pointers)

    def _send_documents(self, uploads: Sequence[Upload], task: Task) -> int:
        """Upload the run's documents. If another job has just changed them, add to its own."""
        for left in reversed(range(ATTEMPTS)):
            try:
                _send([], uploads, self.shared.bucket, None, task)
            except LostError:
                if not left:
                    raise
                _, documents = self.shared.merge(self.own, datetime.now(UTC))
                uploads = self.shared.uploads(documents)
            else:
                break
        return len(uploads)


def _tell(plan: Plan, wanted: Wanted, new: int) -> None:
    for image in plan.images:
        if wanted.repository:
            say(f"{wanted.repository}:{image.tag} is {image.digest}")
    if wanted.bucket:
        say(plan.run.url(plan.run.manifest))
    if not new:
        say("everything has already been published")
