"""The manifest of a build: manifest.json beside the artifacts says what was built from what.

manifest.schema.json beside this module describes the file for other programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from scripts import arch as arches
from scripts import catalog, options
from scripts.arch import Arch
from scripts.catalog import Distribution
from scripts.emulation import emulators
from scripts.mkosi.source import Mkosi
from scripts.options import Options
from scripts.packages import recipes, thirdparty
from scripts.stages import inputs
from scripts.stages.additions import Additions
from scripts.stages.artifacts import Artifact, output_of
from scripts.stages.inputs import Input
from scripts.stages.places import Place
from scripts.stages.records import Package, Record
from scripts.system import strict
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.files import write_text
from scripts.system.text import json_text
from scripts.system.url import Url

NAME = "manifest.json"

# In the checkout.
MKOSI_PIN = "mkosi/pin.toml"

# The options that replace our pins by a user's own, as manifest.json calls them.
PACKAGES = "packages"
THIRD_PARTY = "third_party_pins"


@dataclass(frozen=True)
class Given:
    """The options that decide what the images hold; an empty value means "not given".

    Files are represented by their sha256, because their paths mean nothing on other machines.
    """

    mirror: str = ""
    signing_key: str = ""
    third_party_mirror: str = ""
    third_party_pins: str = ""
    packages: str = ""
    without_packages: bool = False
    allow_missing: tuple[str, ...] = ()
    emulators: str = ""
    profile: tuple[str, ...] = ()

    @classmethod
    def of(cls, opts: Options) -> Given:
        """Return what opts has of these options."""
        recipes_file = opts.packages.recipes
        is_ours = recipes_file == (opts.folders.root / options.PACKAGES).absolute()
        return cls(
            mirror=_public(opts.sources.mirror),
            signing_key=_digest(opts.sources.signing_key),
            third_party_mirror=_public(opts.sources.third_party_mirror),
            third_party_pins=_digest(opts.sources.third_party_pins),
            packages=_digest(None if is_ours else recipes_file),
            without_packages=opts.packages.skipped,
            allow_missing=opts.packages.allow_missing,
            emulators="" if opts.sources.emulators == options.DEBIAN else opts.sources.emulators,
            profile=opts.target.profiles,
        )

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Given:
        """Return what the manifest lists. Options that this version does not know are left out."""
        kinds: Mapping[str, Callable[[Any], Any]] = {
            "without_packages": _flag,
            "allow_missing": _list,
            "profile": _list,
        }
        return cls(
            **{
                one.name: kinds.get(one.name, _text)(data[one.name])
                for one in fields(cls)
                if one.name in data
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the options that were given, by name."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass(frozen=True)
class UsedMkosi:
    """The mkosi that built the images, with the sha256 of each of our patches by file name."""

    version: str
    source: str
    digest: str
    patches: Mapping[str, str]


@dataclass(frozen=True)
class Added:
    """Our own packages and files in the base, besides the distribution's packages.

    packages are names, rpms the file names of RPMs; files maps paths in the image to sha256.
    supplementary maps packages of a further repository of the distribution to what the package
    manager was asked for.
    """

    packages: tuple[str, ...] = ()
    rpms: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    supplementary: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, added: Additions) -> Added:
        """Return the names and digests of added. Reads its files."""
        return cls(
            tuple(sorted({*added.packages})),
            tuple(sorted(path.name for path in added.rpms)),
            {path: file_digest(source) for path, source in sorted(added.files.items())},
            dict(sorted(added.supplementary.items())),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what manifest.json holds about the additions."""
        data = asdict(self)
        return (
            data if self.supplementary else {k: v for k, v in data.items() if k != "supplementary"}
        )


