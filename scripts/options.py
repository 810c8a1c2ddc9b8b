"""What was asked for: the command line and the environment, read once, into one frozen value."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from scripts import arch as arches
from scripts.arch import Arch
from scripts.origin import Builder
from scripts.system.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent

DISTRIBUTIONS = ("amazonlinux", "debian")

# Those whose packages are RPMs, which dnf installs.
RPM_DISTRIBUTIONS = ("amazonlinux",)

# Finch has a use for the WSL rootfs on x86_64 only.
IMAGES = {
    "x86_64": ("os-image", "container-with-kernel", "wsl-rootfs", "base", "base-with-kernel"),
    "aarch64": ("os-image", "container-with-kernel", "base", "base-with-kernel"),
}

# What --allow-missing calls the image that packages are built in.
BASE_IMAGE = "base-image"

ACCELERATORS = ("auto", "kvm", "tcg")

# The file whose presence means that an os-image is whole: it is renamed to this name last.
OS_IMAGE = "os-image.raw"

# The packages that are built in Docker, in the checkout.
PACKAGES = "al2023-package-build/packages.toml"

# What names a proxy, and what does without one, in small or in capital letters.
NO_PROXY = "no_proxy"
PROXIES = ("http_proxy", "https_proxy", NO_PROXY)

# HOST/NAME of the distribution specification of OCI, without a tag, which is ours to choose.
_REPOSITORY = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+")

# A release names folders and ends up in mkosi's command line.
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Options:
    """What to build or boot, and how.

    images are the ones asked for, none meaning all of the architecture. release, mirror,
    signing_key, third_party_mirror, third_party_pins and mkosi_source are None where the project's
    own choice is meant. allow_missing are third-party files to do without. packages says what is
    built in Docker, without_packages that nothing is; layer_cache is a repository of a registry, a
    folder, or None, buildx_builder the name of a builder of buildx, "" for the engine's own. jobs
    is how many stages may be built at the same time, binfmt whether a build may register an
    emulator on this machine. root is the checkout, work what is kept between builds, out where the
    artifacts of all distributions go, builder who builds, proxies what of PROXIES is set.
    """

    distribution: str
    release: str | None
    mirror: str | None
    signing_key: Path | None
    third_party_mirror: str | None
    third_party_pins: Path | None
    allow_missing: tuple[str, ...]
    packages: Path
    without_packages: bool
    layer_cache: str | Path | None
    buildx_builder: str
    arch: Arch
    images: tuple[str, ...]
    force: bool
    offline: bool
    jobs: int
    binfmt: bool
    accel: str
    mkosi_source: Path | None
    root: Path
    work: Path
    out: Path
    builder: Builder = field(default_factory=Builder)
    proxies: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> Path:
        """The folder of the artifacts of this distribution and architecture."""
        return self.out / self.distribution / self.arch.name


def parse(argv: Sequence[str], environ: Mapping[str, str], *, root: Path = ROOT) -> Options:
    """The options in argv and environ.

    Of environ ARCH, BUILDX_BUILDER, ECR_CACHE_REPO, MKOSI_SOURCE and PROXIES count, and what
    `Builder.of` reads. Raises UsageError that lists what is accepted. `--help` prints and ends the
    process, as argparse does.
    """
    given = _parser(root).parse_args(argv)
    arch = _arch(given.arch or environ.get("ARCH") or "native")
    source = environ.get("MKOSI_SOURCE")
    distribution = _distribution(given.distribution or DISTRIBUTIONS[0])
    return Options(
        distribution=distribution,
        release=given.release,
        mirror=_mirror_of(given.mirror, distribution),
        signing_key=_signing_key(given.signing_key, distribution),
        third_party_mirror=given.third_party_mirror,
        third_party_pins=_pins(given.third_party_pins),
        allow_missing=tuple(dict.fromkeys(given.allow_missing)),
        packages=_packages(given.packages, root),
        without_packages=given.without_packages,
        layer_cache=_layer_cache(given.layer_cache or environ.get("ECR_CACHE_REPO")),
        buildx_builder=environ.get("BUILDX_BUILDER", ""),
        arch=arch,
        images=_images(given.image, arch),
        force=given.force,
        offline=given.offline,
        jobs=given.jobs,
        binfmt=not given.no_binfmt,
        accel=given.accel,
        mkosi_source=Path(source).absolute() if source else None,
        root=root,
        work=(given.work or root / ".work").absolute(),
        out=(given.out or root / "out").absolute(),
        builder=Builder.of(environ),
        proxies=_proxies(environ),
    )


def parse_for_boot(
    argv: Sequence[str], environ: Mapping[str, str], *, root: Path = ROOT
) -> Options:
    """As `parse`, but the distribution, where argv names none, is the first that has been built."""
    opts = parse(argv, environ, root=root)
    if _parser(root).parse_args(argv).distribution:
        return opts
    for name in DISTRIBUTIONS:
        found = replace(opts, distribution=name)
        if (found.target / OS_IMAGE).exists():
            return found
    return opts


def built(arch: str, argv: Sequence[str], *, root: Path = ROOT) -> bool:
    """Whether an os-image of arch is there to boot.

    argv is what the boot test will be called with: it may name the distribution, else any will do,
    and another folder than out/. Where argv makes no sense, or asks for help, the boot test is the
    one to say so, hence True.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        return True
    try:
        given, _ = _parser(root).parse_known_args(argv)
    except UsageError:
        return True
    distributions = [given.distribution] if given.distribution else DISTRIBUTIONS
    out = given.out or root / "out"
    return any((out / name / arch / OS_IMAGE).exists() for name in distributions)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message, hint=f"`{self.prog} --help` lists the options")


