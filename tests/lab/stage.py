"""Turns unpacked Debian packages into the files of an RPM."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.system import git
from scripts.system.digests import file_digest, tree_digest
from scripts.system.errors import HarnessError
from scripts.system.process import running, start
from tests.lab.debs import Deb
from tests.lab.tables import Recipe, glob

# The date of the newest release, 2026-09-30; no file of the lab is newer.
SOURCE_DATE_EPOCH = 1790726400

# Debian 12's packages still have files in these folders, which are links into /usr in every image.
MERGED = re.compile(r"/(bin|sbin|lib|lib64)(?=/|$)")

COPYRIGHT = re.compile(r"/usr/share/doc/[^/]+/copyright")


@dataclass(frozen=True)
class Entry:
    """A file, folder or link in an RPM: its path in the image and its attributes."""

    path: str
    kind: str
    mode: int
    user: str = "root"
    group: str = "root"
    capabilities: str = ""

    def line(self) -> str:
        """Return the entry as a line of a list for rpmbuild's %files -f."""
        quoted = f'"{self.path}"'
        if self.kind == "link":
            return f"%attr(-, {self.user}, {self.group}) {quoted}"
        attributes = f"%attr({self.mode:04o}, {self.user}, {self.group})"
        if self.kind == "dir":
            return f"%dir {attributes} {quoted}"
        mark = ""
        if self.path.startswith("/etc/"):
            mark = "%config(noreplace) "
        elif self.path.startswith("/usr/share/licenses/"):
            mark = "%license "
        if self.capabilities:
            mark = f"%caps({self.capabilities}) "
        return f"{attributes} {mark}{quoted}"


class Tree:
    """The staged files of a recipe below a folder, addressed by their paths in the image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modes: dict[str, int] = {}
        folder.mkdir(parents=True)

    def __truediv__(self, path: str) -> Path:
        """Return the path on this machine for a path in the image."""
        return self.folder / path.lstrip("/")

    def unpack(self, deb: Deb, removed: Callable[[str], bool], licences: str) -> None:
        """Unpack deb without the removed paths, and its copyright file into the folder licences."""
        process = start(["dpkg-deb", "--fsys-tarfile", deb.path], stdout=subprocess.PIPE)
        with running(process):
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    path = in_usr("/" + member.name.removeprefix("./").strip("/"))
                    if COPYRIGHT.fullmatch(path) and member.isfile():
                        self._extract(archive, member, f"{licences}/{deb.name}")
                    elif not removed(path):
                        self._extract(archive, member, path)
            if process.wait():
                raise HarnessError(
                    f"dpkg-deb cannot unpack {deb.path}",
                    hint="remove the file: the lab downloads it again",
                )

    def _extract(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        target = self / path
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            self.modes[path] = member.mode
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.issym():
            target.symlink_to(_link(member, path))
        elif member.islnk():
            target.hardlink_to(self / in_usr(member.linkname.removeprefix(".")))
            self.modes[path] = member.mode
        else:
            source = archive.extractfile(member)
            assert source
            with target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            target.chmod(0o755 if member.mode & 0o111 else 0o644)
            self.modes[path] = member.mode
            os.utime(target, (member.mtime, member.mtime))

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file at path in the image."""
        target = self / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(data)
        self.modes[path] = mode

    def link(self, path: str, to: str) -> None:
        """Make a symbolic link at path in the image."""
        target = self / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(to)

    def move(self, path: str, to: str) -> None:
        """Move a file or folder of the image."""
        (self / to).parent.mkdir(parents=True, exist_ok=True)
        (self / path).rename(self / to)
        for old in [known for known in self.modes if f"{known}/".startswith(f"{path}/")]:
            self.modes[to + old.removeprefix(path)] = self.modes.pop(old)

    def paths(self) -> list[str]:
        """Return the path of everything in the tree, in order."""
        below = (path.relative_to(self.folder) for path in self.folder.rglob("*"))
        return sorted(f"/{path}" for path in below)

    def entry(self, path: str, given: Mapping[str, str]) -> Entry:
        """Return the entry of path, with the attributes from given if it has any.

        Attributes are a mode, and maybe a user, a group and capabilities (cap_from_text(3)).
        """
        target = self / path
        words = given.get(path, "").split()
        mode, user, group, capabilities = (*words, *("", "root", "root", "")[len(words) :])
        if target.is_symlink():
            return Entry(path, "link", 0o777)
        kind = "dir" if target.is_dir() else "file"
        default = 0o755 if kind == "dir" or os.access(target, os.X_OK) else 0o644
        number = int(mode, 8) if mode else self.modes.get(path, default)
        return Entry(path, kind, number, user, group, capabilities)


