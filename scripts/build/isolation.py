"""What mkosi sees of this machine while it builds: its configuration and its own folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from scripts.mkosi.confinement import Confinement
from scripts.mkosi.sandbox import Tools
from scripts.stages.places import Place

# Settings of mkosi that name files of this machine (mkosi(1)). The paths may be followed by a colon
# and the path in the image.
GIVEN = re.compile(
    r"^\s*(?:BaseTrees|BuildSources|ExtraTrees|Include|Initrds|InitrdPackageDirectories"
    r"|PackageDirectories|SandboxTrees|SkeletonTrees|ToolsTreeSandboxTrees"
    r"|VolatilePackageDirectories)\s*=(?P<value>.*(?:\n\s+\S.*)*)",
    re.MULTILINE,
)
ABSOLUTE = re.compile(r"(?<![^\s,=])/[^\s,:]+")

# A folder that apt reads as a repository (sources.list(5)).
LOCAL_REPOSITORY = re.compile(r"\bfile:(?://)?(/[^\s]*)")


def configuration(root: Path) -> list[Path]:
    """Return mkosi's files in the checkout root, and whatever of this machine they name.

    Nothing else of the checkout is among them: .git may hold credentials.
    """
    own = sorted(root.glob("mkosi.*"))
    files = [path for one in own for path in ([one] if one.is_file() else one.rglob("*"))]
    return [*own, *sorted({*_link_targets(root, files), *_named(files)})]


def _link_targets(root: Path, files: Iterable[Path]) -> Iterator[Path]:
    """Yield what the links among files point to, if it exists outside root."""
    for path in files:
        target = path.resolve()
        if path.is_symlink() and target.exists() and not target.is_relative_to(root.resolve()):
            yield target


def _named(files: Iterable[Path]) -> Iterator[Path]:
    """Yield the files and folders outside the checkout that settings in files name."""
    for conf in files:
        if conf.suffix != ".conf" or not conf.is_file():
            continue
        for setting in GIVEN.finditer(conf.read_text(errors="replace")):
            for name in ABSOLUTE.findall(setting["value"]):
                if Path(name).exists():
                    yield Path(name)


def repositories(place: Place) -> list[Path]:
    """Return the folders of this machine that packages of place come from."""
    texts = [path.read_text() for path in place.sandbox_tree.rglob("*.sources")]
    found = {Path(name) for text in texts for name in LOCAL_REPOSITORY.findall(text)}
    return sorted(path for path in found if path.exists())


def around(
    place: Place,
    root: Path,
    tools: Tools,
    *,
    read: Iterable[Path],
    write: Iterable[Path],
    temporary: Path,
    is_offline: bool = False,
    may_label: bool = False,
) -> Confinement:
    """Return the confinement in which mkosi builds for place from the checkout root."""
    shared = (place.sandbox_tree, place.additions, place.emulators, *repositories(place))
    return Confinement(
        tools.sandbox,
        root,
        read=[
            *configuration(root),
            *(path for path in (*shared, tools.tree, *read) if path.exists()),
        ],
        write=list(write),
        temporary=temporary,
        is_offline=is_offline,
        may_label=may_label,
    )
