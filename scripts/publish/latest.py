"""Makes a run the latest release: the bucket's manifest.json, and the moving tags in the registry.

A newer run's is never replaced, nor a signed release by an unsigned one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from scripts import arch as arches
from scripts import catalog
from scripts.arch import Arch
from scripts.publish import announcement, push, s3
from scripts.publish.announcement import LARGEST, LATEST, Announcement, Pushed, Validity
from scripts.publish.documents import unpublishable, unsigned
from scripts.publish.registry import Registry
from scripts.publish.release import Upload
from scripts.publish.run import Run
from scripts.publish.s3 import Bucket
from scripts.publish.signing import Signer
from scripts.system import fetch, strict
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Task


def check_whole(announced: Announcement) -> None:
    """Raise HarnessError unless announced has a download for every platform of the catalogue."""
    if missing := announced.missing():
        raise HarnessError(
            f"the release would not serve {', '.join(missing)}",
            hint=f"publish the missing architecture first, with the same {catalog.flag('run-id')}; "
            f"{catalog.option('allow-partial')} publishes the release anyway",
        )


def replaced(bucket: Bucket, run: str, *, is_signed: bool) -> dict[str, str]:
    """Return the ETags of manifest.json and of its signature ("" for no object), by suffix.

    They make sure that no other publish comes between this look and our upload. Raises HarnessError
    if manifest.json must not become that of run.
    """
    where = f"s3://{bucket.name}/{LATEST}"
    latest = bucket.read(LATEST)
    there = announcement.newest_run(latest.data if latest else b"")
    if there > int(run):
        raise HarnessError(
            f"{where} belongs to run {there}, which is newer than {run}",
            hint=f"publish without {catalog.flag('latest')}, or with a larger "
            f"{catalog.flag('run-id')}",
        )
    signature = bucket.read(f"{LATEST}.bundle")
    if not is_signed and signature:
        raise unsigned(where, f"without {catalog.flag('latest')}")
    signed = {".bundle": signature.etag if signature else ""} if is_signed else {}
    return signed | {"": latest.etag if latest else ""}


def pointers(manifest: Path, etags: Mapping[str, str]) -> list[Upload]:
    """Return the uploads that make manifest.json a copy of manifest; its signature comes first.

    etags has the ETag, by suffix, of what each of them replaces.
    """
    return [
        Upload.of(manifest.with_name(f"{manifest.name}{suffix}"), f"{LATEST}{suffix}", replaces=one)
        for suffix, one in etags.items()
    ]


@dataclass(frozen=True)
class Published:
    """A run whose files and manifest are published already, and are to become the latest release.

    accepted is the signer whose signature of the run's manifest counts, and signer the one of
    manifest.json; both are None if nothing is signed. folder is for files before their upload.
    """

    run: Run
    bucket: Bucket
    accepted: Signer | None
    signer: Signer | None
    folder: Path

    def read(self, now: datetime) -> Announcement:
        """Return what the run's manifest announces, once its form and signature are verified.

        Raises HarnessError, or UsageError if the run has published none.
        """
        key = self.run.manifest
        where = f"s3://{self.bucket.name}/{key}"
        there, bundle = self.bucket.read(key), self.bucket.read(f"{key}.bundle")
        if not there:
            raise UsageError(
                f"run {self.run.number} has published no {where}",
                hint=f"publish its files first, without {catalog.flag('published')}",
            )
        if self.accepted:
            if not bundle:
                raise HarnessError(f"{where} is published without a signature")
            path = self._write(key, there.data)
            self.accepted.check(path, self._write(f"{key}.bundle", bundle.data), is_needed=True)
        try:
            return self.run.parse_manifest(there.data, now)
        except strict.ODDITIES as error:
            raise unpublishable(where, error) from error

    def uploads(self, found: Announcement, now: datetime, days: int) -> list[Upload]:
        """Return what must be uploaded to make found the latest release, valid for days from now.

        Nothing, if manifest.json announces it already and is valid. Raises HarnessError if
        manifest.json must not become this run's.
        """
        etags = replaced(self.bucket, self.run.number, is_signed=self.signer is not None)
        latest = self.bucket.read(LATEST)
        if latest and self._is_same(latest.data, found, now) and self._is_signed(latest.data):
            return []
        dated = replace(found, validity=Validity.starting(now, days))
        path = self._write(LATEST, dated.text())
        if self.signer:
            self.signer.sign(path)
        return pointers(path, etags)

    def _is_same(self, text: bytes, found: Announcement, now: datetime) -> bool:
        """Whether text is a valid manifest that announces the same as found."""
        try:
            there = self.run.parse_manifest(text, now)
        except strict.ODDITIES:
            return False
        return replace(there, validity=found.validity) == found

    def _is_signed(self, text: bytes) -> bool:
        """Whether manifest.json, which has text, is signed by signer, if there is one."""
        if not self.signer:
            return True
        bundle = self.bucket.read(f"{LATEST}.bundle")
        if not bundle:
            return False
        path, signature = self._write(LATEST, text), self._write(f"{LATEST}.bundle", bundle.data)
        try:
            self.signer.check(path, signature, is_needed=True)
        except HarnessError:
            return False
        return True

    def _write(self, name: str, data: bytes) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data)
        return self.folder / name


def check_downloads(found: Announcement, task: Task) -> None:
    """Raise HarnessError unless each file that found announces can be downloaded, with its sha512.

    That is what people will do, so the CDN in front of the bucket takes part.
    """
    for one in found.downloads:
        sha512 = fetch.digest(one.url, "sha512", progress_task=task, limit=LARGEST)
        if sha512 != one.sha512:
            raise HarnessError(
                f"{one.url} has the sha512 {sha512}, but {one.sha512} is announced",
                hint=s3.OTHER_RUN,
            )


def moving(place: Registry, images: Iterable[Pushed], run: str) -> dict[Arch, str]:
    """Return the digests of those of images whose moving tag must move, by architecture.

    Raises HarnessError if one of them is not in place, or if a moving tag is a newer run's.
    """
    found = {}
    for one in images:
        repository, _, tag = one.image.rpartition(":")
        if repository != place.repository:
            raise UsageError(
                f"run {run} has pushed {one.image}, which is not in {place.repository}",
                hint=f"name its repository with {catalog.option('repository')}",
            )
        push.confirm(place, tag, one.digest)
        arch = arches.parse(one.arch)
        if push.moves(place, arch, one.digest, run):
            found[arch] = one.digest
    return found
