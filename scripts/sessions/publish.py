"""Publish finished builds, for the publish session."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts import arch as arches
from scripts import catalog
from scripts.build import manifest
from scripts.catalog import ROOT
from scripts.publish import programs, registry, release, signing
from scripts.publish.announcement import LONGEST
from scripts.publish.promote import Promotion, promote
from scripts.publish.publish import Wanted, publish
from scripts.publish.release import Allowed
from scripts.publish.run import Run, checked_number
from scripts.publish.signing import Signing
from scripts.sessions import arguments
from scripts.sessions.arguments import Group, Parser
from scripts.stages import places
from scripts.system import errors
from scripts.system.errors import UsageError
from scripts.system.locks import only_build
from scripts.system.progress import Progress
from scripts.system.url import Url, shown


def main(argv: Sequence[str]) -> None:
    """Publish what argv asks for, or only prepare for it."""
    given = _parser(ROOT).parse_args(argv)
    if given.prepare:
        programs.prepare((given.work or ROOT / catalog.WORK).absolute(), Progress())
        return
    if given.published:
        promote(parse_promotion(argv, os.environ), Progress())
        return
    wanted = parse(argv, os.environ)
    # No build may change files that have been checked and are being uploaded.
    with only_build(wanted.work):
        publish(wanted, Progress())


def parse(argv: Sequence[str], environ: Mapping[str, str], *, root: Path = ROOT) -> Wanted:
    """Read what argv and environ ask for. Raises UsageError."""
    given = _parser(root).parse_args(argv)
    distribution = arguments.parse_distribution(given.distribution)
    run = _run(given, environ)
    if given.signed_by:
        raise UsageError("--signed-by is for --published only")
    names = [arches.parse(name).name for name in given.arch] or arches.NAMES
    out = arguments.folder(given.out, root, "out")
    folders = [out / distribution.name / name for name in names]
    outs = folders if given.arch else [path for path in folders if (path / manifest.NAME).exists()]
    return Wanted(
        outs=tuple(path.absolute() for path in outs or folders),
        run=run,
        bucket=given.bucket,
        repository=_repository(given),
        base_url=_address(given),
        days=given.expires_days,
        signing=_signing(given, environ),
        latest=given.latest,
        partial=given.allow_partial,
        dry_run=given.dry_run,
        allowed=Allowed(given.release, given.allow_unbooted, given.allow_altered),
        root=root,
        work=arguments.folder(given.work, root, "work"),
    )


def parse_promotion(
    argv: Sequence[str], environ: Mapping[str, str], *, root: Path = ROOT
) -> Promotion:
    """Read which published run argv and environ ask to make the latest. Raises UsageError."""
    given = _parser(root).parse_args(argv)
    distribution = arguments.parse_distribution(given.distribution)
    run = _run(given, environ)
    if not (given.latest and given.bucket):
        raise UsageError("--published needs --latest and --bucket: it makes a run the latest one")
    for name in ("arch", "out", "allow-unbooted", "allow-altered"):
        if getattr(given, name.replace("-", "_")):
            raise UsageError(f"--published reads no build, so --{name} makes no sense")
    release_name = given.release or places.release_of(root, distribution)
    signing_ = _signing(given, environ)
    return Promotion(
        Run(
            release.product(distribution, release_name),
            run,
            _address(given),
            _repository(given),
        ),
        bucket=given.bucket,
        days=given.expires_days,
        signing=signing_,
        signed_by=given.signed_by or signing.builders_identity(signing_.identity),
        partial=given.allow_partial,
        dry_run=given.dry_run,
        work=arguments.folder(given.work, root, "work"),
    )


def _run(given: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Return the number of the run, after checking what both kinds of publishing need."""
    if not (given.bucket or given.repository):
        raise UsageError("neither --bucket nor --repository is given: there is nowhere to publish")
    hint = f"pass a number that is larger than the last release's: {catalog.option('run-id')}"
    run = checked_number(given.run_id or environ.get("GITHUB_RUN_ID", ""), hint)
    if given.allow_partial and not given.latest:
        raise UsageError("--allow-partial is for --latest only")
    if not 1 <= given.expires_days <= LONGEST:
        raise UsageError(f"--expires-days must be 1 to {LONGEST}, not {given.expires_days}")
    return run


