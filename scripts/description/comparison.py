"""Compares two builds.

Each aspect of a build, such as its packages or its files, maps names to descriptions in words.
Two builds are compared by comparing these mappings.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from rich.filesize import decimal

from scripts import catalog
from scripts.build.manifest import BuiltImage, Manifest
from scripts.formats import disk, oci_layout, uki
from scripts.system import strict
from scripts.system.digests import text_digest
from scripts.system.errors import HarnessError
from scripts.system.text import json_text, markdown, printable

# The number of rows that Markdown shows of an aspect: GitHub limits comments to 65536 characters.
ROWS = 60

# The number of digits that are shown of a digest.
DIGITS = 12

# How GNU tar and Python's tarfile begin the names of extended attributes.
ATTRIBUTE = "SCHILY.xattr."

Aspect = Mapping[str, str]


class Kind(StrEnum):
    """How something changed from the first build to the second."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


MARKS = {Kind.ADDED: "+", Kind.REMOVED: "-", Kind.CHANGED: "~"}


@dataclass(frozen=True)
class Change:
    """One thing that differs. before is "" if it was added, after is "" if it was removed."""

    kind: Kind
    name: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Difference:
    """Everything that differs between the builds a and b, by aspect.

    skipped are the aspects that only one of them has: a manifest alone has no files, for example.
    """

    a: str
    b: str
    changes: Mapping[str, Sequence[Change]]
    skipped: Sequence[str]


def difference(a: Path, b: Path) -> Difference:
    """Compare the builds at a and b.

    Raises UsageError if there is no build, HarnessError if one cannot be read.
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
    """Return the changes from before to after, sorted by name."""
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
    """Return the aspects of the build at build, a folder or its manifest.json.

    Raises UsageError if there is no manifest, HarnessError if anything there cannot be read.
    """
    manifest = Manifest.read(build)
    aspects: dict[str, Aspect] = {
        "packages": _packages(
            image for name, image in manifest.images.items() if name != catalog.INITRD
        ),
        "packages of the initrd": _packages(
            image for name, image in manifest.images.items() if name == catalog.INITRD
        ),
        "sizes": {name: f"{size:,} bytes" for name, size in _sizes(manifest).items()},
    }
    return aspects | _of_files(build) if build.is_dir() else aspects


def _packages(images: Iterable[BuiltImage]) -> Aspect:
    versions: dict[str, set[str]] = {}
    for image in images:
        for package in image.packages:
            name = f"{package.name} ({package.architecture})"
            versions.setdefault(name, set()).add(package.version)
    return {name: ", ".join(sorted(found)) for name, found in versions.items()}


def _sizes(manifest: Manifest) -> dict[str, int]:
    """Return the sizes of the artifacts in bytes.

    The files of a folder count as one, because their names are digests.
    """
    sizes: dict[str, int] = {}
    for artifact in manifest.artifacts:
        sizes[artifact.output] = sizes.get(artifact.output, 0) + artifact.size
    return sizes


def _of_files(folder: Path) -> dict[str, Aspect]:
    """Return the aspects that only the artifacts themselves show."""
    try:
        return {
            _aspect_name(title, image): reader(folder / name)
            for suffix, title, reader in READERS
            for image, name in _artifacts(suffix)
            if (folder / name).exists()
        }
    except (OSError, EOFError, tarfile.TarError, zlib.error, *strict.ODDITIES) as error:
        raise HarnessError(f"an artifact in {folder} cannot be read: {error}") from error
    except (uki.UkiError, disk.DiskError) as error:
        raise HarnessError(f"{folder}: {error}") from error


def _artifacts(suffix: str) -> Iterator[tuple[str, str]]:
    """Yield the image and the name of each artifact in the catalogue that has suffix."""
    for image in catalog.IMAGES:
        for name in catalog.artifacts(image):
            if "".join(Path(name).suffixes) == suffix:
                yield image, name


def _aspect_name(title: str, image: str) -> str:
    """Return the name of an aspect; only those of the disk image do without the image's name."""
    return title if image == catalog.DISK else f"{title} of {image}"


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


def _layers(layout: Path) -> Aspect:
    """Return the files of the one image in an OCI image layout."""
    return {
        name: text
        for layer in oci_layout.Image.read(layout).layers
        for name, text in _files(layer.path).items()
    }


def _files(path: Path) -> Aspect:
    """Return the files in a tarball, with everything that matters to a system except times.

    All hard links to a file are described alike, because it does not matter which comes first.
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
    return _content(tar, member) + _attributes(member)


def _attributes(member: tarfile.TarInfo) -> str:
    """Return a digest of the extended attributes, such as capabilities ("" if there are none)."""
    found = {
        name: value for name, value in member.pax_headers.items() if name.startswith(ATTRIBUTE)
    }
    if not found:
        return ""
    return f" attributes {text_digest(json.dumps(found, sort_keys=True))[:DIGITS]}"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
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


# By the suffix of an artifact ("" for an OCI layout): what its aspect is called, and what reads it.
READERS: Sequence[tuple[str, str, Callable[[Path], Aspect]]] = (
    (".efi", "UKI sections", _sections),
    (".raw", "partitions", _partitions),
    (".tar.gz", "files", _files),
    ("", "files", _layers),
)


def to_text(found: Difference) -> str:
    """Format a difference for a terminal."""
    lines = [f"{printable(found.a)} → {printable(found.b)}"]
    for aspect, changes in found.changes.items():
        lines.append(f"{aspect}: {_count(changes)}")
        lines += [
            f"  {MARKS[change.kind]} {printable(change.name)}: {printable(_words(change))}"
            for change in changes
        ]
    lines += [f"{aspect}: only one of the two has them" for aspect in found.skipped]
    return "\n".join(lines) + "\n"


def to_json(found: Difference) -> str:
    """Format a difference for a program."""
    return json_text(asdict(found))


def to_markdown(found: Difference) -> str:
    """Format a difference for a comment on a pull request."""
    lines = [f"### {markdown(found.a)} → {markdown(found.b)}", ""]
    for aspect, changes in found.changes.items():
        if not changes:
            lines += [f"**{aspect}**: no difference", ""]
            continue
        lines += [f"<details><summary><b>{aspect}</b>: {_count(changes)}</summary>", ""]
        lines += ["| | name | before | after |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {MARKS[c.kind]} | {markdown(c.name)} | {markdown(c.before)} | {markdown(c.after)} |"
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