@dataclass(frozen=True)
class BuiltImage:
    """How the stage of an image was built, and the packages in the image; see `Record`."""

    stage_key: str
    inputs: tuple[Input, ...]
    seconds: float
    packages: tuple[Package, ...]
    digest: str = ""
    built_from: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record) -> BuiltImage:
        """Return the description of the image that record gives."""
        return cls(
            record.key,
            record.inputs,
            record.seconds,
            record.packages,
            record.digest,
            record.built_from,
        )

    @classmethod
    def parse(cls, data: Any) -> BuiltImage:
        """Return the image in data. Raises one of `strict.ODDITIES` if data is malformed.

        Manifests of older versions name no digests.
        """
        return cls(
            _text(data["stage_key"]),
            inputs.from_labels(_texts(data["inputs"])),
            _number(data["seconds"]),
            tuple(
                Package(
                    p["name"],
                    p["version"],
                    p["architecture"],
                    _text(p.get("sha256", "")),
                    _text(p.get("repository", "")),
                )
                for p in data["packages"]
            ),
            _text(data.get("digest", "")),
            _texts(data.get("built_from", {})),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what manifest.json holds about the image."""
        data = asdict(self) | {
            "inputs": inputs.to_labels(self.inputs),
            "packages": [package.to_json() for package in self.packages],
        }
        unknown = {name for name in ("digest", "built_from") if not data[name]}
        return {name: value for name, value in data.items() if name not in unknown}


@dataclass(frozen=True)
class ListedFile:
    """An artifact as the manifest lists it: size in bytes, sha512 in hex."""

    name: str
    size: int
    sha512: str

    @property
    def output(self) -> str:
        """The file or folder in out/ that this is, or belongs to."""
        return output_of(self.name)


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says about a build.

    pins maps files of the checkout that pin what the images are made of to their sha256. In
    manifests of older versions, options, pins and additions are empty.
    """

    distribution: str
    release: str
    arch: Arch
    options: Given
    pins: Mapping[str, str]
    mkosi: UsedMkosi
    additions: Added
    images: Mapping[str, BuiltImage]
    artifacts: tuple[ListedFile, ...]

    @classmethod
    def of(
        cls,
        opts: Options,
        using: Mkosi,
        at: Place,
        records: Mapping[str, Record],
        added: Additions,
        artifacts: Iterable[Artifact],
    ) -> Manifest:
        """Return the manifest of the build that opts asked for.

        at is where its images are built, records how each of their stages was built, added what
        the base holds besides the distribution's packages, artifacts what is in out/.
        """
        return cls(
            distribution=at.distribution.name,
            release=at.release,
            arch=at.arch,
            options=Given.of(opts),
            pins=pins(opts.folders.root, at.distribution),
            mkosi=UsedMkosi(using.version, using.source, using.digest, using.patches),
            additions=Added.of(added),
            images={name: BuiltImage.of(record) for name, record in records.items()},
            artifacts=tuple(ListedFile(one.name, one.size, one.sha512) for one in artifacts),
        )

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Return the manifest of the build at path, a folder or a manifest.json.

        Raises UsageError if there is none, HarnessError if it is damaged.
        """
        file = path / NAME if path.is_dir() else path
        try:
            return _parse(strict.loads(file.read_text()))
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"there is no build at {file}",
                hint=f"{catalog.command('build')} makes one in {catalog.OUT}/",
            ) from None
        except (OSError, *strict.ODDITIES, UsageError) as error:
            raise HarnessError(
                f"{file} is not the manifest of a build: {error!r}", hint="build again"
            ) from error

    @classmethod
    def find(cls, path: Path) -> Manifest | None:
        """Return the manifest of the build at path, or None if none can be read."""
        try:
            return cls.read(path)
        except HarnessError:
            return None

    def write(self, folder: Path) -> None:
        """Write the manifest to manifest.json in folder, atomically."""
        write_text(folder / NAME, json_text(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """Return what manifest.json holds."""
        return {
            "distribution": self.distribution,
            "release": self.release,
            "arch": self.arch.name,
            "options": self.options.to_json(),
            "pins": self.pins,
            "mkosi": asdict(self.mkosi),
            "additions": self.additions.to_json(),
            "images": {name: image.to_json() for name, image in self.images.items()},
            "artifacts": [asdict(artifact) for artifact in self.artifacts],
        }

    @property
    def sha512(self) -> Mapping[str, str]:
        """The sha512 of each artifact, by name."""
        return {one.name: one.sha512 for one in self.artifacts}


def _parse(data: Any) -> Manifest:
    """Return the manifest in data, which may be anything. Raises what looking into it raises."""
    mkosi, added = data.get("mkosi", {}), data.get("additions", {})
    return Manifest(
        distribution=_text(data["distribution"]),
        release=_text(data["release"]),
        arch=arches.parse(data["arch"]),
        options=Given.parse(data.get("options", {})),
        pins=_texts(data.get("pins", {})),
        mkosi=UsedMkosi(
            _text(mkosi.get("version", "")),
            _text(mkosi.get("source", "")),
            _text(mkosi.get("digest", "")),
            _texts(mkosi.get("patches", {})),
        ),
        additions=Added(
            _list(added.get("packages", [])),
            _list(added.get("rpms", [])),
            _texts(added.get("files", {})),
            _texts(added.get("supplementary", {})),
        ),
        images={name: BuiltImage.parse(image) for name, image in data["images"].items()},
        artifacts=tuple(
            ListedFile(_text(one["name"]), _size(one["size"]), _text(one["sha512"]))
            for one in data["artifacts"]
        ),
    )


def _text(value: object) -> str:
    """Return value if it is a string that UTF-8 can hold. Raises TypeError or ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    value.encode()
    return value


def _list(value: object) -> tuple[str, ...]:
    """Return value if it is a list of strings. Raises TypeError or ValueError."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(map(_text, value))


def _texts(value: object) -> Mapping[str, str]:
    """Return value if it is an object with strings. Raises TypeError or ValueError."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not an object")
    return {_text(name): _text(text) for name, text in value.items()}