def _repository(given: argparse.Namespace) -> str:
    return registry.checked_repository(given.repository) if given.repository else ""


def _signing(given: argparse.Namespace, environ: Mapping[str, str]) -> Signing:
    signing.check_key(given.key)
    return Signing(
        given.key.absolute() if given.key else None,
        signing.has_identity(environ),
        signing.own_identity(environ),
    )


def _address(given: argparse.Namespace) -> str:
    """Return where people download the bucket's files from."""
    return _base_url(given.base_url) or f"https://{given.bucket}.s3.amazonaws.com"


def _base_url(text: str) -> str:
    """Return text, a URL that the manifest will have. Raises UsageError if it is none.

    It may not have a password, nor a query, which may hold one.
    """
    if text and Url(text).credentials:
        raise UsageError(
            f"--base-url {shown(text)} has a password in it, which the public manifest would show"
        )
    try:
        return Url.parse(text).whole if text else ""
    except ValueError as error:
        raise UsageError(f"--base-url {shown(text)} {error}") from None


def _parser(root: Path) -> Parser:
    parser = Parser(
        "publish",
        "Publishes the finished builds of a distribution. A published file is skipped if"
        " it is the same; if it differs, nothing is published.",
        epilog="Environment: GITHUB_RUN_ID stands in for --run-id. AWS_PROFILE and the like work as"
        " with the AWS CLI. COSIGN_PASSWORD unlocks the key.",
    )
    for title, add in {"what": _add_what, "where": _add_where, "how": _add_how}.items():
        add(Group(parser.add_argument_group(title), root))
    return parser


def _add_what(group: Group) -> None:
    names = ", ".join(catalog.DISTRIBUTIONS)
    group.add("distribution", f"one of {names} (default: {catalog.DEFAULT})")
    group.add(
        "arch",
        "publish only this architecture; may be repeated (default: all that were built)",
        action="append",
        default=[],
    )
    group.add("run-id", "number in the files' names; must grow with each release", default="")
    group.add("allow-unbooted", "publish images that were not boot-tested, or failed the test")
    group.add(
        "allow-altered",
        "publish a build with a key, pins, packages or mkosi of your own, or without some of ours",
    )
    group.add(
        "release",
        "release of the distribution that was built (default: the one that the checkout pins)",
        default="",
    )


def _add_where(group: Group) -> None:
    group.add("bucket", "S3 bucket for the files", default="")
    group.add(
        "repository",
        f"push {catalog.CONTAINER} to this repository, for example in ECR",
        default="",
    )
    group.add("base-url", "address people download the files from (default: S3's own)", default="")


def _add_how(group: Group) -> None:
    group.add("dry-run", "only show what would be published")
    group.add("prepare", "only download the programs that publishing needs; takes no credentials")
    group.add("key", "cosign key to sign with (default: CI's identity, if there is one)", type=Path)
    group.add(
        "expires-days",
        f"days until the release expires, at most {LONGEST} (default: {LONGEST})",
        type=int,
        default=LONGEST,
    )
    group.add("latest", "make this release the one that people get: manifest.json in the bucket")
    group.add("allow-partial", "let --latest announce a release that lacks an architecture")
    group.add("published", "with --latest: the run is published already, so no build is needed")
    group.add(
        "signed-by",
        "with --published: the workflow that must have signed the run's manifest (default:"
        f" {signing.BUILDER} beside the workflow of this job)",
        default="",
    )
    group.add("out", f"where the artifacts are (default: {group.root / catalog.OUT})", type=Path)
    group.add(
        "work",
        f"folder for what is kept between runs (default: {group.root / catalog.WORK})",
        type=Path,
    )


if __name__ == "__main__":
    errors.main(main)
