"""What differs between two builds.

Each aspect of a build (its packages, its files, …) maps names to a description in words.
Comparing two builds means comparing their mappings.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from scripts.formats import disk, uki
from scripts.stages.artifacts import MANIFEST
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError, UsageError

# Rows of one aspect that Markdown shows; a comment on GitHub may have 65536 characters.
ROWS = 60


# Digits of a digest that are shown.
DIGITS = 12


# What GNU tar and Python's tarfile call an extended attribute, with its name behind it.
ATTRIBUTE = "SCHILY.xattr."


Aspect = Mapping[str, str]


class Kind(StrEnum):
    """What happened to a thing between the first build and the second."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


MARKS = {Kind.ADDED: "+", Kind.REMOVED: "-", Kind.CHANGED: "~"}


@dataclass(frozen=True)
class Change:
    """One thing that differs; before is "" where it was added, after where it was removed."""

    kind: Kind
    name: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Difference:
    """All that differs between the builds a and b, by aspect.

    skipped are aspects that one of the two does not have, such as the files of a mere manifest.
    """

    a: str
    b: str
    changes: Mapping[str, Sequence[Change]]
    skipped: Sequence[str]


def difference(a: Path, b: Path) -> Difference:
    """What differs between the builds at a and b.

    Raises UsageError where there is no build, HarnessError for one that cannot be read.
    """
    before, after = read(a), read(b)
    common = [name for name in before if name in after]
    return Difference(
        str(a),
        str(b),
        {name: compare(before[name], after[name]) for name in common},
        sorted(before.keys() ^ after.keys()),
    )


def compare(before: Aspect, after: Aspect) -> list[Change]:
    """The changes from before to after, by name."""
    changes = []
    for name in sorted({*before, *after}):
        if name not in before:
            changes.append(Change(Kind.ADDED, name, after=after[name]))
        elif name not in after:
            changes.append(Change(Kind.REMOVED, name, before=before[name]))
        elif before[name] != after[name]:
            changes.append(Change(Kind.CHANGED, name, before[name], after[name]))
    return changes


