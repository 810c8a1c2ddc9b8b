"""The user's options, in groups: frozen values that `scripts.sessions.arguments` makes.

Everything below the sessions reads these values, and neither the command line nor the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scripts import catalog
from scripts.arch import Arch
from scripts.catalog import Distribution
from scripts.origin import Builder
from scripts.system.url import Url

# What pins call the image that packages are built in.
BASE_IMAGE = "base-image"

ACCELERATORS = ("auto", "kvm", "tcg")

# Where the emulators in images come from: Debian's package, or Finch's own, built with
# `docker buildx bake`.
DEBIAN, BAKE = EMULATORS = ("debian", "bake")

# Says which packages are built in Docker; relative to the checkout.
PACKAGES = "al2023-package-build/packages.toml"

# The profiles of mkosi.profiles that the harness chooses by itself.
OWN_PROFILES = frozenset({"aarch64", "foreign", "rpm", "staged"})

# The variable that names hosts to reach without a proxy, and those that name a proxy; programs also
# read them in capital letters.
NO_PROXY = "no_proxy"
PROXIES = ("http_proxy", "https_proxy")

# The variable for BuildOptions.epoch: https://reproducible-builds.org/specs/source-date-epoch
EPOCH = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True)
class Target:
    """What to build or boot.

    release is None for the pinned one. images are the names of the images asked for; none means
    all that the architecture has. profiles are those of mkosi.profiles to build with.
    """

    distribution: Distribution
    arch: Arch
    release: str | None = None
    images: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names of the images to build."""
        return self.images or catalog.images(self.arch.name)


@dataclass(frozen=True)
class Proxies:
    """The proxies that the environment names.

    urls maps names of variables to proxies. exceptions maps names of variables to the hosts that
    are reached without a proxy.
    """

    urls: Mapping[str, Url] = field(default_factory=dict)
    exceptions: Mapping[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """The variables without any credentials, for programs that get those from a file."""
        return {**{name: url.bare for name, url in self.urls.items()}, **self.exceptions}

    @property
    def first(self) -> Url | None:
        """The proxy for programs that know only one."""
        return next(iter(self.urls.values()), None)


@dataclass(frozen=True)
class Sources:
    """Where everything comes from; None means the project's own choice.

    mirror is the URL of the distribution's packages, signing_key the OpenPGP key of its RPMs.
    third_party_mirror is the URL of a server to use instead of GitHub, third_party_pins a file to
    use instead of third-party/pins.toml. mkosi_source is a folder or archive of mkosi. offline
    forbids downloads. proxies apply to all of them. allow_older_index accepts an index of packages
    that has expired, or is older than one that was seen before. emulators is one of EMULATORS.
    """

    mirror: Url | None = None
    signing_key: Path | None = None
    third_party_mirror: Url | None = None
    third_party_pins: Path | None = None
    mkosi_source: Path | None = None
    offline: bool = False
    proxies: Proxies = field(default_factory=Proxies)
    allow_older_index: bool = False
    emulators: str = DEBIAN


@dataclass(frozen=True)
class PackageBuild:
    """How packages of our own are built in Docker.

    recipes is the file that lists them; skipped means that none are built. allow_missing names what
    may be left out if its digest is not known. layer_cache is a repository of a registry, a folder,
    or None. buildx_builder is the name of a builder of docker buildx, "" for the engine's own.
    """

    recipes: Path
    skipped: bool = False
    allow_missing: tuple[str, ...] = ()
    layer_cache: str | Path | None = None
    buildx_builder: str = ""


@dataclass(frozen=True)
class BuildOptions:
    """How stages are built.

    force builds again what is up to date, jobs is the number of stages built at the same time, or
    of the contract's machines, and binfmt tells whether a build may register an emulator on this
    machine. epoch is the latest time that a file of an image may have, in seconds since 1970, or
    None.
    """

    force: bool = False
    jobs: int = 2
    binfmt: bool = True
    epoch: int | None = None


@dataclass(frozen=True)
class BootOptions:
    """How the boot test runs.

    accel is one of ACCELERATORS. contract tells whether the guest's contract is tried instead, and
    scenarios names the parts of it that are meant, which are all if it is empty.
    """

    accel: str = "auto"
    contract: bool = False
    scenarios: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folders:
    """The checkout (root), what is kept between builds (work), and the artifacts (out)."""

    root: Path
    work: Path
    out: Path


@dataclass(frozen=True)
class Options:
    """What one run was asked for; builder says who runs it."""

    target: Target
    sources: Sources
    packages: PackageBuild
    build: BuildOptions
    boot: BootOptions
    folders: Folders
    builder: Builder = field(default_factory=Builder)

    @property
    def artifacts(self) -> Path:
        """The folder of this distribution's and architecture's artifacts."""
        target = self.target
        return self.folders.out / target.distribution.name / target.arch.name