def _number(value: object) -> float:
    """Return value if it is a number that is not negative. Raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise TypeError(f"{value!r} is not a number of seconds")
    return value


def _size(value: object) -> int:
    """Return value if it is a number of bytes. Raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is not a number of bytes")
    return value


def _flag(value: object) -> bool:
    """Return value if it is true or false. Raises TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def pins(root: Path, distribution: Distribution) -> dict[str, str]:
    """Return the sha256 of each file in the checkout that pins what the images are made of.

    The files in mkosi.conf.d pin releases, but they are among the inputs of the stages.
    """
    paths = [root / MKOSI_PIN, root / emulators.TABLE]
    if distribution.has_rpms:
        paths.append(root / thirdparty.PINS)
        paths += (root / recipes.FOLDER).rglob("*")
    found = sorted(path for path in paths if path.is_file() and path.name != "README.md")
    return {path.relative_to(root).as_posix(): file_digest(path) for path in found}


def _digest(path: Path | None) -> str:
    return file_digest(path) if path else ""


def _public(url: Url | None) -> str:
    """Return url without its secrets, since manifests are published ("" for None)."""
    return str(url) if url else ""


@dataclass(frozen=True)
class Contents:
    """What the manifest says about the base, besides the distribution's own packages.

    rpms are the file names of the RPMs in it that the distribution does not provide. held are the
    names of the packages and programs that were added, and supplementary those among them that come
    from a further repository of the distribution. left_out are the names of those that
    --allow-missing allowed to be missing and that are, and PACKAGES if no packages of our own
    were built. other_pins has PACKAGES and THIRD_PARTY if a user's pins replaced ours. profiles are
    mkosi's that the images were built with.
    """

    rpms: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    other_pins: frozenset[str] = frozenset()
    supplementary: frozenset[str] = frozenset()
    profiles: frozenset[str] = frozenset()

    @classmethod
    def of(cls, manifest: Manifest | None) -> Contents:
        """Return what the base of a build holds; nothing without a manifest or without a base."""
        base = manifest.images.get(catalog.ADDITIONS) if manifest else None
        if not manifest or not base:
            return cls()
        added, given = manifest.additions, manifest.options
        files = {f"{p.name}-{p.version}.{p.architecture}.rpm" for p in base.packages}
        wanted = {rpm for rpm in added.rpms if rpm.rsplit("-", 2)[0] in added.packages}
        files_held = {Path(path).name for path in added.files}
        held = {*added.packages, *added.supplementary, *files_held}
        without = {PACKAGES} if given.without_packages else set()
        return cls(
            rpms=frozenset(wanted | files.intersection(added.rpms)),
            held=frozenset(held),
            left_out=frozenset(without | ({*given.allow_missing} - held)),
            other_pins=frozenset({PACKAGES, THIRD_PARTY} & given.to_json().keys()),
            supplementary=frozenset(added.supplementary),
            profiles=frozenset(given.profile),
        )