def _parser(root: Path) -> argparse.ArgumentParser:
    parser = Parser(
        prog="./nox -s SESSION --",
        description="Builds operating-system images and boots them. Not every option means "
        "something to every session.",
        epilog="environment: ARCH stands in for --arch, ECR_CACHE_REPO for --layer-cache; "
        "MKOSI_SOURCE names a folder or an archive of mkosi to use, BUILDX_BUILDER a builder of "
        "docker buildx; http_proxy, https_proxy and no_proxy count for package builds too",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to build")
    what.add_argument(
        "--distribution",
        metavar="NAME",
        help=f"one of {', '.join(DISTRIBUTIONS)} (default: {DISTRIBUTIONS[0]})",
    )
    what.add_argument(
        "--release", metavar="NAME", type=_release, help="of the distribution (default: the pinned)"
    )
    what.add_argument(
        "--mirror",
        metavar="URL",
        type=_mirror,
        help="of the packages (default: this machine's own, or the distribution's); for Amazon "
        "Linux anything with the layout of https://cdn.amazonlinux.com/al2023",
    )
    what.add_argument(
        "--signing-key",
        metavar="FILE",
        type=Path,
        help="OpenPGP key that the mirror's RPMs are signed with (default: Amazon's own)",
    )
    what.add_argument(
        "--third-party-mirror",
        metavar="URL",
        type=_web_mirror,
        help="of the files in third-party/pins.toml, each below its own host and path",
    )
    what.add_argument(
        "--third-party-pins",
        metavar="FILE",
        type=Path,
        help="in the place of third-party/pins.toml",
    )
    what.add_argument(
        "--allow-missing",
        metavar="NAME",
        action="append",
        default=[],
        help="do without this third-party file where its digest is not known, or with what the tag "
        "of base-image names; may be given again",
    )
    what.add_argument(
        "--arch",
        metavar="NAME",
        help=f"one of {', '.join(arches.NAMES)}, native (default: native)",
    )
    what.add_argument(
        "--image",
        metavar="NAME",
        action="append",
        default=[],
        help=f"of {', '.join(IMAGES['x86_64'])}; may be given again (default: all)",
    )
    what.add_argument(
        "--packages",
        metavar="FILE",
        type=Path,
        help=f"what is built in Docker for Amazon Linux (default: {root / PACKAGES})",
    )
    what.add_argument(
        "--without-packages",
        action="store_true",
        help="build nothing in Docker: the image has the distribution's own cloud-init, no sshfs",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--layer-cache",
        metavar="WHERE",
        help="of package builds: a repository of a registry, or a folder (a path with a slash or a "
        "dot at its start)",
    )
    how.add_argument("--force", action="store_true", help="build again what is up to date")
    how.add_argument("--offline", action="store_true", help="use only what is already here")
    how.add_argument(
        "--jobs",
        metavar="N",
        type=_count,
        default=2,
        help="stages that are built at the same time (default: 2)",
    )
    how.add_argument(
        "--no-binfmt",
        action="store_true",
        help="register no emulator here, for as long as a build of another architecture runs",
    )
    how.add_argument(
        "--accel",
        choices=ACCELERATORS,
        default="auto",
        help="of the boot test: KVM where it truly runs, else TCG (default: auto)",
    )
    how.add_argument(
        "--out", metavar="FOLDER", type=Path, help=f"for the artifacts (default: {root / 'out'})"
    )
    how.add_argument(
        "--work",
        metavar="FOLDER",
        type=Path,
        help=f"kept between builds, of about 10 GiB (default: {root / '.work'})",
    )
    return parser


def _arch(name: str) -> Arch:
    return arches.native() if name == "native" else arches.parse(name)


def _distribution(name: str) -> str:
    if name not in DISTRIBUTIONS:
        raise UsageError(
            f"unknown distribution {name!r}", hint=f"accepted are {', '.join(DISTRIBUTIONS)}"
        )
    return name


def _signing_key(path: Path | None, distribution: str) -> Path | None:
    if path is None:
        return None
    if distribution not in RPM_DISTRIBUTIONS:
        raise UsageError(
            f"--signing-key is for RPMs, which {distribution} has none of",
            hint=f"distributions that have: {', '.join(RPM_DISTRIBUTIONS)}",
        )
    if not path.is_file():
        raise UsageError(f"--signing-key {path} is no file")
    return path.absolute()


def _mirror_of(url: str | None, distribution: str) -> str | None:
    if url and urlsplit(url).scheme == "file" and distribution in RPM_DISTRIBUTIONS:
        raise UsageError(
            f"--mirror {url} is a folder, but packages of {distribution} come over http or https",
            hint="`python3 -m http.server --bind 127.0.0.1 --directory FOLDER` serves one",
        )
    return url


def _pins(path: Path | None) -> Path | None:
    if path and not path.is_file():
        raise UsageError(f"--third-party-pins {path} is no file")
    return path.absolute() if path else None


def _packages(path: Path | None, root: Path) -> Path:
    if path and not path.is_file():
        raise UsageError(f"--packages {path} is no file", hint=f"the default is {root / PACKAGES}")
    return (path or root / PACKAGES).absolute()


def _layer_cache(text: str | None) -> str | Path | None:
    if not text:
        return None
    if text.startswith(("/", ".", "~")):
        return Path(text).expanduser().absolute()
    if not _REPOSITORY.fullmatch(text):
        raise UsageError(
            f"{text!r} is no repository of a registry, where a layer cache could be",
            hint="write HOST/NAME, without scheme and tag, or a folder with its slash",
        )
    return text


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    names = [name for small in PROXIES for name in (small, small.upper())]
    found = {name: environ[name] for name in names if environ.get(name)}
    for name, url in found.items():
        if name.lower() != NO_PROXY and not _is_url(with_scheme(url)):
            # Its value may hold a password, and is not shown.
            raise UsageError(
                f"{name} in the environment is no URL",
                hint="in a password # is written %23, / is %2F, : is %3A, [ is %5B and ] is %5D",
            )
    return found


def with_scheme(url: str) -> str:
    """A proxy's URL, which may lack its scheme, as urllib.parse takes it."""
    return url if "://" in url else f"//{url}"


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return bool(url.hostname) and (url.port is None or url.port > 0) and not url.fragment
    except ValueError:
        return False


def _images(names: Sequence[str], arch: Arch) -> tuple[str, ...]:
    accepted = IMAGES[arch.name]
    for name in names:
        if name not in accepted:
            raise UsageError(
                f"unknown image {name!r} of {arch}", hint=f"accepted are {', '.join(accepted)}"
            )
    return tuple(dict.fromkeys(names))


def _release(text: str) -> str:
    if not _RELEASE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a release")
    return text


def _mirror(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in {"http", "https", "file"} or not (url.netloc or url.path):
        raise argparse.ArgumentTypeError(f"{text!r} is no http, https or file URL")
    return text


def _web_mirror(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is no http or https URL")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)
