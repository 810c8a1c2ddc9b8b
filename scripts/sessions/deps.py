"""Write finch-core's deps/*.conf from a published release, for the deps session."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from scripts import catalog
from scripts.catalog import ROOT
from scripts.publish import deps, release
from scripts.publish.deps import Wanted
from scripts.publish.run import Run, checked_number
from scripts.sessions import arguments
from scripts.sessions.arguments import Group, Parser
from scripts.stages import places
from scripts.system import errors
from scripts.system.errors import UsageError
from scripts.system.progress import Progress
from scripts.system.redirects import is_local
from scripts.system.text import say
from scripts.system.url import Url, shown

# Where finch-core's own updater says that its files are downloaded from.
BASE_URL = "https://deps.runfinch.com"

# Shells read the files, so no value may have a character that means something to them.
PLAIN = re.compile(r"[A-Za-z0-9.:/_~%\[\]-]+")


def main(argv: Sequence[str]) -> None:
    """Write the files, compare them, or only print which run they name. Raises HarnessError."""
    parser = _parser(ROOT)
    given = parser.parse_args(argv)
    folder = (given.into or ROOT / "deps").absolute()
    product = _product(given, ROOT)
    if given.show_run:
        say(deps.named_run(folder, product))
        return
    run = Run(product, _run(given, folder, product), _base_url(given.base_url))
    deps.update(Wanted(run, folder), Progress(), check=given.check)


def _run(given: Namespace, folder: Path, product: str) -> str:
    if given.check and not given.run_id:
        return deps.named_run(folder, product)
    hint = f"name the run that published the release: {catalog.option('run-id')}"
    return checked_number(given.run_id, hint)


def _product(given: Namespace, root: Path) -> str:
    distribution = arguments.parse_distribution(given.distribution)
    name = given.release or places.release_of(root, distribution)
    return release.product(distribution, name)


def _base_url(text: str) -> str:
    """Return text, an address that the files will have. Raises UsageError if it will not do."""
    option = f"{catalog.flag('base-url')} {shown(text)}"
    try:
        url = Url.parse(text.rstrip("/"))
    except ValueError as error:
        raise UsageError(f"{option} {error}") from None
    if url.credentials:
        raise UsageError(f"{option} has a password in it, which everybody could read")
    if not PLAIN.fullmatch(url.whole):
        raise UsageError(f"{option} has a character that means something to a shell")
    if urlsplit(url.whole).scheme != "https" and not is_local(url.host):
        raise UsageError(
            f"{option} is not encrypted, so anyone on the way could change what it has",
            hint=f"use https, as in {BASE_URL}",
        )
    return url.whole


def _parser(root: Path) -> Parser:
    parser = Parser(
        "deps",
        "Writes finch-core's deps/full-os.conf and deps/rootfs.conf from what a run has published."
        " Everything that they name is downloaded and hashed first.",
    )
    group = Group(parser.add_argument_group("which release"), root)
    group.add("run-id", "number of the run that published it", default="")
    group.add("base-url", f"address its files are downloaded from (default: {BASE_URL})",
              default=BASE_URL)  # fmt: skip
    names = ", ".join(catalog.DISTRIBUTIONS)
    group.add("distribution", f"one of {names} (default: {catalog.DEFAULT})")
    group.add("release", "release of the distribution (default: the one that the checkout pins)",
              default="")  # fmt: skip
    group = Group(parser.add_argument_group("what to do"), root)
    group.add("into", f"folder of the two files (default: {root / 'deps'})", type=Path)
    group.add("check", "change nothing; the exit status is 1 if a file differs from the release "
              "(default: that of the run that the files name)")  # fmt: skip
    group.add("show-run", "only print the number of the run that the files name")
    return parser


if __name__ == "__main__":
    errors.main(main)
