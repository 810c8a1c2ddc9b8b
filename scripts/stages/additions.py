"""Additions to the base, besides the distribution's packages: RPMs and single files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from scripts.stages.inputs import INSTALLED, Input, Kind
from scripts.system.digests import file_digest

CONF = """\
# Written by scripts/stages/additions.py for each build; mkosi.images/base/mkosi.conf includes it.
[Content]
Packages=
{packages}"""


@dataclass(frozen=True)
class Additions:
    """RPMs, the names of the packages to install, and files by their path in the image.

    supplementary maps packages of another repository of the distribution to what the package
    manager is asked for: a name with a version, and mostly with a release.

    An RPM whose package is not named is installed only if another package needs it, or if it is
    newer than the distribution's. The files belong to root and to no package; their mode is 0755.
    """

    rpms: tuple[Path, ...] = ()
    packages: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    supplementary: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: Additions) -> Additions:
        return Additions(
            self.rpms + other.rpms,
            self.packages + other.packages,
            {**self.files, **other.files},
            {**self.supplementary, **other.supplementary},
        )

    def inputs(self) -> tuple[Input, ...]:
        """Return the inputs of the stage that holds these additions. Reads all of the files."""
        return (
            *(Input(Kind.RPM, path.name, file_digest(path)) for path in sorted(self.rpms)),
            *(Input(Kind.PACKAGE, name, INSTALLED) for name in sorted({*self.packages})),
            *(
                Input(Kind.FILE, path, file_digest(source))
                for path, source in sorted(self.files.items())
            ),
            *(
                Input(Kind.SUPPLEMENTARY, name, asked)
                for name, asked in sorted(self.supplementary.items())
            ),
        )

    def lay_out(self, folder: Path) -> None:
        """Write the additions to folder in the form that mkosi reads. Replaces the folder.

        folder itself is for Include=, and its subfolder rpms/ for PackageDirectories=. RPMs are
        hard links to the originals if the file system allows it.
        """
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "rpms").mkdir(parents=True)
        for path in self.rpms:
            _share(path, folder / "rpms" / path.name)
        for name, source in self.files.items():
            target = folder / "mkosi.extra" / PurePosixPath(name).relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o755)
        asked = sorted({*self.packages, *self.supplementary.values()})
        listed = "".join(f"        {name}\n" for name in asked)
        (folder / "mkosi.conf").write_text(CONF.format(packages=listed))


NONE = Additions()


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # folder is on another file system
        shutil.copyfile(source, target)
