"""Decides which files of this machine mkosi sees while it builds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from scripts.mkosi.confinement import Confinement
from scripts.mkosi.sandbox import Tools
from scripts.stages.configuration import FOLLOWED, PREFIX
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


def named(configuration: Path) -> list[Path]:
    """Return the files and folders of this machine that settings in configuration name.

    What is in a tree for an image, such as mkosi.extra, is not a setting of mkosi. It may be a link
    that leads nowhere here, or a file of settings of another program.
    """
    confs = [
        path
        for path in configuration.rglob("*.conf")
        if _is_of_mkosi(path.relative_to(configuration)) and path.is_file()
    ]
    return sorted(set(_named(confs)))


def _is_of_mkosi(path: Path) -> bool:
    """Whether all folders on the way to path have mkosi's settings in them."""
    return all(name in FOLLOWED or not name.startswith(PREFIX) for name in path.parts[:-1])


def _named(files: Iterable[Path]) -> Iterator[Path]:
    for conf in files:
        for setting in GIVEN.finditer(conf.read_text(errors="replace")):
            yield from filter(Path.exists, map(Path, ABSOLUTE.findall(setting["value"])))


def repositories(place: Place) -> list[Path]:
    """Return the folders of this machine that packages of place come from."""
    texts = [path.read_text() for path in place.sandbox_tree.rglob("*.sources")]
    found = {Path(name) for text in texts for name in LOCAL_REPOSITORY.findall(text)}
    return sorted(path for path in found if path.exists())


def around(
    place: Place,
    configuration: Path,
    tools: Tools,
    *,
    read: Iterable[Path],
    write: Iterable[Path],
    temporary: Path,
    is_offline: bool = False,
    may_label: bool = False,
) -> Confinement:
    """Return the confinement in which mkosi builds for place from the copy of the configuration."""
    shared = (place.sandbox_tree, place.additions, place.emulators, *repositories(place))
    return Confinement(
        tools.sandbox,
        configuration,
        read=[
            configuration,
            *named(configuration),
            *(path for path in (*shared, tools.tree, *read) if path.exists()),
        ],
        write=list(write),
        temporary=temporary,
        is_offline=is_offline,
        may_label=may_label,
    )
