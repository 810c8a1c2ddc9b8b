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

# Half a year, as for finch-core's releases; whoever has not updated by then is told so.
DAYS = 183


def main(argv: Sequence[str]) -> None:
    """Publish what argv asks for."""
    wanted = parse(argv, os.environ)
    # No build may change files that have been checked and are being uploaded.
    with only_build(wanted.work):
        publish(wanted, Progress())


def parse(argv: Sequence[str], environ: Mapping[str, str], *, root: Path = ROOT) -> Wanted:
    """Read what argv and environ ask for. Raises UsageError."""
    parser = _parser(root)
    given = parser.parse_args(argv)
    distribution = arguments.parse_distribution(given.distribution)
    if not (given.bucket or given.repository):
        raise UsageError("neither --bucket nor --repository is given: there is nowhere to publish")
    if given.repository and not push.REPOSITORY.match(given.repository):
        raise UsageError(
            f"--repository {given.repository} does not name a registry",
            hint="write HOST/NAME, such as 123456789012.dkr.ecr.us-west-2.amazonaws.com/finch",
        )
    run = given.run_id or environ.get("GITHUB_RUN_ID", "")
    if not release.RUN_ID.fullmatch(run):
        raise UsageError(
            f"the run ID must be a number, not {run!r}",
            hint="-- --run-id NUMBER, larger for each release",
        )
    if given.expires_days < 1:
        raise UsageError(f"--expires-days must be 1 or more, not {given.expires_days}")
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
        "Publishes the finished builds of a distribution. A file that is already there is"
        " skipped if it is the same and refused if it differs.",
        epilog="Environment: GITHUB_RUN_ID stands in for --run-id. AWS_PROFILE and the like work as"
        " with the AWS CLI. COSIGN_PASSWORD unlocks the key.",
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
        help="publish only this architecture; can be given more than once (default: all that are"
        " built)",
    )
    what.add_argument(
        "--run-id",
        metavar="NUMBER",
        default="",
        help="number in the names of files, larger for each release",
    )
    what.add_argument(
        "--allow-unbooted",
        action="store_true",
        help="publish images that were not booted, or failed their boot test",
    )
    what.add_argument(
        "--allow-altered",
        action="store_true",
        help="publish a build with a key, pins or packages of your own, or without some of ours",
    )
    what.add_argument(
        "--release",
        metavar="NAME",
        default="",
        help="release of the distribution that was built (default: the one that the checkout pins)",
    )
    where = parser.add_argument_group("where")
    where.add_argument("--bucket", metavar="NAME", default="", help="S3 bucket for the files")
    where.add_argument(
        "--repository",
        metavar="HOST/NAME",
        default="",
        help=f"registry repository, such as one of ECR, for {catalog.CONTAINER}",
    )
    where.add_argument(
        "--base-url",
        metavar="URL",
        default="",
        help="address at which people read the bucket (default: S3's own)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--dry-run", action="store_true", help="only show what would be done")
    how.add_argument(
        "--key",
        metavar="FILE",
        type=Path,
        help="cosign key to sign with (default: CI's identity, if there is one)",
    )
    how.add_argument(
        "--expires-days",
        metavar="N",
        type=int,
        default=DAYS,
        help=f"days until the release expires (default: {DAYS})",
    )
    how.add_argument(
        "--latest",
        action="store_true",
        help="make the bucket's manifest.json describe this release",
    )
    how.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        help=f"where the artifacts are (default: {root / catalog.OUT})",
    )
    how.add_argument(
        "--work",
        metavar="FOLDER",
        type=Path,
        help=f"where work is kept between runs (default: {root / catalog.WORK})",
    )
    return parser


if __name__ == "__main__":
    errors.main(main)
