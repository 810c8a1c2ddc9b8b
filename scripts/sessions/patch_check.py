"""Check our patches on mkosi and our configuration of it, for the patch-check session.

The patches must apply without fuzz to the pinned mkosi and to the newest one of each source. The
mkosi that builds use must accept all of our configuration. The checks of mkosi's own CI must find
nothing that they did not find before the patches.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts import arch, catalog
from scripts.arch import Arch
from scripts.build.workshop import obtain_mkosi
from scripts.distributions import debian
from scripts.mkosi import patches, source, upstream
from scripts.mkosi import pin as pins
from scripts.mkosi.pin import Pin
from scripts.mkosi.source import Mkosi
from scripts.mkosi.unpacking import unpack
from scripts.mkosi.upstream import Result
from scripts.options import Folders, Options, Sources
from scripts.pins import edits
from scripts.pins.edits import Edit
from scripts.sessions import arguments
from scripts.stages import places
from scripts.system import errors
from scripts.system.errors import HarnessError, MachineError
from scripts.system.fetch import BRIEF, read
from scripts.system.process import Arg, CommandError, last_line, run
from scripts.system.progress import Progress, Task

# mkosi skips a drop-in whose [Match] fails. With one or the other of these, it reads each of ours.
PROFILES = ("staged,rpm,foreign", "rpm,foreign,aarch64")


def main(argv: Sequence[str]) -> None:
    """Check patches and configuration, and print to which mkosi each patch applies.

    Raises HarnessError if one does not apply, or if mkosi rejects the configuration.
    """
    parser = arguments.parser(
        "patch-check",
        "Checks that the patches on mkosi apply and that mkosi reads our configuration.",
        (Sources, Folders),
    )
    parser.add_argument(
        catalog.flag("pin"),
        action="store_true",
        help="pin the digests that mkosi has with the patches as they are now, and do no more",
    )
    given = parser.parse_args(argv)
    opts = arguments.options_of(given, os.environ)
    progress = Progress()
    if given.pin:
        pin_digests(opts.folders.root / "mkosi", progress)
        return
    using = obtain_mkosi(opts, progress)
    _say_applied(progress, using.version, f"from {using.source}", list(using.patches))
    check_newest(opts, progress)
    check_upstream(using, opts, progress)
    check_configurations(using, opts.folders.root, progress)
    progress.say(f"mkosi {using.version} accepts all of mkosi.images/")


def pin_digests(folder: Path, progress: Progress) -> None:
    """Pin the digest that the patched mkosi of each source has, in the pin.toml in folder.

    The pin of a source that does not answer stays. Raises HarnessError if none answers.
    """
    failures = []
    for name in pins.SOURCES:
        try:
            made = source.make_from(name, folder)
        except (HarnessError, CommandError) as error:
            cause = last_line(getattr(error, "output", "")) or str(error)
            failures.append(f"{name}: {cause}")
            continue
        edits.apply([Edit(folder / "pin.toml", f"{name}.patched", made.digest)])
        progress.say(f"mkosi {made.version} from {made.source} is pinned: {made.digest}")
    for failure in failures:
        progress.say(f"not pinned: {failure}")
    if len(failures) == len(pins.SOURCES):
        raise HarnessError("no digest was pinned, as no source of mkosi could be used")


def check_newest(opts: Options, progress: Progress) -> None:
    """Apply the patches to the newest mkosi of each source that answers.

    Raises HarnessError if one does not apply.
    """
    if opts.sources.offline:
        progress.say("--offline: no newer mkosi is looked for")
        return
    folder = opts.folders.root / "mkosi"
    pin = Pin.read(folder / "pin.toml")
    newest: dict[str, Callable[[Path], Path]] = {
        "the Debian archive": lambda scratch: debian.download(
            pin.package, list(pin.suites), scratch / "apt"
        ),
        "upstream's main branch": lambda scratch: _download(pin.newest, scratch),
    }
    for name, download in newest.items():
        with tempfile.TemporaryDirectory() as folder_name:
            scratch = Path(folder_name)
            try:
                archive = download(scratch)
            except (MachineError, CommandError, HarnessError) as error:
                cause = last_line(getattr(error, "output", "")) or str(error)
                progress.say(f"the newest mkosi of {name} cannot be downloaded: {cause}")
                continue
            tree = unpack(archive, scratch)
            version = pins.version_of(tree)
            applied = [path.name for path in patches.apply_series(folder, pin, tree)]
        _say_applied(progress, version, f"the newest one of {name}", applied)


def check_upstream(using: Mkosi, opts: Options, progress: Progress) -> None:
    """Run the checks of mkosi's own CI that can be run here, and say of each what it found.

    Raises HarnessError if our patches add a finding to one.
    """
    folder = opts.folders.root / "mkosi"
    with tempfile.TemporaryDirectory() as scratch:
        before, reason = source.unpatched(
            using,
            folder,
            Path(scratch),
            given=opts.sources.mkosi_source,
            offline=opts.sources.offline,
        )
        after = _patched_copy(before, folder, Path(scratch) / "after")
        if not upstream.is_full(before):
            progress.say(f"upstream's own tests: not run, as there is no full tree: {reason}")
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            results = [
                *pool.map(lambda tool: upstream.compare(tool, before, after), upstream.TOOLS)
            ]
    for result in results:
        progress.say(_sentence(result))
    if failed := [result.tool for result in results if result.added]:
        raise HarnessError(
            f"our patches add findings to the checks of mkosi's CI: {', '.join(failed)}",
            hint="the lines above list them; after a change to a patch, pin it: "
            f"{catalog.command('patch-check', catalog.flag('pin'))}",
        )


def _patched_copy(tree: Path, folder: Path, copy: Path) -> Path:
    """Copy tree to copy, apply all patches in folder there, and return copy."""
    shutil.copytree(tree, copy, symlinks=True)
    pin = Pin.read(folder / "pin.toml")
    applied = {path.name for path in patches.apply_series(folder, pin, copy)}
    for name in [*pin.full_tree, *pin.proposed]:
        if name not in applied:
            patches.apply_patch(folder / name, copy)
    return copy


def _sentence(result: Result) -> str:
    """Return what result says, for a person."""
    if result.skipped:
        return f"{result.tool}: not run: {result.skipped}"
    if result.added:
        return f"{result.tool}: our patches add {'; '.join(result.added)}"
    if result.inherited:
        return f"{result.tool}: our patches add nothing; findings without them: {result.inherited}"
    return f"{result.tool}: passes{f' ({result.summary})' if result.summary else ''}"


def check_configurations(using: Mkosi, root: Path, progress: Progress) -> None:
    """Let mkosi read the configuration of each distribution and architecture.

    Raises HarnessError as `check_configuration` does.
    """

    def check(target: tuple[catalog.Distribution, str]) -> None:
        distribution, name = target
        with progress.task(f"{distribution} {name}") as task:
            check_configuration(using, root, distribution.mkosi, arch.parse(name), task)

    targets = itertools.product(catalog.DISTRIBUTIONS.values(), arch.NAMES)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(check, targets))


def check_configuration(
    using: Mkosi, root: Path, distribution: str, target: Arch, task: Task
) -> None:
    """Let mkosi read the configuration of every image. Raises as `read_configuration` does."""
    for image in images(root):
        task.step(image)
        for profiles in PROFILES:
            read_configuration(using, root, distribution, target, image, profiles)


def read_configuration(
    using: Mkosi,
    root: Path,
    distribution: str,
    target: Arch,
    image: str,
    profiles: str = PROFILES[0],
) -> dict[str, object]:
    """Return the settings of image, by name, as mkosi reads them with profiles.

    root is the folder of mkosi.conf, distribution mkosi's name of one. Raises HarnessError with
    mkosi's message if it rejects the configuration, or merely warns about it.
    """
    command: list[Arg] = [
        sys.executable, "-m", "mkosi",
        "--distribution", distribution,
        "--architecture", target.mkosi,
        "--image-id", image,
        "--profile", profiles,
        "--output-directory", root / "mkosi.output",
        "--json", "summary",
    ]  # fmt: skip
    # mkosi reads the configuration only if included files and skeleton trees exist.
    with tempfile.TemporaryDirectory() as nothing:
        env = {
            "PYTHONPATH": os.fspath(using.folder),
            places.OUTPUT: os.fspath(root / "mkosi.output"),
            places.ADDITIONS: nothing,
            places.STANDINS: nothing,
        }
        result = run(command, cwd=root, env=env, check=False)
    if result.returncode or result.stderr:
        raise HarnessError(
            f"mkosi {using.version} does not accept mkosi.images/{image} for {distribution} "
            f"{target}: {' '.join(result.stderr.split())}"
        )
    summary = {entry["Image"]: entry for entry in json.loads(result.stdout)["Images"]}
    settings: dict[str, object] = summary[image]
    return settings


def images(root: Path) -> list[str]:
    """Return the names of all images in mkosi.images/."""
    return sorted(path.parent.name for path in root.glob("mkosi.images/*/mkosi.conf"))


def _say_applied(progress: Progress, version: str, source: str, names: Sequence[str]) -> None:
    for name in names:
        progress.say(f"{name} applies to mkosi {version}, {source}")


def _download(url: str, scratch: Path) -> Path:
    archive = scratch / "newest.tar.gz"
    archive.write_bytes(read(url, settings=BRIEF))
    return archive


if __name__ == "__main__":
    errors.main(main)
