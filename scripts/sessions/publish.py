"""Publish finished builds, for the publish session."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts import arch as arches
from scripts import catalog
from scripts.catalog import ROOT
from scripts.publish import push, release, signing
from scripts.publish.publish import Wanted, publish
from scripts.publish.release import Allowed
from scripts.sessions import arguments
from scripts.sessions.arguments import Parser
from scripts.stages.artifacts import MANIFEST
from scripts.system import errors
from scripts.system.errors import UsageError
from scripts.system.locks import only_build
from scripts.system.progress import Progress

# Half a year, as finch-core's releases have: who has not been updated by then is told so.
DAYS = 183


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
    distribution = arguments.parse_distribution(given.distribution)
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
    folders = [(given.out or root / catalog.OUT) / distribution.name / name for name in names]
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
        work=(given.work or root / catalog.WORK).absolute(),
    )


def _parser(root: Path) -> Parser:
    parser = Parser(
        "publish",
        "Publishes the finished builds of a distribution. What is there already is left"
        " alone if it is the same, and never replaced if it is not.",
        epilog="environment: GITHUB_RUN_ID stands in for --run-id; AWS_PROFILE and the like as for"
        " the AWS CLI; COSIGN_PASSWORD is of the key",
    )
    what = parser.add_argument_group("what")
    what.add_argument(
        "--distribution",
        metavar="NAME",
        default=catalog.DEFAULT.name,
        help=f"one of {', '.join(catalog.DISTRIBUTIONS)} (default: {catalog.DEFAULT})",
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
        "--out",
        metavar="FOLDER",
        type=Path,
        help=f"of the artifacts (default: {root / catalog.OUT})",
    )
    how.add_argument(
        "--work",
        metavar="FOLDER",
        type=Path,
        help=f"kept between runs (default: {root / catalog.WORK})",
    )
    return parser


if __name__ == "__main__":
    errors.main(main)
