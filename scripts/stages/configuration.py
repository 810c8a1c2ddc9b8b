"""The configuration of a checkout: the files that mkosi reads, with the modes that git records.

Stage keys are computed from a copy of the configuration, and mkosi builds from the same copy. So a
file that is edited during a build changes neither, and a file that the copy leaves out, such as
`__pycache__`, is in neither. The umask of a clone, and a file system without modes, do not matter.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.system import git
from scripts.system.digests import describe, describe_file
from scripts.system.errors import MachineError, UsageError
from scripts.system.files import remove
from scripts.system.process import CommandError, last_line

# The names of all files that mkosi reads begin with this (mkosi(1), "FILES").
PREFIX = "mkosi."

# Files that mkosi writes, which are therefore not part of its configuration.
WRITTEN = frozenset(
    {
        "mkosi.builddir",
        "mkosi.cache",
        "mkosi.history",
        "mkosi.output",
        "mkosi.pkgcache",
        "mkosi.tools",
        "mkosi.tools.build.cache",
        "mkosi.tools.manifest",
        "mkosi.workspace",
    }
)

# The images, each of which is a folder with a configuration of its own.
IMAGES = "mkosi.images"

# mkosi follows links in these. Any other folder is a tree for an image, in which links are copied.
FOLLOWED = frozenset(
    {
        IMAGES,
        "mkosi.conf.d",
        "mkosi.local",
        "mkosi.profiles",
        "mkosi.repart",
        "mkosi.uki-profiles",
    }
)

# Trees that mkosi copies into an image, besides one with the name of the image's distribution.
EXTRA, SKELETON = "mkosi.extra", "mkosi.skeleton"

# Private keys and passwords, which mkosi requires to be unreadable for others.
PRIVATE = frozenset({"mkosi.key", "mkosi.passphrase", "mkosi.rootpw"})

EXECUTABLE, PLAIN, SECRET = 0o755, 0o644, 0o600

# A file in a folder beside mkosi.conf, or beside that of an image: the folder, and the path in it.
IN_FOLDER = re.compile(r"(?:mkosi\.images/[^/]+/)?(mkosi\.[^/]+)/(.+)")


@dataclass(frozen=True)
class File:
    """A file of the configuration.

    name is its path relative to the root of the checkout, path where it is. is_link tells whether
    it is a link that stays one, and runs whether it may be executed.
    """

    name: str
    path: Path
    is_link: bool = False
    runs: bool = False

    def describe(self) -> str:
        """Describe it as stage keys do: a link's target, or executability and contents."""
        return describe(self.path) if self.is_link else describe_file(self.path, runs=self.runs)

    def copy(self, root: Path) -> None:
        """Copy it to its name below root; a file that is not a link gets a normal mode."""
        target = root / self.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.is_link:
            target.symlink_to(self.path.readlink())
            return
        target.touch(SECRET)
        target.write_bytes(self.path.read_bytes())
        if self.name not in PRIVATE:
            target.chmod(EXECUTABLE if self.runs else PLAIN)


def read(root: Path) -> list[File]:
    """Return the files of the configuration in root, by name in order.

    A file may be executed if git records that, or, if git does not know the file, if its owner may
    execute it. Raises UsageError for anything but a file, a folder or a link, and for a broken link
    that mkosi would follow.
    """
    top = _Folder("", root, is_tree=False)
    try:
        found = [
            file
            for path in top.entries
            if path.name.startswith(PREFIX) and path.name not in WRITTEN
            for file in _files(top, path, ())
        ]
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
    recorded = _recorded(root)
    return [replace(file, runs=recorded.get(file.name, file.runs)) for file in found]


def copy(root: Path, target: Path) -> None:
    """Copy the configuration in root to the folder target, which is replaced.

    Raises UsageError as `read` does.
    """
    files = read(root)
    remove(target)
    for file in files:
        file.copy(target)


def tree_of(distribution: str) -> str:
    """Return the name of the folder with files for the images of a distribution alone."""
    return f"{PREFIX}{distribution}"


def split(name: str) -> tuple[str, str]:
    """Split the name of a file into the folder of an image that it is in, and the path in that.

    mkosi.images/base/mkosi.extra/etc/x becomes mkosi.extra and etc/x. Both are empty for a file
    that is in no such folder.
    """
    found = IN_FOLDER.fullmatch(name)
    return (found[1], found[2]) if found and found[1] != IMAGES else ("", "")


@dataclass(frozen=True)
class _Folder:
    """A folder of the configuration; is_tree tells whether links in it are copied as links."""

    name: str
    path: Path
    is_tree: bool

    @property
    def entries(self) -> list[Path]:
        """The entries that can matter to an image, in order."""
        ignored = {"__pycache__"} if self.is_tree else {"__pycache__", "README.md"}
        return [path for path in sorted(self.path.iterdir()) if path.name not in ignored]

    def named(self, path: Path) -> str:
        """Return the name of an entry."""
        return f"{self.name}/{path.name}".lstrip("/")

    def below(self, path: Path) -> _Folder:
        """Return the folder at path, which is an entry of this one."""
        is_configuration = self.name == IMAGES or path.name in FOLLOWED
        return _Folder(self.named(path), path, self.is_tree or not is_configuration)


def _files(folder: _Folder, path: Path, above: tuple[Path, ...]) -> Iterator[File]:
    """Yield the files at or below path, an entry of folder; above are the folders on the way."""
    if path.is_symlink() and folder.is_tree:
        yield File(folder.named(path), path, is_link=True)
        return
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        yield File(folder.named(path), path, runs=bool(mode & stat.S_IXUSR))
    elif stat.S_ISDIR(mode):
        resolved = path.resolve()
        if resolved in above:
            raise UsageError(f"{path} is a link to a folder that it is in")
        below = folder.below(path)
        for entry in below.entries:
            yield from _files(below, entry, (*above, resolved))
    else:
        raise UsageError(
            f"{path} is neither a file nor a folder", hint="images are made from files and folders"
        )


def _recorded(root: Path) -> dict[str, bool]:
    """Whether git records that a file may be executed, by name; nothing outside a repository.

    Raises UsageError if git cannot read it.
    https://git-scm.com/docs/git-ls-files: MODE, OBJECT and STAGE, a tab, the path.
    """
    # The checkout may be a folder of a larger one.
    if not any((folder / ".git").exists() for folder in (root, *root.absolute().parents)):
        return {}
    try:
        listed = git.read(root, "ls-files", "--stage", "-z", "--", f"{PREFIX}*")
    except MachineError:  # without git, modes are as the file system has them
        return {}
    except CommandError as error:
        raise UsageError(
            f"git cannot read {root}: {last_line(error.output)}",
            hint="repair the checkout: a build needs the modes of files that git records",
        ) from error
    entries = (line.partition("\t") for line in listed.split("\0") if line)
    return {name: fields.startswith("100755") for fields, _, name in entries}
