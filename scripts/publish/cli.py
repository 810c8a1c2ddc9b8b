"""Publish finished builds: `python -m scripts.publish.cli`, which the publish session runs.

First everything that could be refused is looked at, then files and images go up under names that
nothing stands under yet, and the release manifest, which is how others find them, comes last.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from scripts import arch as arches
from scripts.options import DISTRIBUTIONS, ROOT, Parser
from scripts.publish import programs, push, release, signing
from scripts.publish.push import Registry
from scripts.publish.release import Allowed, Build, Image, Upload
from scripts.publish.s3 import Bucket
from scripts.publish.signing import Signer
from scripts.stages.artifacts import CHECKSUMS, MANIFEST
from scripts.system import errors
from scripts.system.errors import HarnessError, UsageError
from scripts.system.locks import only_build
from scripts.system.progress import Progress, Task

# Half a year, as finch-core's releases have: who has not been updated by then is told so.
DAYS = 183


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


def main(argv: Sequence[str]) -> None:
    """Publish what argv asks for."""
    wanted = parse(argv, os.environ)
    # No build may write to what has been looked at and is on its way.
    with only_build(wanted.work):
        publish(wanted, Progress())


def parse(argv: Sequence[str], environ: Mapping[str, str], *, root: Path = ROOT) -> Wanted:
    """What argv and environ ask for. Raises UsageError."""
    parser = _parser(root)
    given = parser.parse_args(argv)
    if given.distribution not in DISTRIBUTIONS:
        raise UsageError(
            f"unknown distribution {given.distribution!r}",
            hint=f"accepted are {', '.join(DISTRIBUTIONS)}",
        )
    if not (given.bucket or given.repository):
        raise UsageError("neither --bucket nor --repository is given: there is nowhere to publish")
    if given.repository and not push.REPOSITORY.match(given.repository):
        raise UsageError(
            f"--repository {given.repository} names no registry",
            hint="write HOST/NAME, such as 123456789012.dkr.ecr.us-west-2.amazonaws.com/finch",
        )
    run = given.run_id or environ.get("GITHUB_RUN_ID", "")
    if not release.RUN_ID.fullmatch(run):
        raise UsageError(
            f"{run!r} is no number of a run", hint="-- --run-id NUMBER, larger for each release"
        )
    if given.expires_days < 1:
        raise UsageError("a release that expires before tomorrow is of no use to anybody")
    signing.check_key(given.key)
    names = [arches.parse(name).name for name in given.arch] or arches.NAMES
    folders = [(given.out or root / "out") / given.distribution / name for name in names]
    outs = folders if given.arch else [path for path in folders if (path / MANIFEST).exists()]
    return Wanted(
        outs=tuple(path.absolute() for path in outs or folders),
        run=run,
        bucket=given.bucket,
        repository=given.repository.rstrip("/"),
        base_url=given.base_url or f"https://{given.bucket}.s3.amazonaws.com",
        days=given.expires_days,
        key=given.key.absolute() if given.key else None,
        has_identity=signing.has_identity(environ),
        latest=given.latest,
        dry_run=given.dry_run,
        allowed=Allowed(given.release, given.allow_unbooted, given.allow_altered),
        root=root,
        work=(given.work or root / ".work").absolute(),
    )


def _parser(root: Path) -> Parser:
    parser = Parser(
        prog="./nox -s publish --",
        description="Publishes the finished builds of a distribution. What is there already is left"
        " alone if it is the same, and never replaced if it is not.",
        epilog="environment: GITHUB_RUN_ID stands in for --run-id; AWS_PROFILE and the like as for"
        " the AWS CLI; COSIGN_PASSWORD is of the key",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what")
    what.add_argument(
        "--distribution",
        metavar="NAME",
        default=DISTRIBUTIONS[0],
        help=f"one of {', '.join(DISTRIBUTIONS)} (default: {DISTRIBUTIONS[0]})",
    )
    what.add_argument(
        "--arch",
        metavar="NAME",
        action="append",
        default=[],
        help="may be given again (default: those that are built)",
    )
    what.add_argument("--run-id", metavar="NUMBER", default="", help="in the names of files")
    what.add_argument(
        "--allow-unbooted",
        action="store_true",
        help="publish what was not booted, or failed its boot test",
    )
    what.add_argument(
        "--allow-altered",
        action="store_true",
        help="publish what was built with a key, pins or packages of one's own, or without some",
    )
    what.add_argument(
        "--release",
        metavar="NAME",
        default="",
        help="that was built (default: the one that the checkout pins)",
    )
    where = parser.add_argument_group("where")
    where.add_argument("--bucket", metavar="NAME", default="", help="of S3, for the files")
    where.add_argument(
        "--repository",
        metavar="HOST/NAME",
        default="",
        help="of a registry, such as ECR, for container-with-kernel",
    )
    where.add_argument(
        "--base-url",
        metavar="URL",
        default="",
        help="that the bucket is read at (default: S3's own)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--dry-run", action="store_true", help="say what would be done, and where")
    how.add_argument(
        "--key",
        metavar="FILE",
        type=Path,
        help="of cosign, to sign with (default: CI's identity, if there is one)",
    )
    how.add_argument(
        "--expires-days",
        metavar="N",
        type=int,
        default=DAYS,
        help=f"that the release is good for (default: {DAYS})",
    )
    how.add_argument(
        "--latest", action="store_true", help="let manifest.json of the bucket tell of this release"
    )
    how.add_argument(
        "--out", metavar="FOLDER", type=Path, help=f"of the artifacts (default: {root / 'out'})"
    )
    how.add_argument(
        "--work", metavar="FOLDER", type=Path, help=f"kept between runs (default: {root / '.work'})"
    )
    return parser


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


if __name__ == "__main__":
    errors.main(main)
