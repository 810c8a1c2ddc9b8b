"""Check that our patches on mkosi apply, for the patch-check session.

They have to apply without fuzz to the pinned mkosi and to the newest that each source offers, and
the mkosi that a build would use has to read all of our configuration.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts import arch, catalog
from scripts.arch import Arch
from scripts.build.workshop import Workshop
from scripts.distributions import debian
from scripts.mkosi import patches
from scripts.mkosi import pin as pins
from scripts.mkosi.pin import Pin
from scripts.mkosi.source import Mkosi
from scripts.mkosi.unpacking import unpack
from scripts.options import Folders, Options, Sources
from scripts.sessions import arguments
from scripts.stages import places
from scripts.system import errors
from scripts.system.errors import HarnessError, MachineError
from scripts.system.fetch import BRIEF, read
from scripts.system.process import Arg, CommandError, last_line, run
from scripts.system.progress import Progress

# mkosi passes over a drop-in whose [Match] fails: between them, these come to each of ours.
PROFILES = ("staged,rpm,foreign", "rpm,foreign,aarch64")


def main(argv: Sequence[str]) -> None:
    """Check the patches and say to which mkosi they apply. Raises HarnessError where not."""
    parser = arguments.parser(
        "patch-check",
        "Checks that the patches on mkosi apply and that mkosi reads our configuration.",
        (Sources, Folders),
    )
    opts = arguments.parse(argv, os.environ, using=parser)
    progress = Progress()
    using = Workshop.prepare(opts, progress).mkosi
    _say_applied(progress, using.version, f"from {using.source}", list(using.patches))
    check_newest(opts, progress)
    for distribution in catalog.DISTRIBUTIONS.values():
        for name in arch.NAMES:
            with progress.task(f"{distribution} {name}") as task:
                for image in images(opts.folders.root):
                    task.step(image)
                    for profiles in PROFILES:
                        read_configuration(
                            using,
                            opts.folders.root,
                            distribution.mkosi,
                            arch.parse(name),
                            image,
                            profiles,
                        )
    progress.say(f"mkosi {using.version} accepts all of mkosi.images/")


def check_newest(opts: Options, progress: Progress) -> None:
    """Apply the patches to the newest mkosi of each source that answers.

    Raises HarnessError where they do not apply.
    """
    if opts.sources.offline:
        progress.say("--offline: nothing newer is looked for")
        return
    folder = opts.folders.root / "mkosi"
    pin = Pin.read(folder / "pin.toml")
    newest: dict[str, Callable[[Path], Path]] = {
        "the Debian archive": lambda scratch: debian.download(
            pin.package, list(pin.suites), scratch / "apt"
        ),
        "upstream's main branch": lambda scratch: _download(pin.newest, scratch),
    }
    for source, download in newest.items():
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            try:
                archive = download(scratch)
            except (MachineError, CommandError, HarnessError) as error:
                cause = getattr(error, "output", "").strip() or str(error)
                progress.say(f"{source} cannot be asked for its newest: {last_line(cause)}")
                continue
            tree = unpack(archive, scratch)
            version = pins.version_of(tree)
            applied = patches.apply_series(folder, pin, tree)
        _say_applied(progress, version, f"the newest of {source}", [path.name for path in applied])


def read_configuration(
    using: Mkosi,
    root: Path,
    distribution: str,
    target: Arch,
    image: str,
    profiles: str = PROFILES[0],
) -> dict[str, object]:
    """The configuration of image with profiles as mkosi reads it, by the name of the setting.

    root is the folder of mkosi.conf. Raises HarnessError with what mkosi says, be it but a warning.
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
    # mkosi wants what the configuration includes, and skeleton trees, to be there when it reads it.
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
    """The names of all images in mkosi.images/."""
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