def read(build: Path) -> dict[str, Aspect]:
    """The aspects of the build at build, a folder or its manifest.json."""
    path = build / MANIFEST if build.is_dir() else build
    if not path.is_file():
        raise UsageError(f"there is no {path}", hint="./nox -s build makes one in out/")
    try:
        manifest = json.loads(path.read_text())
        aspects: dict[str, Aspect] = {
            "packages": _packages(manifest, lambda image: image != "initrd"),
            "packages of the initrd": _packages(manifest, lambda image: image == "initrd"),
            "sizes": {name: f"{size:,} bytes" for name, size in _outputs(manifest).items()},
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarnessError(f"{path} is no manifest of a build: {error!r}") from error
    if build.is_dir():
        aspects |= _of_files(build)
    return aspects


def _packages(manifest: Mapping[str, Any], wanted: Callable[[str], bool]) -> Aspect:
    versions: dict[str, set[str]] = {}
    for image, entry in manifest["images"].items():
        if wanted(image):
            for package in entry["packages"]:
                name = f"{package['name']} ({package['architecture']})"
                versions.setdefault(name, set()).add(package["version"])
    return {name: ", ".join(sorted(found)) for name, found in versions.items()}


def _outputs(manifest: Mapping[str, Any]) -> dict[str, int]:
    """The artifacts' sizes in bytes; the files of a folder, whose names are digests, as one."""
    sizes: dict[str, int] = {}
    for entry in manifest["artifacts"]:
        name = entry["name"].partition("/")[0]
        sizes[name] = sizes.get(name, 0) + entry["size"]
    return sizes


def _of_files(folder: Path) -> dict[str, Aspect]:
    """The aspects that only the artifacts themselves tell."""
    aspects: dict[str, Aspect] = {}
    try:
        if (folder / "os-image.efi").is_file():
            aspects["UKI sections"] = _sections(folder / "os-image.efi")
        if (folder / "os-image.raw").is_file():
            aspects["partitions"] = _partitions(folder / "os-image.raw")
        if (folder / "wsl-rootfs.tar.gz").is_file():
            aspects["files of wsl-rootfs"] = _files(folder / "wsl-rootfs.tar.gz")
        if layers := _layers(folder / "container-with-kernel"):
            aspects["files of container-with-kernel"] = {
                name: text for layer in layers for name, text in _files(layer).items()
            }
    except (OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
        raise HarnessError(f"an artifact in {folder} cannot be read: {error}") from error
    except (uki.UkiError, disk.DiskError) as error:
        raise HarnessError(f"{folder}: {error}") from error
    return aspects


def _sections(path: Path) -> Aspect:
    return {
        section.name: section.text or f"{decimal(section.size)}, sha256 {section.sha256[:DIGITS]}"
        for section in uki.sections(path)
    }


def _partitions(path: Path) -> Aspect:
    return {
        f"{partition.number} {partition.label}".strip(): (
            f"type {partition.type}, {decimal(partition.size)} from {decimal(partition.offset)}"
        )
        for partition in disk.partitions(path)
    }


def _layers(layout: Path) -> list[Path]:
    """The layers of the one image in an OCI image layout, none where there is no layout."""
    if not layout.is_dir():
        return []
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(_blob(layout, entry["digest"]).read_text())
    return [_blob(layout, layer["digest"]) for layer in manifest["layers"]]


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _files(path: Path) -> Aspect:
    """The files of a tarball, of each what decides what a system does with it; no times.

    Which of the names of one file is called the file, and which are links to it, says nothing.
    """
    found: dict[str, str] = {}
    with tarfile.open(path, "r:*") as tar:
        for member in tar:
            name = _name(member.name)
            link = found.get(_name(member.linkname)) if member.islnk() else None
            found[name] = link or _describe(tar, member)
    found.pop("/", None)
    return found


def _name(name: str) -> str:
    return "/" + name.removeprefix(".").strip("/")


def _describe(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    return _plainly(tar, member) + _attributes(member)


def _attributes(member: tarfile.TarInfo) -> str:
    """A digest of extended attributes, such as file capabilities; "" where there are none."""
    found = {
        name: value for name, value in member.pax_headers.items() if name.startswith(ATTRIBUTE)
    }
    if not found:
        return ""
    return f" attributes {text_digest(json.dumps(found, sort_keys=True))[:DIGITS]}"


def _plainly(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    owner = f"{member.mode:04o} {member.uid}:{member.gid}"
    if member.issym():
        return f"→ {member.linkname}"
    if member.isdir():
        return f"folder {owner}"
    file = tar.extractfile(member)
    if not file:
        return f"device {owner} {member.devmajor}:{member.devminor}"
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return f"{owner} {decimal(member.size)} {digest[:DIGITS]}"


def to_text(found: Difference) -> str:
    """The difference for a terminal."""
    lines = [f"{found.a} → {found.b}"]
    for aspect, changes in found.changes.items():
        lines.append(f"{aspect}: {_count(changes)}")
        lines += [f"  {MARKS[change.kind]} {change.name}: {_words(change)}" for change in changes]
    lines += [f"{aspect}: only one of the two has them" for aspect in found.skipped]
    return "\n".join(lines) + "\n"


def to_json(found: Difference) -> str:
    """The difference for a program."""
    return json.dumps(asdict(found), indent=2, ensure_ascii=False) + "\n"


def to_markdown(found: Difference) -> str:
    """The difference for a pull request."""
    lines = [f"### `{found.a}` → `{found.b}`", ""]
    for aspect, changes in found.changes.items():
        if not changes:
            lines += [f"**{aspect}**: no difference", ""]
            continue
        lines += [f"<details><summary><b>{aspect}</b>: {_count(changes)}</summary>", ""]
        lines += ["| | name | before | after |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {MARKS[c.kind]} | {_cell(c.name)} | {_cell(c.before)} | {_cell(c.after)} |"
            for c in changes[:ROWS]
        ]
        if len(changes) > ROWS:
            lines += ["", f"… and {len(changes) - ROWS} more"]
        lines += ["", "</details>", ""]
    lines += [f"**{aspect}**: only one of the two has them\n" for aspect in found.skipped]
    return "\n".join(lines)


FORMATS: Mapping[str, Callable[[Difference], str]] = {
    "text": to_text,
    "json": to_json,
    "markdown": to_markdown,
}


def _count(changes: Sequence[Change]) -> str:
    kinds = [change.kind for change in changes]
    counts = [f"{kinds.count(kind)} {kind}" for kind in Kind if kind in kinds]
    return ", ".join(counts) or "no difference"


def _words(change: Change) -> str:
    if change.kind is Kind.CHANGED:
        return f"{change.before} → {change.after}"
    return change.before or change.after


def _cell(text: str) -> str:
    """Text as code in a cell of a table, which bars and line ends would end."""
    escaped = text.replace("|", "\\|").replace("`", "'").replace("\n", " ")
    return f"`{escaped}`" if escaped else ""
