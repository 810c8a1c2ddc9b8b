"""What goes into the base beside the distribution's own packages: RPMs, and single files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from scripts.system.digests import file_digest

# The stage that holds them; all images but the initrd stand on it.
STAGE = "base"

CONF = """\
# Written by scripts/stages/additions.py for each build; mkosi.images/base/mkosi.conf includes it.
[Content]
Packages=
{packages}"""


@dataclass(frozen=True)
class Additions:
    """RPMs, the names of those among them to install, and files by their path in the image.

    An RPM that is not named serves where another package needs it, or is newer than the
    distribution's. The files, which no package knows, belong to root and are executable (0755).
    """

    rpms: tuple[Path, ...] = ()
    packages: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    def __add__(self, other: Additions) -> Additions:
        return Additions(
            self.rpms + other.rpms,
            self.packages + other.packages,
            {**self.files, **other.files},
        )

    def inputs(self) -> dict[str, str]:
        """What of them decides the base: a digest by the name of the thing, for its stage key."""
        return {
            **{f"RPM {path.name}": file_digest(path) for path in sorted(self.rpms)},
            **{f"package {name}": "installed" for name in sorted(self.packages)},
            **{f"file {path}": file_digest(self.files[path]) for path in sorted(self.files)},
        }

    def lay_out(self, folder: Path) -> None:
        """Make folder what mkosi reads them from, and nothing else of what was there.

        The RPMs are in the folder rpms/, for PackageDirectories=; folder itself is for Include=.
        Files are shared by hard links where that can be.
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
        listed = "".join(f"        {name}\n" for name in sorted(set(self.packages)))
        (folder / "mkosi.conf").write_text(CONF.format(packages=listed))


NONE = Additions()


def _share(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
