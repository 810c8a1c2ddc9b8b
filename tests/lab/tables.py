"""Reads the tables: which RPM is made of which Debian packages, and what differs in it.

What applies to every era is in this folder, what applies to one of them in that era's: the tables
in packages.toml, the files to add below files/<rpm>, and patches.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scripts.arch import Arch
from tests.lab import eras
from tests.lab.debs import Deb
from tests.lab.eras import Era

HERE = Path(__file__).parent

# The characters that Debian allows in a version, but RPM does not allow in a version or release.
FORBIDDEN = re.compile(r"[^A-Za-z0-9._+~]")

# The release of a package that is not made of any deb.
OWN_RELEASE = "1"
DIST = "amzn2023"

# The file name of the dynamic linker in the C library's RPM.
LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}

# The owners of source RPMs.
AMAZON = "amazonlinux"
FEDORA = "fedora"


@dataclass(frozen=True)
class Edit:
    """A change to the file at path: a regular expression and its replacement."""

    path: str
    pattern: str
    replacement: str


@dataclass(frozen=True)
class Split:
    """An RPM that is split off another one: its name, summary, paths and scriptlet.

    An independent split does not require the RPM that it comes from.
    """

    name: str
    summary: str
    paths: tuple[str, ...]
    requires: tuple[str, ...]
    provides: tuple[str, ...]
    post: str
    independent: bool


@dataclass(frozen=True)
class Recipe:
    """Everything that decides an RPM and its splits; packages.toml describes the fields.

    files has the folders with files to add, below their paths in the image. patches maps the tags
    in a spec to the patches. source is the owner of the source RPM, or
    "" if there is none; build_requires lists what it needs to build, and prep is the first command
    of its build. since is the day (20260930) of the first release with the package, or "" if every
    release has it.
    """

    name: str
    version: str
    release: str
    arch: str
    summary: str
    debs: tuple[Deb, ...] = ()
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    remove: tuple[str, ...] = ()
    move: Mapping[str, str] = field(default_factory=dict)
    link: Mapping[str, str] = field(default_factory=dict)
    edit: tuple[Edit, ...] = ()
    modes: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    common_folders: frozenset[str] = frozenset()
    hooks: tuple[str, ...] = ()
    users: Mapping[str, str] = field(default_factory=dict)
    post: str = ""
    triggers: Mapping[str, str] = field(default_factory=dict)
    splits: tuple[Split, ...] = ()
    patches: Mapping[str, Path] = field(default_factory=dict)
    source: str = ""
    build_requires: tuple[str, ...] = ()
    prep: str = ""
    since: str = ""

    @property
    def is_packed(self) -> bool:
        """Whether Amazon Linux has it as an RPM; Fedora's packages are only source RPMs here."""
        return self.source in ("", AMAZON)

    @property
    def names(self) -> list[str]:
        """The names of the RPMs that the recipe makes."""
        return [self.name, *(split.name for split in self.splits)]


