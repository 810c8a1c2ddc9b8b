"""Makes finch-core's `deps/full-os.conf` and `deps/rootfs.conf` from a published release.

Nothing is taken on trust: each file that they name is downloaded and hashed, and its digest must be
the one that the release manifest and the checksum file beside it have.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scripts import arch as arches
from scripts import catalog
from scripts.publish import announcement, conf
from scripts.publish.announcement import LARGEST, Announcement
from scripts.publish.conf import Entry
from scripts.publish.release import RUN_OF_NAME
from scripts.publish.run import Run
from scripts.system import fetch, strict
from scripts.system.errors import HarnessError, UsageError
from scripts.system.fetch import MissingError
from scripts.system.progress import Progress, Task
from scripts.system.text import printable, say
from scripts.system.url import Url

# By the platform that downloads them, in the words of Go's GOOS: the file that names its images.
FILES: Mapping[str, str] = {"darwin": "full-os.conf", "windows": "rootfs.conf"}


@dataclass(frozen=True)
class Wanted:
    """Which release the files in folder are to name."""

    run: Run
    folder: Path


def update(wanted: Wanted, progress: Progress, *, check: bool) -> None:
    """Write the files, or with check only compare them. Raises HarnessError.

    It also raises HarnessError if check finds a difference.
    """
    texts = {wanted.folder / name: conf.read(wanted.folder / name) for name in FILES.values()}
    _check_order(texts.values(), wanted)
    with progress.task("release") as task:
        found = published(wanted.run, task)
    base_url = wanted.run.url("").rstrip("/")
    new = {path: conf.edited(text, base_url, found[path.name]) for path, text in texts.items()}
    changed = {path: text for path, text in new.items() if text != texts[path]}
    if check:
        _compare(texts, changed, wanted)
        return
    if changed:
        conf.write_all(changed)
    for path in new:
        say(f"{path} {'now names' if path in changed else 'already names'} run {wanted.run.number}")


def named_run(folder: Path, product: str) -> str:
    """Return the number of the run that all files in folder name. Raises HarnessError."""
    if not any((folder / file).exists() for file in FILES.values()):
        raise UsageError(
            f"{folder} has no {' and no '.join(FILES.values())}",
            hint=f"name finch-core's folder with {catalog.option('into')}, or write the files with "
            f"`{_command()}`",
        )
    names = [name for file in FILES.values() for name in conf.artifacts(conf.read(folder / file))]
    runs = {_run_of(name, product) for name in names}
    if len(names) < len(announcement.required()) or 0 in runs:
        raise HarnessError(
            f"{folder} does not name a whole release of {product}",
            hint=f"write its files with `{_command()}`",
        )
    if len(runs) > 1:
        listed = ", ".join(map(str, sorted(runs)))
        raise HarnessError(
            f"the files in {folder} name different runs: {listed}",
            hint=f"write them with `{_command()}`",
        )
    return str(runs.pop())


def _run_of(name: str, product: str) -> int:
    """Return the number of the run that has published name, 0 if it is no release of product."""
    match = RUN_OF_NAME.search(name)
    keys = Run(product, match["run"], "").keys() if match else ()
    is_ours = name in {key.rpartition("/")[2] for key in keys}
    return int(match["run"]) if match and is_ours else 0


def _command(run: str = "") -> str:
    """Return the command that writes the files; run is the number of the run, if it is known."""
    return catalog.command("deps", catalog.flag("run-id"), run or catalog.metavar("run-id"))


def _check_order(texts: Iterable[str], wanted: Wanted) -> None:
    """Raise HarnessError if a text names a newer release than wanted: Finch would go back."""
    names = [name for text in texts for name in conf.artifacts(text)]
    newest = max((_run_of(name, wanted.run.product) for name in names), default=0)
    if newest > int(wanted.run.number):
        raise HarnessError(
            f"{wanted.folder} names run {newest}, which is newer than {wanted.run.number}",
            hint="to go back, restore the earlier files with git",
        )


def _compare(texts: Mapping[Path, str], changed: Mapping[Path, str], wanted: Wanted) -> None:
    for path, text in changed.items():
        before, after = texts[path].split("\n"), text.split("\n")
        for line in difflib.unified_diff(
            before, after, str(path), wanted.run.manifest, lineterm=""
        ):
            say(printable(line))  # such as a carriage return, which makes the difference
    if changed:
        names = ", ".join(path.name for path in changed)
        raise HarnessError(
            f"{names} in {wanted.folder} does not name what run {wanted.run.number} has published",
            hint=f"write it with `{_command(wanted.run.number)}`",
        )
    say(f"the files in {wanted.folder} name what run {wanted.run.number} has published")


def published(run: Run, task: Task) -> dict[str, list[Entry]]:
    """Return what each file has to name, after downloading all of it.

    Raises HarnessError if the release is not whole, is of another run, or is not what it claims.
    """
    announced = _announced(run, task)
    if missing := announced.missing():
        raise HarnessError(
            f"{run.manifest} is not whole: it lacks the download for {missing[0]}",
            hint="publish the missing architecture, with the same "
            f"{catalog.flag('run-id')} and {catalog.flag('base-url')}",
        )
    found: dict[str, list[Entry]] = {name: [] for name in FILES.values()}
    for one in sorted(announced.downloads, key=lambda one: arches.parse(one.arch).name):
        key = one.url.removeprefix(run.url(""))
        _verify(Url(one.url), one.sha512, task)
        found[FILES[one.platform]].append(Entry(arches.parse(one.arch), key, one.sha512))
    return found


def _announced(run: Run, task: Task) -> Announcement:
    """Return what the release manifest of run announces. Raises HarnessError."""
    url = Url(run.url(run.manifest))
    task.step(f"reading {url}")
    try:
        return run.parse_manifest(fetch.read(url), datetime.now(UTC))
    except MissingError as error:
        raise HarnessError(
            f"run {run.number} has not published a release: {error.message}",
            hint=f"name the run that published it with {catalog.option('run-id')}",
        ) from error
    except strict.ODDITIES as error:
        raise HarnessError(
            f"{url} is not a release manifest of run {run.number}: {error}",
            hint=f"is {catalog.flag('base-url')} the one that it was published with?",
        ) from error


def _verify(url: Url, sha512: str, task: Task) -> None:
    """Raise HarnessError unless the file at url, and the checksum beside it, are sha512's."""
    beside = Url(f"{url.whole}.sha512sum")
    task.step(f"checking {url}")
    text = fetch.read(beside, limit=1 << 10).decode(errors="replace").strip()
    if text != sha512:
        raise HarnessError(
            f"{beside} does not hold the sha512 that the release manifest has, {sha512}"
        )
    came = fetch.digest(url, "sha512", progress_task=task, limit=LARGEST)
    if came != sha512:
        raise HarnessError(f"{url} is not the published file: its sha512 is {came}, not {sha512}")
