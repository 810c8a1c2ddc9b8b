"""Makes a run that is published already the latest release, without its builds at hand.

That is a job of its own once a person has agreed to the release: people accept its signature only.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scripts import catalog
from scripts.arch import Arch
from scripts.publish import latest, programs, push, registry, release
from scripts.publish.announcement import LATEST, Announcement
from scripts.publish.latest import Published
from scripts.publish.registry import Registry
from scripts.publish.run import Run
from scripts.publish.s3 import Bucket
from scripts.publish.signing import Signing
from scripts.system.progress import Progress
from scripts.system.text import say


@dataclass(frozen=True)
class Promotion:
    """Which run is to become the latest release, and where it is published.

    bucket has its files, run.repository its container images ("" leaves those alone). days is how
    long the release is valid. signed_by is the workflow that must have signed the run's manifest
    ("" for the job's own). partial is as in `publish.Wanted`, and work is what is kept between
    runs.
    """

    run: Run
    bucket: str
    days: int
    signing: Signing
    signed_by: str
    partial: bool
    dry_run: bool
    work: Path


def promote(wanted: Promotion, progress: Progress) -> None:
    """Make the run the latest release, or only show what would be written. Raises HarnessError."""
    _show(wanted)
    if not wanted.dry_run:
        _promote(wanted, progress)


def _show(wanted: Promotion) -> None:
    for suffix in ["", ".bundle"] if wanted.signing.is_possible else [""]:
        source = f"s3://{wanted.bucket}/{wanted.run.manifest}"
        say(f"{source}, with new dates → s3://{wanted.bucket}/{LATEST}{suffix}")
    if wanted.run.repository:
        tags = release.MOVING_TAG.format(arch="*")
        say(f"images of run {wanted.run.number} → {wanted.run.repository}:{tags}")
    if not wanted.signing.is_possible:
        say(f"nothing is signed: there is no {catalog.flag('key')} and no identity of a CI job")


def _promote(wanted: Promotion, progress: Progress) -> None:
    with contextlib.ExitStack() as stack:
        task = stack.enter_context(progress.task("publish"))
        place = None
        if wanted.run.repository:
            skopeo = programs.obtain("skopeo", wanted.work, progress)
            place = stack.enter_context(registry.opened(skopeo, wanted.run.repository))
        published = _opened(wanted, progress)
        task.step("checking what is published")
        found = published.read(datetime.now(UTC))
        if not wanted.partial:
            latest.check_whole(found)
        moved = _moved(found, place, wanted)
        latest.check_downloads(found, task)
        uploads = published.uploads(found, datetime.now(UTC), wanted.days)
        for one in uploads:
            published.bucket.upload(one, task)
        for arch, digest in moved.items():
            assert place
            push.move(place, arch, digest)
    say(f"{LATEST} announces run {wanted.run.number}")
    if not uploads and not moved:
        say("everything has already been published")


def _opened(wanted: Promotion, progress: Progress) -> Published:
    return Published(
        wanted.run,
        Bucket.open(wanted.bucket, wanted.work / "uploads"),
        wanted.signing.signer(wanted.work, progress, by=wanted.signed_by),
        wanted.signing.signer(wanted.work, progress),
        wanted.work / "latest" / wanted.run.number,
    )


def _moved(found: Announcement, place: Registry | None, wanted: Promotion) -> dict[Arch, str]:
    return latest.moving(place, found.images, wanted.run.number) if place else {}
