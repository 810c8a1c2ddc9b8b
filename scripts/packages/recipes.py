"""Reading packages.toml: our packages, their source RPMs, and the image they are built in."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.distributions.amazonlinux import SPAL
from scripts.options import BASE_IMAGE, Options
from scripts.system import strict
from scripts.system.errors import UsageError
from scripts.system.url import Url

# The folder of the Dockerfile, in the checkout.
FOLDER = "al2023-package-build"

# The source whose mirror, release and key are those of the images.
AMAZON = "amazonlinux"
AMAZON_KEY = "keys/RPM-GPG-KEY-amazon-linux-2023"

# How dnf treats a server that stalls: as mkosi's dnf does (scripts/distributions/debian.py). A
# server that does not answer is an error, whatever the image's dnf.conf says.
PATIENCE = "retries=3\ntimeout=15\nminrate=1000\nskip_if_unavailable=0\n"

# What may be appended to a release: sed inserts it, and rpm compares it.
SUFFIX = re.compile(r"[A-Za-z0-9.]+")

# The digest of an image (OCI image specification, "Digests"); registries of images use no other.
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

# A name-version-release of rpm's.
NEVRA = re.compile(r"[\w.+~^]+(-[\w.+~^]+)*-[\w.+~^]+-[\w.+~^]+", re.ASCII)

# A named stage of the Dockerfile. Each but BUILDER builds the package of its name.
STAGE = re.compile(r"^FROM\s.*\sAS\s+(\S+)", re.MULTILINE | re.IGNORECASE)
BUILDER = "builder"


@dataclass(frozen=True)
class SourceRepository:
    """A repository of source RPMs, and the key they are signed with.

    option is the option of dnf that takes the urls. dnf asks the next of them when one fails.
    signs_metadata tells whether the key signs repomd.xml too.
    """

    option: str
    urls: tuple[Url, ...]
    key: Path
    signs_metadata: bool = False

    def repository(self, name: str, *, check: bool) -> str:
        """Return the configuration of a dnf repository called name (dnf.conf(5)).

        check says whether dnf checks the signatures of its RPMs, and of its metadata if it has one.
        There are no credentials in the text.
        """
        gpg = "gpgcheck=1\ngpgkey=file:///build/repositories/key\n" if check else "gpgcheck=0\n"
        if check and self.signs_metadata:
            gpg += "repo_gpgcheck=1\n"
        urls = " ".join(url.bare for url in self.urls)
        return f"[{name}]\nname={name}\n{self.option}={urls}\n{gpg}{PATIENCE}"


@dataclass(frozen=True)
class Recipe:
    """How a package is built.

    source is the name of the repository that has the source RPM nevra, or `amazonlinux.SPAL` for
    a package that is not built but installed from there. patches change its spec,
    suffix is appended to its release, and rpms are the names of the built RPMs that go into the
    image.
    """

    name: str
    source: str
    nevra: str
    patches: tuple[Path, ...]
    suffix: str
    rpms: tuple[str, ...]


@dataclass(frozen=True)
class PackagePins:
    """The contents of packages.toml.

    image is the container image that packages are built in, and digest its digest. A user's file
    may leave it empty, but nothing is built then. supplementary maps packages of SPAL to their
    name-version-release.
    """

    image: str
    digest: str
    sources: Mapping[str, SourceRepository]
    recipes: tuple[Recipe, ...]
    supplementary: Mapping[str, str] = field(default_factory=dict)

    @property
    def built(self) -> tuple[Recipe, ...]:
        """The recipes of the packages that are built."""
        return tuple(recipe for recipe in self.recipes if recipe.source != SPAL)

    @property
    def reference(self) -> str:
        """The image by its digest."""
        return f"{self.image}@{self.digest}"


def read(path: Path) -> PackagePins:
    """Return the pins in the file at path, whose relative paths start from its folder.

    Raises UsageError that says what is wrong with the file.
    """
    try:
        pins = _pins(path, strict.toml(path.read_text()))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is not complete: {error}", hint=f"compare it with {FOLDER}/packages.toml"
        ) from None
    for recipe in pins.recipes:
        if recipe.source not in (AMAZON, SPAL, *pins.sources):
            raise UsageError(f"{path}: {recipe.name} has the unknown source {recipe.source!r}")
        if recipe.source == SPAL and recipe.name not in pins.supplementary:
            raise UsageError(
                f"{path}: {recipe.name} has the source {SPAL!r}, but there is no "
                f"[supplementary.{recipe.name}]"
            )
    return pins


def base_urls(baseurl: object) -> tuple[Url, ...]:
    """Return the addresses of a repository, which are one string or a list (baseurl, dnf.conf(5)).

    Raises ValueError, which says what baseurl must be, if it is anything else.
    """
    urls = [baseurl] if isinstance(baseurl, str) else baseurl
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise ValueError(f"must be a string or a list of strings, not {baseurl!r}")
    found = tuple(Url(url) for url in urls)
    if any(url.credentials for url in found):
        raise ValueError("must have no password in it, because the digest of its file is published")
    return found


@dataclass(frozen=True)
class _Table:
    """The table called name of the pins at path, with values that have not been checked."""

    path: Path
    name: str
    values: Mapping[str, Any]

    def text(self, key: str) -> str:
        """Return the string of that key. Raises KeyError, or UsageError if it is not a string."""
        value = self.values[key]
        if not isinstance(value, str):
            raise self._wrong(key, f"must be a string, not {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the strings of that key. Raises KeyError, or UsageError if it is not a list."""
        values = self.values[key]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self._wrong(key, f"must be a list of strings, not {values!r}")
        return tuple(values)

    def urls(self, key: str) -> tuple[Url, ...]:
        """Return the addresses of that key: see `base_urls`. Raises KeyError, or UsageError."""
        try:
            return base_urls(self.values[key])
        except ValueError as error:
            raise self._wrong(key, str(error)) from None

    def _wrong(self, key: str, problem: str) -> UsageError:
        return UsageError(f"{self.path}: {key} of {self.name} {problem}")