def in_usr(path: str) -> str:
    """Return an absolute path as it is where /bin, /sbin, /lib and /lib64 are links into /usr."""
    return MERGED.sub(r"/usr/\1", path, count=1) if MERGED.match(path) else path


def _link(member: tarfile.TarInfo, path: str) -> str:
    """Return the target of a link that belongs at path in the image."""
    old = Path("/", member.name)
    if old == Path(path) or member.linkname.startswith("/"):
        return member.linkname
    target = in_usr(os.path.normpath(old.parent / member.linkname))
    return os.path.relpath(target, Path(path).parent)


def stage(
    recipe: Recipe, folder: Path, contents: Mapping[str, bytes], *, patched: bool = True
) -> Tree:
    """Stage the files of recipe below folder: from its debs, its files, and contents by path.

    patched applies the recipe's patches; the files of a source RPM are staged without them.
    """
    tree = Tree(folder)
    removed = _matcher(recipe.remove)
    for deb in recipe.debs:
        tree.unpack(deb, removed, f"/usr/share/licenses/{recipe.name}")
    for path in tree.paths():
        for pattern, to in recipe.move.items():
            if match := re.fullmatch(pattern, path):
                tree.move(path, match.expand(to))
    for files in recipe.files:
        for source in sorted(path for path in files.rglob("*") if path.is_file()):
            mode = 0o755 if os.access(source, os.X_OK) else 0o644
            tree.write(f"/{source.relative_to(files)}", source.read_bytes(), mode)
    for path, data in contents.items():
        tree.write(path, data)
    for path, to in recipe.link.items():
        tree.link(path, to)
    for edit in recipe.edit:
        _edit(tree / edit.path, edit.pattern, edit.replacement)
    for patch in recipe.patches.values() if patched else ():
        _apply(patch, folder)
    for path in (*recipe.folders, *(recipe.modes if recipe.folders else ())):
        (tree / path).mkdir(parents=True, exist_ok=True)
    return tree


def facts(recipe: Recipe) -> dict[str, object]:
    """Return the facts that decide the files of recipe, as JSON can hold them."""
    return asdict(recipe) | {
        "debs": [deb.sha256 for deb in recipe.debs],
        "common_folders": sorted(recipe.common_folders),
        "files": [tree_digest(folder) for folder in recipe.files],
        "patches": {tag: file_digest(path) for tag, path in recipe.patches.items()},
    }


def entries(tree: Tree, recipe: Recipe) -> dict[str, list[Entry]]:
    """Map the name of each RPM of recipe to its entries."""
    lists: dict[str, list[Entry]] = {name: [] for name in recipe.names}
    splits = [(split.name, _matcher(split.paths)) for split in recipe.splits]
    owned = not recipe.folders
    paths = tree.paths() if owned else ["/", *tree.paths()]
    for path in paths:
        entry = tree.entry(path, recipe.modes)
        if owned and entry.kind == "dir" and path in recipe.common_folders:
            continue
        name = next((name for name, matches in splits if matches(path)), recipe.name)
        lists[name].append(entry)
    return lists


def clamp_times(tree: Tree) -> None:
    """Set newer times in tree back to SOURCE_DATE_EPOCH."""
    for path in reversed(tree.paths()):
        target = tree / path
        if not target.is_symlink():
            moment = min(target.stat().st_mtime, SOURCE_DATE_EPOCH)
            os.utime(target, (moment, moment))
    os.utime(tree.folder, (SOURCE_DATE_EPOCH, SOURCE_DATE_EPOCH))


def _matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a path or one of its parents matches a pattern."""
    text = "|".join(glob(pattern).pattern for pattern in patterns)
    expression = re.compile(f"(?:{text})(?:/.*)?") if text else re.compile("(?!)")
    return lambda path: bool(expression.fullmatch(path))


def _apply(patch: Path, folder: Path) -> None:
    result = git.run_outside(folder, "apply", patch)
    if result.returncode:
        raise HarnessError(
            f"{patch} does not apply: {result.stderr.strip()}",
            hint="Debian's package has changed: adapt the patch",
        )


def _edit(path: Path, pattern: str, replacement: str) -> None:
    text = path.read_text()
    changed, count = re.subn(pattern, replacement, text)
    if not count:
        raise HarnessError(
            f"{path} has nothing that matches {pattern!r}",
            hint="Debian's package has changed: adapt the edit in tests/lab/packages.toml",
        )
    path.write_text(changed)
