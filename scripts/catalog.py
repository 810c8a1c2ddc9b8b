"""The catalogue: which sessions, options, distributions and images there are (catalog.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# The checkout.
ROOT = Path(__file__).resolve().parents[1]

_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Session:
    """A session of the noxfile.

    needs says what a machine must be fit for to run it, in doctor's words. versioned tells whether
    Nox adds the Python version to the session's name.
    """

    name: str
    needs: tuple[str, ...] = ()
    versioned: bool = False

    @classmethod
    def of(cls, name: str, entry: Mapping[str, object]) -> Session:
        """Read the session called name from its entry in the catalogue."""
        needs, versioned = entry.get("needs", ()), entry.get("versioned", False)
        assert isinstance(needs, list | tuple)
        return cls(name, tuple(needs), bool(versioned))


@dataclass(frozen=True)
class Distribution:
    """A distribution that images are built from.

    mkosi is mkosi's name of it, packages the format of its packages ("rpm" or "deb"), mirror the
    layout of its mirrors ("cdn" or "debian"), product its name in the names of
    published files, in which {release} stands for the release.
    """

    name: str
    title: str
    mkosi: str
    packages: str
    mirror: str
    product: str

    def __str__(self) -> str:
        return self.name

    @property
    def has_rpms(self) -> bool:
        """Whether its packages are RPMs, which dnf installs."""
        return self.packages == "rpm"

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


WORK: str = _TABLE["work"]
OUT: str = _TABLE["out"]
MKOSI_PYTHON: str = _TABLE["mkosi-python"]

# Images that play a part of their own; those that nobody asks for by name are not in IMAGES.
ADDITIONS: str = _TABLE["roles"]["additions"]
KERNEL: str = _TABLE["roles"]["kernel"]
INITRD: str = _TABLE["roles"]["initrd"]
TOOLS_TREE: str = _TABLE["roles"]["tools"]
DISK: str = _TABLE["roles"]["disk"]
CONTAINER: str = _TABLE["roles"]["container"]

# The disk image gets its name last, so one that is there is whole. The UKI is the one inside it.
DISK_IMAGE = f"{DISK}.raw"
DISK_UKI = f"{DISK}.efi"

SESSIONS: Mapping[str, Session] = {
    name: Session.of(name, entry) for name, entry in _TABLE["sessions"].items()
}

DISTRIBUTIONS: Mapping[str, Distribution] = {
    name: Distribution(name, **entry) for name, entry in _TABLE["distributions"].items()
}

IMAGES: Mapping[str, Image] = {
    name: Image(
        name,
        tuple(entry["arches"]),
        tuple(entry.get("artifacts", ())),
        entry.get("published", {}),
        entry.get("platforms", {}),
    )
    for name, entry in _TABLE["images"].items()
}

# The distribution that is meant if none is named, and the one that the tools tree is made from.
DEFAULT = next(iter(DISTRIBUTIONS.values()))
TOOLS_DISTRIBUTION = DISTRIBUTIONS[_TABLE["roles"]["tools-distribution"]]

_OPTIONS: Mapping[str, str] = _TABLE["options"]


def images(arch: str) -> tuple[str, ...]:
    """The names of the images that are built for the architecture called arch."""
    return tuple(name for name, image in IMAGES.items() if arch in image.arches)


def artifacts(image: str) -> tuple[str, ...]:
    """What of an image goes to out/; nothing of one that is not in IMAGES, such as the initrd."""
    return IMAGES[image].artifacts if image in IMAGES else ()


def metavar(name: str) -> str:
    """What the option called name takes, as help texts show it ("" for a flag)."""
    return _OPTIONS[name]


def flag(name: str) -> str:
    """The option called name as it is typed, such as --offline.

    Raises KeyError for an option that the catalogue does not have.
    """
    if name not in _OPTIONS:
        raise KeyError(name)
    return f"--{name}"


def option(name: str, value: str = "") -> str:
    """The option called name as it is typed after a session: -- --mirror URL, or with value."""
    return " ".join(filter(None, ["--", flag(name), value or _OPTIONS[name]]))


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