def _pins(path: Path, data: Mapping[str, Any]) -> PackagePins:
    image = _Table(path, BASE_IMAGE, data[BASE_IMAGE])
    tag = image.text("tag") if "tag" in image.values else ""
    digest = image.text("digest")
    if digest and not DIGEST.fullmatch(digest):
        raise UsageError(
            f"{path}: digest of {BASE_IMAGE} must be sha256: and 64 hexadecimal digits, not "
            f"{digest!r}"
        )
    return PackagePins(
        image=f"{image.text('name')}:{tag}" if tag else image.text("name"),
        digest=digest,
        sources={
            name: _source(_Table(path, f"source.{name}", table))
            for name, table in data.get("source", {}).items()
        },
        recipes=tuple(
            _recipe(name, _Table(path, f"package.{name}", table))
            for name, table in data["package"].items()
        ),
        supplementary={
            name: _supplementary(name, _Table(path, f"supplementary.{name}", table))
            for name, table in data.get("supplementary", {}).items()
        },
    )


def _supplementary(name: str, table: _Table) -> str:
    nevra = table.text("nevra")
    if not NEVRA.fullmatch(nevra) or nevra.rsplit("-", 2)[0] != name:
        raise UsageError(
            f"{table.path}: nevra of {table.name} must be {name}-VERSION-RELEASE, not {nevra!r}"
        )
    return nevra


def _source(table: _Table) -> SourceRepository:
    key = table.path.parent / table.text("key")
    return SourceRepository("baseurl", table.urls("baseurl"), key)


def _recipe(name: str, table: _Table) -> Recipe:
    suffix = table.text("suffix")
    if not SUFFIX.fullmatch(suffix):
        raise UsageError(
            f"{table.path}: suffix of {table.name} must consist of letters, digits and dots, not "
            f"{suffix!r}"
        )
    return Recipe(
        name=name,
        source=table.text("source"),
        nevra=table.text("nevra"),
        patches=tuple(table.path.parent / patch for patch in table.texts("patches")),
        suffix=suffix,
        rpms=table.texts("rpms"),
    )


def check_stages(pins: PackagePins, opts: Options) -> None:
    """Raise UsageError unless the packages of pins are those that the Dockerfile builds."""
    text = (opts.folders.root / FOLDER / "Dockerfile").read_text()
    builds = sorted({*STAGE.findall(text)} - {BUILDER})
    names = sorted(recipe.name for recipe in pins.recipes)
    if names != builds:
        raise UsageError(
            f"{opts.packages.recipes} has the packages {', '.join(names) or '(none)'}, but "
            f"{FOLDER}/Dockerfile builds {', '.join(builds)}",
            hint="each package needs a stage of its name there",
        )


def dockerfile(text: str, unwanted: Collection[str]) -> str:
    """Return text, a Dockerfile, without the stages called unwanted and all copies from them."""
    for name in map(re.escape, unwanted):
        stage, copy = rf"FROM \S+ AS {name}\n(?:(?!FROM ).*\n)*", rf"COPY --from={name} .*\n"
        text = re.sub(rf"^(?:{stage}|{copy})", "", text, flags=re.MULTILINE)
    return text
