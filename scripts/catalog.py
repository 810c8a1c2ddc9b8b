"""The catalogue: which sessions, options, distributions and images exist (catalog.toml).

It is read once, when this module is imported. If it makes no sense, the process says why and ends.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The checkout.
ROOT = Path(__file__).resolve().parents[1]

# Of the parts that an image or a distribution can play, those that the catalogue must fill.
ROLES = ("additions", "kernel", "initrd", "tools", "disk", "container", "tools-distribution")

PACKAGE_FORMATS = ("rpm", "deb")
MIRROR_LAYOUTS = ("cdn", "debian")
PINNED_BY = ("Release", "Snapshot")

# Wrong usage or configuration, as in `scripts.system.errors`, which imports this module.
USAGE = 2


class CatalogError(Exception):
    """The catalogue makes no sense; the text says where and why."""


@dataclass(frozen=True)
class Session:
    """A session of the noxfile.

    needs says what a machine must be fit for to run it, in doctor's words. versioned tells whether
    Nox adds the Python version to the session's name.
    """

    name: str
    needs: tuple[str, ...] = ()
    versioned: bool = False


@dataclass(frozen=True)
class Distribution:
    """A distribution that images are built from.

    mkosi is mkosi's name for it. package_format is "rpm" or "deb", mirror_layout "cdn" (that of
    Amazon's CDN) or "debian". product is its name in the names of published files, in which
    {release} stands for the release. pinned_by is the setting in `conf` that pins the release,
    "Release" or "Snapshot".
    """

    name: str
    title: str
    mkosi: str
    package_format: str
    mirror_layout: str
    product: str
    pinned_by: str

    def __str__(self) -> str:
        return self.name

    @property
    def has_rpms(self) -> bool:
        """Whether its packages are RPMs, which dnf installs."""
        return self.package_format == "rpm"

    @property
    def conf(self) -> str:
        """The mkosi configuration that pins its release, relative to the checkout."""
        return f"mkosi.conf.d/{self.name}.conf"


@dataclass(frozen=True)
class Image:
    """An image that people can ask for.

    arches are the names of the architectures that it is built for, artifacts what of it goes to
    out/. published maps an artifact to the template of its published name, platforms to the
    operating system of those who download it.
    """

    name: str
    arches: tuple[str, ...]
    artifacts: tuple[str, ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    platforms: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Catalog:
    """The contents of catalog.toml, each thing by its name.

    roles are the names of the images and of the distribution that play a part of their own, options
    what each option takes.
    """

    work: str
    out: str
    mkosi_python: str
    roles: Mapping[str, str]
    distributions: Mapping[str, Distribution]
    images: Mapping[str, Image]
    sessions: Mapping[str, Session]
    options: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Catalog:
        """Read the catalogue in text. Raises CatalogError for one that makes no sense."""
        try:
            table = _Table("the catalogue", tomllib.loads(text))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise CatalogError(f"it is not TOML: {error}") from error
        arches = table.texts("arches")
        made = cls(
            table.text("work"),
            table.text("out"),
            table.text("mkosi-python"),
            {name: table.table("roles").text(name) for name in ROLES},
            {name: _distribution(name, one) for name, one in table.tables("distributions")},
            {name: _image(name, one, arches) for name, one in table.tables("images")},
            {name: _session(name, one) for name, one in table.tables("sessions")},
            table.mapping("options"),
        )
        if not made.distributions:
            raise CatalogError("it lists no distribution")
        if made.roles["tools-distribution"] not in made.distributions:
            raise CatalogError("the tools-distribution in [roles] is not one of its distributions")
        table.known(
            "work", "out", "mkosi-python", "arches",
            "roles", "distributions", "images", "sessions", "options",
        )  # fmt: skip
        return made


@dataclass(frozen=True)
class _Table:
    """A table of the catalogue, and where it is."""

    where: str
    data: Mapping[str, Any]

    def _get(self, key: str, kind: type, what: str, default: Any) -> Any:
        value = self.data.get(key, default)
        if value is None:
            raise CatalogError(f"{self.where} lacks {key}")
        if not isinstance(value, kind):
            raise CatalogError(f"{key} in {self.where} must be {what}, not {value!r}")
        return value

    def text(self, key: str) -> str:
        """The text under key."""
        return str(self._get(key, str, "a text", None))

    def choice(self, key: str, accepted: tuple[str, ...]) -> str:
        """The text under key, which must be one of accepted."""
        if (value := self.text(key)) not in accepted:
            listed = " or ".join(accepted)
            raise CatalogError(f"{key} in {self.where} must be {listed}, not {value!r}")
        return value

    def flag(self, key: str) -> bool:
        """Whether key is there and true."""
        return bool(self._get(key, bool, "true or false", default=False))

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """The list of texts under key."""
        values = self._get(key, list, "a list of texts", None if default is None else [*default])
        for value in values:
            if not isinstance(value, str):
                raise CatalogError(f"{key} in {self.where} must be a list of texts, not {values!r}")
        return tuple(values)

    def table(self, key: str, default: Mapping[str, Any] | None = None) -> _Table:
        """The table under key."""
        where = f"[{key}]" if self.where == "the catalogue" else f"{key} of {self.where}"
        return _Table(where, self._get(key, dict, "a table", default))

    def mapping(self, key: str) -> dict[str, str]:
        """The texts in the table under key, each by its name; none if there is no such table."""
        inner = self.table(key, {})
        return {name: inner.text(name) for name in inner.data}

    def tables(self, key: str) -> list[tuple[str, _Table]]:
        """The tables in the table under key, each with its name."""
        inner = self.table(key)
        return [(name, _Table(f"[{key}.{name}]", inner.table(name).data)) for name in inner.data]

    def known(self, *keys: str) -> None:
        """Raise CatalogError if the table has other keys than these."""
        if unknown := sorted({*self.data} - {*keys}):
            raise CatalogError(f"{self.where} has the unknown key {unknown[0]}")


def _distribution(name: str, table: _Table) -> Distribution:
    table.known("title", "mkosi", "package-format", "mirror-layout", "product", "pinned-by")
    return Distribution(
        name,
        table.text("title"),
        table.text("mkosi"),
        table.choice("package-format", PACKAGE_FORMATS),
        table.choice("mirror-layout", MIRROR_LAYOUTS),
        table.text("product"),
        table.choice("pinned-by", PINNED_BY),
    )


def _image(name: str, table: _Table, arches: tuple[str, ...]) -> Image:
    table.known("arches", "artifacts", "published", "platforms")
    image = Image(
        name,
        table.texts("arches"),
        table.texts("artifacts", ()),
        table.mapping("published"),
        table.mapping("platforms"),
    )
    if unknown := [arch for arch in image.arches if arch not in arches]:
        raise CatalogError(f"{table.where} names the unknown architecture {unknown[0]}")
    for artifact in (*image.published, *image.platforms):
        if artifact not in image.artifacts:
            raise CatalogError(
                f"{table.where} publishes {artifact}, which is not an artifact of it"
            )
    return image


def _session(name: str, table: _Table) -> Session:
    table.known("needs", "versioned")
    return Session(name, table.texts("needs", ()), table.flag("versioned"))


def _read(path: Path) -> Catalog:
    """Read the catalogue at path, or say what is wrong with it and end the process."""
    try:
        return Catalog.parse(path.read_text(encoding="utf-8"))
    except (CatalogError, OSError, UnicodeDecodeError) as error:
        print(f"error: {path} cannot be used: {error}", file=sys.stderr)
        print(" hint: its comments explain every key", file=sys.stderr)
        raise SystemExit(USAGE) from None


_CATALOG = _read(Path(__file__).with_suffix(".toml"))

WORK = _CATALOG.work
OUT = _CATALOG.out
MKOSI_PYTHON = _CATALOG.mkosi_python

# Images that play a part of their own; those that nobody asks for by name are not in IMAGES.
ADDITIONS = _CATALOG.roles["additions"]
KERNEL = _CATALOG.roles["kernel"]
INITRD = _CATALOG.roles["initrd"]
TOOLS_TREE = _CATALOG.roles["tools"]
DISK = _CATALOG.roles["disk"]
CONTAINER = _CATALOG.roles["container"]

# The disk image gets its name last, so one that is there is whole. The UKI is the one inside it.
DISK_IMAGE = f"{DISK}.raw"
DISK_UKI = f"{DISK}.efi"

SESSIONS = _CATALOG.sessions
DISTRIBUTIONS = _CATALOG.distributions
IMAGES = _CATALOG.images

# The distribution that is meant if none is named, and the one that the tools tree is made from.
DEFAULT = next(iter(DISTRIBUTIONS.values()))
TOOLS_DISTRIBUTION = DISTRIBUTIONS[_CATALOG.roles["tools-distribution"]]


def images(arch: str) -> tuple[str, ...]:
    """The names of the images that are built for the architecture called arch."""
    return tuple(name for name, image in IMAGES.items() if arch in image.arches)


def artifacts(image: str) -> tuple[str, ...]:
    """What of an image goes to out/; nothing of one that is not in IMAGES, such as the initrd."""
    return IMAGES[image].artifacts if image in IMAGES else ()


def metavar(name: str) -> str:
    """What the option called name takes, as help texts show it ("" for a flag)."""
    return _CATALOG.options[name]


def flag(name: str) -> str:
    """The option called name as it is typed, such as --offline.

    Raises KeyError for an option that the catalogue does not have.
    """
    if name not in _CATALOG.options:
        raise KeyError(name)
    return f"--{name}"


def option(name: str, value: str = "") -> str:
    """The option called name as it is typed after a session: -- --mirror URL, or with value."""
    return " ".join(filter(None, ["--", flag(name), value or _CATALOG.options[name]]))


def command(session: str, *options: str, **parameters: str) -> str:
    """The command that runs session: ./nox -s publish -- --dry-run.

    options are the words after `--`, parameters those of the session, such as arch and image.
    """
    known = SESSIONS[session]
    words = ["--", *options] if options else []
    if not parameters:
        return " ".join(["./nox", "-s", session, *words])
    version = f"-{MKOSI_PYTHON}" if known.versioned else ""
    given = ", ".join(f"{name}='{value}'" for name, value in parameters.items())
    return " ".join(["./nox", "-s", f'"{session}{version}({given})"', *words])
