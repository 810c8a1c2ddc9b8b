"""Makes finch-core's `deps/full-os.conf` and `deps/rootfs.conf` from a published release.

Nothing is taken on trust: each file that they name is downloaded and hashed, and its digest must be
the one that the release manifest and the checksum file beside it have.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from scripts import arch as arches
from scripts import catalog
from scripts.arch import Arch
from scripts.publish import conf
from scripts.publish.announcement import Validity
from scripts.publish.conf import Entry
from scripts.publish.release import RUN_ID
from scripts.system import fetch, strict
from scripts.system.errors import HarnessError
from scripts.system.fetch import MissingError
from scripts.system.progress import Progress, Task
from scripts.system.text import printable, say
from scripts.system.url import Url

# By the platform that downloads them, in the words of Go's GOOS: the file that names its images.
FILES: Mapping[str, str] = {"darwin": "full-os.conf", "windows": "rootfs.conf"}

# A disk image has about half a gigabyte.
LARGEST = 16 << 30  # bytes

# A checksum file holds the sha512 in hex, and nothing else.
CHECKSUM = re.compile(r"[0-9a-f]{128}")

OTHER = f"name the run that published it with {catalog.option('run-id')}"


@dataclass(frozen=True)
class Wanted:
    """Which release the files are to name.

    base_url is where people download the bucket's files, run the number of the CI run, and product
    what the distribution is called in published names. folder has the files.
    """

    base_url: Url
    run: str
    product: str
    folder: Path

    @property
    def manifest(self) -> str:
        """The name of the release manifest."""
        return f"finch-{self.product}-manifest-{self.run}.json"


@dataclass(frozen=True)
class Download:
    """A file that a whole release has: who downloads it, and the template of its name."""

    platform: str
    arch: Arch
    template: str

    def key(self, wanted: Wanted) -> str:
        """Return its key in the bucket."""
        return self.template.format(product=wanted.product, arch=self.arch.mkosi, run=wanted.run)

    def run_of(self, name: str, product: str) -> int:
        """Return the number of the run in a name like its own without the folder; 0 in others."""
        template = self.template.rpartition("/")[2]
        before, after = template.format(
            product=product, arch=self.arch.mkosi, run="\0"
        ).split("\0")  # fmt: skip
        match = re.fullmatch(f"{re.escape(before)}({RUN_ID.pattern}){re.escape(after)}", name)
        return int(match[1]) if match else 0


def downloads() -> list[Download]:
    """Return the files that a whole release has."""
    return [
        Download(platform, arches.parse(arch), image.published[artifact])
        for image in catalog.IMAGES.values()
        for artifact, platform in image.platforms.items()
        for arch in sorted(image.arches)
    ]


def update(wanted: Wanted, progress: Progress, *, check: bool) -> None:
    """Write the files, or with check only compare them. Raises HarnessError.

    It also raises HarnessError if check finds a difference.
    """
    texts = {wanted.folder / name: conf.read(wanted.folder / name) for name in FILES.values()}
    _check_order(texts.values(), wanted)
    with progress.task("release") as task:
        found = published(wanted, task)
    base_url = str(wanted.base_url)
    new = {path: conf.edited(text, base_url, found[path.name]) for path, text in texts.items()}
    changed = {path: text for path, text in new.items() if text != texts[path]}
    if check:
        _compare(texts, changed, wanted)
        return
    if changed:
        conf.write_all(changed)
    for path in new:
        say(f"{path} {'now names' if path in changed else 'already names'} run {wanted.run}")


def named_run(folder: Path, product: str) -> str:
    """Return the number of the run that all files in folder name. Raises HarnessError."""
    runs = {}
    for name in FILES.values():
        for artifact in conf.artifacts(conf.read(folder / name)):
            runs[artifact] = max(one.run_of(artifact, product) for one in downloads())
    found = {*runs.values()}
    if len(runs) < len(downloads()) or 0 in found:
        what = next((name for name, run in runs.items() if not run), "")
        raise HarnessError(
            f"{folder} does not name a whole release of {product}"
            + (f": {printable(what)}" if what else ""),
            hint=f"write its files with `{_command()}`",
        )
    if len(found) > 1:
        listed = ", ".join(map(str, sorted(found)))
        raise HarnessError(
            f"the files in {folder} name different runs: {listed}",
            hint=f"write them with `{_command()}`",
        )
    return str(found.pop())


def _command(run: str = "") -> str:
    """Return the command that writes the files; run is the number of the run, if it is known."""
    return catalog.command("deps", catalog.flag("run-id"), run or catalog.metavar("run-id"))


def _check_order(texts: Iterable[str], wanted: Wanted) -> None:
    """Raise HarnessError if a text names a newer release than wanted: Finch would go back."""
    names = [name for text in texts for name in conf.artifacts(text)]
    newest = max(
        (one.run_of(name, wanted.product) for name in names for one in downloads()), default=0
    )
    if newest > int(wanted.run):
        raise HarnessError(
            f"{wanted.folder} names run {newest}, which is newer than {wanted.run}",
            hint="to go back, restore the earlier files with git",
        )


def _compare(texts: Mapping[Path, str], changed: Mapping[Path, str], wanted: Wanted) -> None:
    for path, text in changed.items():
        before, after = texts[path].splitlines(), text.splitlines()
        for line in difflib.unified_diff(before, after, str(path), wanted.manifest, lineterm=""):
            say(line)
    if changed:
        names = ", ".join(path.name for path in changed)
        raise HarnessError(
            f"{names} in {wanted.folder} does not name what run {wanted.run} has published",
            hint=f"write it with `{_command(wanted.run)}`",
        )
    say(f"the files in {wanted.folder} name what run {wanted.run} has published")


def published(wanted: Wanted, task: Task) -> dict[str, list[Entry]]:
    """Return what each file has to name, after downloading all of it.

    Raises HarnessError if the release is not whole, is of another run, or is not what it claims.
    """
    listed = _listed(wanted, task)
    found: dict[str, list[Entry]] = {name: [] for name in FILES.values()}
    for one in downloads():
        sha512 = _digest(one, listed, wanted)
        entry = Entry(one.arch, one.key(wanted), sha512)
        _verify(wanted.base_url / entry.key, sha512, task)
        found[FILES[one.platform]].append(entry)
    return found


def _listed(wanted: Wanted, task: Task) -> Sequence[Mapping[str, Any]]:
    """Return the downloads that the release manifest lists."""
    url = wanted.base_url / wanted.manifest
    task.step(f"reading {url}")
    try:
        text = fetch.read(url)
    except MissingError as error:
        raise HarnessError(
            f"run {wanted.run} has not published a release: {error.message}", hint=OTHER
        ) from error
    try:
        Validity.read(text).check(datetime.now(UTC))
        listed = strict.loads(text)["artifacts"]
        for one in listed:
            _ = str(one["platform"]), str(one["arch"]), str(one["url"]), str(one["digest"])
    except strict.ODDITIES as error:
        raise HarnessError(f"{url} is not a valid release manifest: {error!r}") from error
    return list(listed)


def _digest(one: Download, listed: Sequence[Mapping[str, Any]], wanted: Wanted) -> str:
    """Return the sha512 that the release manifest has of a download. Raises HarnessError."""
    kind = f"{one.platform}/{one.arch.debian}"
    of_kind = [entry for entry in listed if f"{entry['platform']}/{entry['arch']}" == kind]
    if len(of_kind) != 1:
        raise HarnessError(
            f"{wanted.manifest} lists more than one download for {kind}"
            if of_kind
            else f"{wanted.manifest} is not whole: it lacks the download for {kind}",
            hint=f"publish all architectures together, with another {catalog.flag('run-id')}",
        )
    [entry] = of_kind
    expected = str(wanted.base_url / one.key(wanted))
    if unquote(str(entry["url"])) != unquote(expected):
        raise HarnessError(
            f"{wanted.manifest} lists {printable(str(entry['url']))} for {kind}, "
            f"and not {expected}",
            hint=f"is {catalog.flag('base-url')} the one that it was published with?",
        )
    sha512 = str(entry["digest"]).removeprefix("sha512:")
    if not CHECKSUM.fullmatch(sha512) or entry.get("sha512", sha512) != sha512:
        raise HarnessError(f"{wanted.manifest} has no usable sha512 for {kind}")
    return sha512


def _verify(url: Url, sha512: str, task: Task) -> None:
    """Raise HarnessError unless the file at url, and the checksum beside it, are sha512's."""
    beside = url.replace(url.whole, f"{url.whole}.sha512sum")
    task.step(f"checking {url}")
    text = fetch.read(beside, limit=1 << 10).decode(errors="replace").strip()
    if text != sha512:
        raise HarnessError(
            f"{beside} does not hold the sha512 that the release manifest has, {sha512}"
        )
    came = fetch.digest(url, "sha512", progress_task=task, limit=LARGEST)
    if came != sha512:
        raise HarnessError(f"{url} is not the published file: its sha512 is {came}, not {sha512}")
