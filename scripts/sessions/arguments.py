"""The command lines of the sessions: options in groups, of which each session shows its own."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from scripts import arch as arches
from scripts import catalog
from scripts.arch import Arch
from scripts.catalog import ROOT, Distribution, flag
from scripts.options import (
    ACCELERATORS,
    DEBIAN,
    EMULATORS,
    EPOCH,
    NO_PROXY,
    OWN_PROFILES,
    PACKAGES,
    PROXIES,
    BootOptions,
    BuildOptions,
    Folders,
    Options,
    PackageBuild,
    Proxies,
    Sources,
    Target,
)
from scripts.origin import Builder
from scripts.system.errors import UsageError
from scripts.system.text import printable
from scripts.system.url import WEB, Url, hidden, shown

# HOST/NAME by OCI's distribution specification; we choose the tag.
_REPOSITORY = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+")

# A release names folders and ends up in mkosi's command line.
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# Characters that no path of ours may contain. An overlay mount of mkosi splits its folders at
# colons and commas, and mkosi expands $ and %; mtools splits a path at @@, debugfs at ?. Other
# programs take a line as a path.
UNUSABLE = re.compile(r"[:,\\$%?\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|@@")

# The most digits of a time in seconds since 1970; more lie beyond what file systems can hold.
EPOCH_DIGITS = 11

# The schemes that a proxy may have.
PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")

# A password with one of these characters ends up somewhere else in the URL.
IN_PASSWORDS = (
    "in a password write %23 for #, %2F for /, %3A for :, %3F for ?, %40 for @, %5B for [ and "
    "%5D for ]"
)

EPILOG = (
    "Options of other sessions are accepted and ignored, so that one list can serve several "
    "sessions. Environment: ARCH stands in for --arch, FINCH_MIRROR for --mirror, "
    "FINCH_THIRD_PARTY_MIRROR for --third-party-mirror and ECR_CACHE_REPO for --layer-cache. "
    "MKOSI_SOURCE names a folder or an archive of mkosi to use, BUILDX_BUILDER a builder of docker "
    "buildx. All downloads honour http_proxy, https_proxy and no_proxy."
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations and raises UsageError."""

    def __init__(self, session: str, description: str, **settings: Any) -> None:
        """Make the parser of a session, called by the name that people type."""
        super().__init__(
            prog=f"./nox -s {session} --",
            description=description,
            allow_abbrev=False,
            **settings,
        )
        self._words: list[str] = []

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse args, which error messages may quote."""
        self._words = [word for word in args or () if "@" in word]
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the message, in which passwords are hidden."""
        for word in self._words:
            message = message.replace(word, shown(word))
        raise UsageError(hidden(message), hint=f"`{self.prog} --help` lists the options")


@dataclass(frozen=True)
class Group:
    """A group of options under its heading; `--help` shows it only if it means something here."""

    parser: argparse._ArgumentGroup
    root: Path
    shown: bool = True

    def add(self, name: str, help_text: str, **settings: Any) -> None:
        """Add the option called name; the catalogue says what it takes."""
        if takes := catalog.metavar(name):
            settings.setdefault("metavar", takes)
        else:
            settings.setdefault("action", "store_true")
        text = help_text if self.shown else argparse.SUPPRESS
        self.parser.add_argument(flag(name), help=text, **settings)


def _add_target(group: Group) -> None:
    names = ", ".join(catalog.DISTRIBUTIONS)
    group.add("distribution", f"one of {names} (default: {catalog.DEFAULT})")
    group.add("release", "release of the distribution (default: the pinned one)", type=_release)
    group.add("arch", f"one of {', '.join(arches.NAMES)}, native (default: native)")
    group.add(
        "image",
        f"image to build: one of {', '.join(catalog.IMAGES)}; may be repeated (default: all)",
        action="append",
        default=[],
    )
    group.add(
        "profile",
        f"profile of mkosi to build with: one of {', '.join(_profiles(group.root))}; may be "
        "repeated",
        action="append",
        default=[],
    )


