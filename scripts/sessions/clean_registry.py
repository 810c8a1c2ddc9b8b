"""Delete older images of releases from a registry, for the clean-registry session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts import catalog
from scripts.catalog import ROOT
from scripts.publish import cleaning, programs, registry
from scripts.publish.cleaning import Named
from scripts.sessions import arguments
from scripts.sessions.arguments import Group, Parser
from scripts.system import errors
from scripts.system.errors import UsageError
from scripts.system.progress import Progress

# A week of releases, one a day.
KEEP = 7


def main(argv: Sequence[str]) -> None:
    """Delete what argv asks for, or only show it. Raises HarnessError."""
    given = _parser(ROOT).parse_args(argv)
    progress, work = Progress(), arguments.folder(given.work, ROOT, "work")
    if given.prepare:
        programs.obtain("skopeo", work, progress)
        return
    if given.keep < 1:
        raise UsageError(f"--keep must be 1 or more, not {given.keep}")
    repository = registry.checked_repository(given.repository)
    named = Named.read((given.deps or ROOT / "deps").absolute())
    skopeo = programs.obtain("skopeo", work, progress)
    with (
        registry.opened(skopeo, repository) as place,
        progress.task("registry") as task,
    ):
        cleaning.clean(place, named, given.keep, task, dry_run=given.dry_run)


def _parser(root: Path) -> Parser:
    parser = Parser(
        "clean-registry",
        "Deletes older images of releases from a registry. An image stays if a file of finch-core's"
        " deps names it, or if another tag that stays, such as latest-arm64, refers to it.",
    )
    group = Group(parser.add_argument_group("what to delete"), root)
    group.add("repository", "the repository to clean, for example in ECR", default="")
    group.add("keep", f"releases to keep for each architecture (default: {KEEP})",
              type=int, default=KEEP)  # fmt: skip
    group.add("deps", f"folder with finch-core's *.conf (default: {root / 'deps'})", type=Path)
    group.add("dry-run", "only show what would be deleted")
    group.add("prepare", "only download the program that deletes; takes no credentials")
    group.add(
        "work",
        f"folder for what is kept between runs (default: {root / catalog.WORK})",
        type=Path,
    )
    return parser


if __name__ == "__main__":
    errors.main(main)