class Tables:
    """The tables for one architecture, one release of Amazon Linux and one era."""

    def __init__(self, arch: Arch, release: str, era: Era = eras.AMAZON) -> None:
        values = {
            "release": release,
            "multiarch": f"{arch.name}-linux-gnu",
            "loader": LOADERS[arch.name],
        }
        self._folders = (HERE, era.folder)
        common, own = (_read(folder / "packages.toml", values) for folder in self._folders)
        self._data: Mapping[str, Any] = merged(common, own)
        self._arch = arch
        self._names = [(glob(key), name) for key, name in self._data["names"].items()]
        self._dropped = [glob(pattern) for pattern in self._data["drop"]["debs"]]

    @property
    def roots(self) -> list[str]:
        """The Debian packages that apt is asked for."""
        return [*self._data["debs"]["roots"], self._data["debs"]["kernel"][self._arch.name]]

    @property
    def third_party(self) -> list[str]:
        """The Debian packages that third-party releases are made of, without their dependencies."""
        roots: list[str] = self._data["debs"]["third-party"]["roots"]
        return roots

    @property
    def invented(self) -> Mapping[str, str]:
        """Maps each RPM that Amazon Linux does not have to the reason why the lab has it."""
        invented: Mapping[str, str] = self._data["invented"]
        return invented

    @property
    def spal(self) -> Mapping[str, str]:
        """Maps each package of SPAL to its release there."""
        releases: Mapping[str, str] = self._data["spal"]
        return releases

    def rpm_of(self, deb: str) -> str | None:
        """Return the RPM that the Debian package deb goes into, or None if it is dropped."""
        if any(pattern.fullmatch(deb) for pattern in self._dropped):
            return None
        return next((name for pattern, name in self._names if pattern.fullmatch(deb)), deb)

    def recipes(self, debs: Sequence[Deb]) -> list[Recipe]:
        """Return the recipes of all RPMs; debs are the roots and their dependencies."""
        groups: dict[str, list[Deb]] = {}
        for deb in debs:
            if name := self.rpm_of(deb.name):
                groups.setdefault(name, []).append(deb)
        for name, table in self._data["rpm"].items():
            if shared := [deb for deb in debs if deb.name in table.get("debs", ())]:
                groups[name] = shared
        made = {
            name: table
            for name, table in self._data["rpm"].items()
            if name in groups or "version" in table
        }
        satisfied = {deb.name: deb.name for deb in debs}
        for deb in debs:
            for virtual in deb.provides:
                satisfied.setdefault(virtual, deb.name)
        return [
            self._recipe(name, groups.get(name, []), made.get(name, {}), satisfied)
            for name in sorted({*groups, *made})
        ]

    def recipe_alone(self, deb: Deb) -> Recipe:
        """Return the recipe of an RPM made of deb alone, as a third party would release it."""
        made = self._recipe(deb.name, [deb], {"remove": ["/usr/share"]}, {})
        return replace(made, release=OWN_RELEASE)

    def _recipe(
        self, name: str, debs: list[Deb], table: dict[str, Any], satisfied: Mapping[str, str]
    ) -> Recipe:
        # A deb with the RPM's own name has the best version and summary, so it comes first.
        debs.sort(key=lambda deb: (deb.name != name, deb.name))
        version, release = _version(debs[0].version) if debs else (table["version"], OWN_RELEASE)
        release = table.get("release", release)
        requires = {*table.get("requires", ()), *self._requires(debs, satisfied)} - {name}
        if not table.get("bare"):
            requires.add("filesystem")
        own = self._data["rpm"]["filesystem"]
        return Recipe(
            name=name,
            version=table.get("version", version),
            release=f"{release}.{DIST}",
            arch=table.get("arch", self._arch.name),
            summary=table.get("summary", debs[0].summary if debs else name),
            debs=tuple(debs),
            requires=tuple(sorted(requires)),
            provides=tuple(table.get("provides", ())),
            conflicts=tuple(table.get("conflicts", ())),
            files=tuple(self._beside(f"files/{name}")),
            remove=(*self._data["drop"]["paths"], *table.get("remove", ())),
            move=table.get("move", {}),
            link=table.get("link", {}),
            edit=tuple(
                Edit(edit["path"], edit["from"], edit["to"]) for edit in table.get("edit", ())
            ),
            modes=table.get("modes", {}),
            folders=tuple(table.get("folders", ())),
            common_folders=frozenset({*own["folders"], *own["modes"], *own["link"]}),
            hooks=tuple(table.get("hooks", ())),
            users=table.get("users", {}),
            post=table.get("post", ""),
            triggers=table.get("triggers", {}),
            splits=tuple(self._splits(name)),
            patches={
                tag: self._beside(f"patches/{file}")[-1]
                for tag, file in table.get("patches", {}).items()
            },
            source=table.get("source", ""),
            build_requires=tuple(table.get("build_requires", ())),
            prep=table.get("prep", ""),
            since=table.get("since", ""),
        )

    def _beside(self, name: str) -> list[Path]:
        """Return the paths called name that exist beside the tables; the era's own is the last."""
        return [folder / name for folder in self._folders if (folder / name).exists()]

    def _requires(self, debs: Iterable[Deb], satisfied: Mapping[str, str]) -> Iterable[str]:
        for deb in debs:
            for alternatives in deb.depends:
                found = next((satisfied[name] for name in alternatives if name in satisfied), None)
                if found and (name := self.rpm_of(found)):
                    yield name

    def _splits(self, of: str) -> Iterable[Split]:
        for name, table in self._data["rpm"].items():
            if table.get("of") == of:
                yield Split(
                    name=name,
                    summary=table["summary"],
                    paths=tuple(table["paths"]),
                    requires=tuple(table.get("requires", ())),
                    provides=tuple(table.get("provides", ())),
                    post=table.get("post", ""),
                    independent=table.get("independent", False),
                )


def _read(path: Path, values: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a table, after replacing each mark such as @release@ by its value."""
    text = path.read_text()
    for mark, value in values.items():
        text = text.replace(f"@{mark}@", value)
    return tomllib.loads(text)


def merged(table: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return table with what more adds: entries of tables, and elements of lists.

    Any other value of more replaces that of table.
    """
    made = dict(table)
    for name, value in more.items():
        old = made.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            made[name] = merged(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            made[name] = [*old, *value]
        else:
            made[name] = value
    return made


def glob(pattern: str) -> re.Pattern[str]:
    """Return the regular expression for a pattern with `(a|b)` and `*`, which ends at a slash."""
    parts = re.split(r"([*(|)])", pattern)
    text = "".join(
        "[^/]*" if part == "*" else part if part in ("(", "|", ")") else re.escape(part)
        for part in parts
    )
    return re.compile(text)


def _version(debian: str) -> tuple[str, str]:
    """Split a Debian version into RPM's version and release, and drop the epoch."""
    upstream, _, revision = debian.rpartition("-") if "-" in debian else (debian, "", "0")
    return FORBIDDEN.sub(".", upstream.split(":")[-1]), FORBIDDEN.sub(".", revision)