def _add_sources(group: Group) -> None:
    group.add(
        "mirror",
        "where packages come from (default: this machine's own mirror, or the distribution's); "
        "Amazon Linux needs a tree with the layout of https://cdn.amazonlinux.com/al2023",
    )
    group.add(
        "signing-key",
        "OpenPGP key that signs the mirror's RPMs (default: Amazon's own)",
        type=Path,
    )
    group.add(
        "third-party-mirror",
        "server for the files in third-party/pins.toml, each below its own host and path "
        "(default: the hosts themselves)",
    )
    group.add("third-party-pins", "file to use instead of third-party/pins.toml", type=Path)
    group.add("offline", "use only what has been downloaded already")
    group.add(
        "allow-older-index",
        "accept a mirror's index that has expired, or is older than one that it had before",
    )
    group.add(
        "emulators",
        "where the emulators in the images come from: debian is Debian's package, bake builds "
        "Finch's own in Docker, as binfmt/targets.toml says (default: debian)",
        choices=EMULATORS,
        default=DEBIAN,
    )


def _add_packages(group: Group) -> None:
    group.add(
        "allow-missing",
        "leave out this third-party file if its digest is unknown, or this package of SPAL, "
        "Amazon's Supplementary Packages; may be repeated",
        action="append",
        default=[],
    )
    group.add(
        "packages",
        f"file that lists the packages to build in Docker for Amazon Linux "
        f"(default: {group.root / PACKAGES})",
        type=Path,
    )
    group.add(
        "without-packages",
        "build nothing in Docker: the image gets the distribution's own cloud-init, and sshfs from "
        "SPAL if the release has it",
    )
    group.add(
        "layer-cache",
        "where builds in Docker keep their layers: a registry's repository (HOST/NAME), or a "
        "folder (a path that starts with a slash or a dot)",
    )


def _add_build(group: Group) -> None:
    group.add("force", "rebuild stages that are up to date")
    group.add(
        "jobs",
        "number of stages to build, or of the contract's machines to run, at the same time "
        "(default: 2)",
        type=_count,
        default=2,
    )
    group.add(
        "no-binfmt",
        "do not register an emulator on this machine to build images of another architecture",
    )


def _add_boot(group: Group) -> None:
    group.add(
        "accel",
        "what runs the guest: kvm, tcg (emulation), or auto, which is KVM if it works and TCG "
        "otherwise (default: auto)",
        choices=ACCELERATORS,
        default="auto",
    )
    group.add(
        "contract",
        "try what Lima, Finch and others ask of a guest (docs/guest.md) instead of the ordinary "
        "checks",
    )
    group.add(
        "scenario",
        "try this part of the contract only, a file in tests/contract; may be repeated",
        action="append",
        default=[],
    )


def _add_folders(group: Group) -> None:
    group.add("out", f"folder for the artifacts (default: {group.root / catalog.OUT})", type=Path)
    group.add(
        "work",
        f"folder for what is kept between builds, about 10 GiB "
        f"(default: {group.root / catalog.WORK})",
        type=Path,
    )


# By group: its heading, and what adds its options.
_GROUPS: Mapping[type, tuple[str, Callable[[Group], None]]] = {
    Target: ("what to build", _add_target),
    Sources: ("package and file sources", _add_sources),
    PackageBuild: ("packages of our own", _add_packages),
    BuildOptions: ("how to build", _add_build),
    BootOptions: ("how to boot", _add_boot),
    Folders: ("folders", _add_folders),
}
ALL = tuple(_GROUPS)


def parser(
    session: str,
    description: str,
    shown: Collection[type] = ALL,
    *,
    root: Path = ROOT,
    **settings: Any,
) -> Parser:
    """Make the parser of a session that takes the groups of `scripts.options`.

    shown are the groups that the session uses; `--help` lists only these.
    """
    made = Parser(session, description, epilog=EPILOG, **settings)
    for kind, (title, add) in _GROUPS.items():
        add(Group(made.add_argument_group(title), root, kind in shown))
    return made


def parse(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    root: Path = ROOT,
    using: Parser | None = None,
) -> Options:
    """Read the options in argv and environ with the parser using, by default one of all groups.

    Raises UsageError that lists what is accepted. `--help` prints and ends the process, as argparse
    does.
    """
    given = (using or parser("SESSION", "Builds and boots images.", root=root)).parse_args(argv)
    return options_of(given, environ, root=root)


def parse_for_boot(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    root: Path = ROOT,
    using: Parser | None = None,
) -> Options:
    """As `parse`, but the default distribution is the first one whose disk image was built."""
    given = (using or parser("SESSION", "Boots images.", root=root)).parse_args(argv)
    opts = options_of(given, environ, root=root)
    if given.distribution:
        return opts
    for distribution in catalog.DISTRIBUTIONS.values():
        found = replace(opts, target=replace(opts.target, distribution=distribution))
        if (found.artifacts / catalog.DISK_IMAGE).exists():
            return found
    return opts


def is_built(arch: str, argv: Sequence[str], *, root: Path = ROOT) -> bool:
    """Whether there is a disk image of arch to boot.

    argv are the boot test's arguments, which may name the distribution and the folder of the
    artifacts. True if argv is wrong or asks for help, so that the boot test can answer.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        return True
    try:
        given, _ = parser("boot-test", "", root=root).parse_known_args(argv)
    except UsageError:
        return True
    names = [given.distribution] if given.distribution else list(catalog.DISTRIBUTIONS)
    out = given.out or root / catalog.OUT
    return any((out / name / arch / catalog.DISK_IMAGE).exists() for name in names)


def options_of(
    given: argparse.Namespace, environ: Mapping[str, str], *, root: Path = ROOT
) -> Options:
    """Make options from what a `parser` has read. Raises UsageError if they make no sense."""
    arch = _arch(given.arch or environ.get("ARCH") or "native")
    distribution = parse_distribution(given.distribution)
    source = environ.get("MKOSI_SOURCE")
    return Options(
        target=Target(
            distribution,
            arch,
            given.release,
            _images(given.image, arch),
            _chosen(given.profile, root),
        ),
        sources=Sources(
            mirror=_mirror(given.mirror or environ.get("FINCH_MIRROR"), distribution),
            signing_key=_signing_key(given.signing_key, distribution),
            third_party_mirror=_url(
                given.third_party_mirror or environ.get("FINCH_THIRD_PARTY_MIRROR"),
                "third-party-mirror",
                WEB,
            ),
            third_party_pins=_file(given.third_party_pins, "third-party-pins"),
            mkosi_source=Path(source).absolute() if source else None,
            offline=given.offline,
            proxies=_proxies(environ),
            allow_older_index=given.allow_older_index,
            emulators=given.emulators,
        ),
        packages=PackageBuild(
            recipes=_recipes(given.packages, root),
            skipped=given.without_packages,
            allow_missing=tuple(dict.fromkeys(given.allow_missing)),
            layer_cache=_layer_cache(given.layer_cache or environ.get("ECR_CACHE_REPO")),
            buildx_builder=environ.get("BUILDX_BUILDER", ""),
        ),
        build=BuildOptions(given.force, given.jobs, not given.no_binfmt, _epoch(environ)),
        boot=BootOptions(
            given.accel, given.contract or bool(given.scenario), tuple(given.scenario)
        ),
        folders=Folders(
            root,
            work=folder(given.work, root, "work"),
            out=folder(given.out, root, "out"),
        ),
        builder=Builder.of(environ),
    )


def parse_distribution(name: str | None) -> Distribution:
    """The distribution called name, by default the default one. Raises UsageError if unknown."""
    if not name:
        return catalog.DEFAULT
    if name not in catalog.DISTRIBUTIONS:
        raise UsageError(
            f"unknown distribution {name!r}",
            hint=f"use one of {', '.join(catalog.DISTRIBUTIONS)}",
        )
    return catalog.DISTRIBUTIONS[name]


def _arch(name: str) -> Arch:
    return arches.native() if name == "native" else arches.parse(name)


def _signing_key(path: Path | None, distribution: Distribution) -> Path | None:
    if path and not distribution.has_rpms:
        having = [name for name, known in catalog.DISTRIBUTIONS.items() if known.has_rpms]
        raise UsageError(
            f"--signing-key is for RPMs, and {distribution} has none",
            hint=f"distributions with RPMs: {', '.join(having)}",
        )
    return _file(path, "signing-key")


def folder(given: Path | None, root: Path, option: str) -> Path:
    """Return the absolute path that was given with option, or else its folder in root.

    Raises UsageError if the path has a character that is special to a tool.
    """
    path = (given or root / {"work": catalog.WORK, "out": catalog.OUT}[option]).absolute()
    if found := UNUSABLE.search(os.fspath(path)):
        raise UsageError(
            f"the path {printable(os.fspath(path))} has {printable(repr(found[0]))} in it, which "
            "mkosi, mtools or debugfs would misunderstand",
            hint=f"{catalog.option(option)} names another folder",
        )
    return path


def _file(path: Path | None, option: str) -> Path | None:
    if path and not path.is_file():
        raise UsageError(f"{flag(option)} {path} is not a file")
    return path.absolute() if path else None


def _mirror(text: str | None, distribution: Distribution) -> Url | None:
    url = _url(text, "mirror", (*WEB, "file"))
    if url and url.bare.startswith("file:") and distribution.has_rpms:
        raise UsageError(
            f"--mirror {url} is a folder, but packages of {distribution} come over http or https",
            hint="`python3 -m http.server --bind 127.0.0.1 --directory FOLDER` serves one",
        )
    return url


def _url(text: str | None, option: str, schemes: Collection[str]) -> Url | None:
    """Return the URL that was given with option, or None. Raises UsageError if it is not a URL."""
    try:
        return Url.parse(text, schemes) if text else None
    except ValueError as error:
        raise UsageError(
            f"{flag(option)} {shown(text or '')} {error}",
            hint=IN_PASSWORDS if "@" in (text or "") else "such as https://mirror.example/path",
        ) from None


def _recipes(path: Path | None, root: Path) -> Path:
    if path and not path.is_file():
        raise UsageError(
            f"--packages {path} is not a file", hint=f"the default is {root / PACKAGES}"
        )
    return (path or root / PACKAGES).absolute()


def _layer_cache(text: str | None) -> str | Path | None:
    if not text:
        return None
    if text.startswith(("/", ".", "~")) and printable(text) == text:
        try:
            return Path(text).expanduser().absolute()
        except RuntimeError as error:  # ~nobody-of-this-name
            raise UsageError(f"the layer cache {shown(text)} is not a folder: {error}") from None
    if not _REPOSITORY.fullmatch(text):
        raise UsageError(
            f"the layer cache {shown(text)} is neither a registry's repository nor a folder",
            hint="write HOST/NAME without scheme and tag, or a folder with its slash",
        )
    return text


def _proxies(environ: Mapping[str, str]) -> Proxies:
    def found(*names: str) -> dict[str, str]:
        both = [name for small in names for name in (small, small.upper())]
        return {name: environ[name] for name in both if environ.get(name)}

    urls = {name: _proxy(name, text) for name, text in found(*PROXIES).items()}
    return Proxies(urls, found(NO_PROXY))


def _epoch(environ: Mapping[str, str]) -> int | None:
    text = environ.get(EPOCH)
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= EPOCH_DIGITS):
        raise UsageError(
            f"{EPOCH} must be a number of seconds since 1970, not {text!r}",
            hint="git log -1 --format=%ct prints the time of the newest commit",
        )
    return int(text)


def _proxy(name: str, text: str) -> Url:
    """Return the proxy that the variable called name has. A URL without a scheme is of http."""
    url = text.rstrip("/")
    try:
        return Url.parse(url if "://" in url else f"http://{url}", PROXY_SCHEMES)
    except ValueError as error:
        # Its value may hold a password, so it is not shown.
        raise UsageError(f"{name} in the environment {error}", hint=IN_PASSWORDS) from None


def _images(names: Sequence[str], arch: Arch) -> tuple[str, ...]:
    accepted = catalog.images(arch.name)
    for name in names:
        if name not in accepted:
            raise UsageError(
                f"unknown image {name!r} of {arch}", hint=f"use one of {', '.join(accepted)}"
            )
    return tuple(dict.fromkeys(names))


def _profiles(root: Path) -> list[str]:
    """The names of the profiles that a user may choose."""
    found = {path.stem for path in (root / "mkosi.profiles").glob("*.conf")}
    return sorted(found - OWN_PROFILES)


def _chosen(names: Sequence[str], root: Path) -> tuple[str, ...]:
    """The profiles called names, in the order in which mkosi shall read them."""
    accepted = _profiles(root) if names else []
    for name in names:
        if name not in accepted:
            raise UsageError(f"unknown profile {name!r}", hint=f"use one of {', '.join(accepted)}")
    return tuple(dict.fromkeys(names))


def _release(text: str) -> str:
    if not _RELEASE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a release")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text!r}")
    return int(text)
