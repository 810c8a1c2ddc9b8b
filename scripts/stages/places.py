"""Where each target is built, and how mkosi is called there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from scripts import catalog
from scripts.arch import AARCH64, Arch, native
from scripts.catalog import Distribution
from scripts.distributions import amazonlinux, debian
from scripts.options import Options, Proxies
from scripts.stages import additions, configuration, plan
from scripts.system.digests import text_digest
from scripts.system.errors import UsageError
from scripts.system.process import Arg
from scripts.system.url import Url

# Variables for paths that may hold spaces: mkosi splits settings such as BaseTrees= at spaces, and
# expands variables only afterwards.
OUTPUT = "FINCH_OUTPUT"
SANDBOX_TREE = "FINCH_SANDBOX_TREE"
TOOLS_SANDBOX_TREE = "FINCH_TOOLS_SANDBOX_TREE"
ADDITIONS = "FINCH_ADDITIONS"
EMULATORS = "FINCH_EMULATORS"
STANDINS = "FINCH_STANDINS"

# The path of our RPMs, as mkosi takes it.
RPMS = f"${ADDITIONS}/rpms"


@dataclass(frozen=True)
class Place:
    """Where the stages of one target are built and kept, and how mkosi is called for it.

    mirror is None if the sandbox tree or mkosi's default decides where packages come from.
    repositories are those of the distribution that are disabled unless they are named.
    """

    folder: Path
    distribution: Distribution
    release: str
    arch: Arch
    sandbox_tree: Path
    mirror: Url | None = None
    profiles: tuple[str, ...] = ()
    proxies: Proxies = field(default_factory=Proxies)
    repositories: tuple[str, ...] = ()

    def stage(self, name: str) -> Path:
        """The folder with the output and the record of the finished stage called name."""
        return self.folder / "stages" / name

    @property
    def emulators(self) -> Path:
        """The tree of emulators that goes into the base image."""
        return self.folder / "emulators"

    @property
    def additions(self) -> Path:
        """The folder that `Additions.lay_out` makes."""
        return self.folder / "additions"

    @property
    def sources_digest(self) -> str:
        """The sha256 over the package sources ("" if mkosi's own are used)."""
        files = sorted([*self.sandbox_tree.rglob("*.sources"), *self.sandbox_tree.rglob("*-KEY-*")])
        texts = [self.mirror.bare if self.mirror else "", *(path.read_text() for path in files)]
        texts += self.repositories
        return text_digest("".join(texts)) if any(texts) else ""

    @property
    def repository(self) -> str:
        """The repository that RPMs come from, in words ("" if there are none)."""
        if not self.distribution.has_rpms:
            return ""
        return f"{self.distribution} at {self.mirror or amazonlinux.CDN}"

    def environment(self, output: Path) -> dict[str, str]:
        """The variables that mkosi needs to put its output into the folder output."""
        return {
            # mkosi builds the tools tree with the host's programs; a user's PATH lacks some.
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            OUTPUT: os.fspath(output),
            SANDBOX_TREE: os.fspath(self.sandbox_tree),
            ADDITIONS: os.fspath(self.additions),
            EMULATORS: os.fspath(self.emulators),
            # mkosi puts a proxy on apt's and dnf's command lines, and into the environment of
            # scripts. Its credentials are in the sandbox tree.
            **self.proxies.variables,
        }

    def arguments(self) -> list[Arg]:
        """The arguments of mkosi that all stages of the target share."""
        proxy = self.proxies.first
        return [
            "--distribution", self.distribution.mkosi,
            *self._release_arguments(),
            "--architecture", self.arch.mkosi,
            *(["--mirror", self.mirror.bare] if self.mirror else []),
            *(["--proxy-url", proxy.bare] if proxy else []),
            *(arg for name in self.repositories for arg in ("--repositories", name)),
            *(arg for profile in self.profiles for arg in ("--profile", profile)),
            "--sandbox-tree", f"${SANDBOX_TREE}",
        ]  # fmt: skip

    def _release_arguments(self) -> list[Arg]:
        """Return the arguments that make mkosi build the release."""
        if self.distribution.pinned_by == "Release":
            return ["--release", self.release]
        major = self.release.partition(".")[0]
        return ["--release", major, "--snapshot", self.release]


def release_of(root: Path, distribution: Distribution) -> str:
    """The release that the distribution's mkosi configuration pins, in the checkout root.

    Raises UsageError if it pins none.
    """
    path, setting = root / distribution.conf, distribution.pinned_by
    release = plan.read_conf(path).get("Distribution", {}).get(setting)
    if not release:
        raise UsageError(
            f"{path} pins no release of {distribution}",
            hint=f"add {setting}= to its [Distribution]",
        )
    return release


@dataclass(frozen=True)
class Places:
    """The place of the wanted images, and that of the tools tree, which is always native."""

    images: Place
    tools: Place

    @property
    def configuration(self) -> Path:
        """The folder with the copy of the configuration that mkosi builds from."""
        return _configuration(self.images.folder)

    @classmethod
    def prepare(cls, opts: Options) -> Places:
        """Make the folders and sandbox trees for what opts asks for, and copy the configuration."""
        target = opts.target
        name = f"{target.distribution}/{target.arch}"
        copy = _configuration(opts.folders.work / name)
        configuration.copy(opts.folders.root, copy)
        release = target.release or release_of(copy, target.distribution)
        images = _place(opts, target.distribution, release, target.arch, name, target.profiles)
        # dnf and all that it needs is a fifth of a tools tree, which a Debian build can do without;
        # a QEMU and its firmware is as much.
        profiles = (
            *(["rpm"] if target.distribution.has_rpms else []),
            *(["aarch64"] if target.arch is AARCH64 else []),
        )
        source = catalog.TOOLS_DISTRIBUTION
        name = "-".join((f"tools/{source}", *profiles))
        release = release_of(copy, source)
        return cls(images, _place(opts, source, release, native(), name, profiles))

    def with_repositories(self, names: tuple[str, ...]) -> Places:
        """Return these places with further repositories for the images."""
        return replace(self, images=replace(self.images, repositories=names))

    def of_stage(self, name: str) -> Place:
        """The place where the stage called name is built."""
        return self.tools if name == catalog.TOOLS_TREE else self.images

    def stage(self, name: str) -> Path:
        """The folder with the output and the record of the finished stage called name."""
        return self.of_stage(name).stage(name)

    def plain(self, output: Path) -> tuple[list[Arg], dict[str, str]]:
        """The arguments and variables for a plain mkosi that builds all stages itself, into output.

        Such a mkosi makes its own default tools tree, unless told otherwise.
        """
        tools = os.fspath(self.tools.sandbox_tree)
        return (
            [
                *self.images.arguments(),
                "--package-directory", RPMS,
                "--output-directory", output,
                "--tools-tree-sandbox-tree", f"${TOOLS_SANDBOX_TREE}",
            ],
            {**self.images.environment(output), TOOLS_SANDBOX_TREE: tools},
        )  # fmt: skip

    @property
    def tools_tree(self) -> Path:
        """The root of the tools tree."""
        return self.stage(catalog.TOOLS_TREE) / catalog.TOOLS_TREE


def _configuration(folder: Path) -> Path:
    """The copy of the configuration for the images that are built in folder."""
    return folder / "configuration"


def _place(
    opts: Options,
    distribution: Distribution,
    release: str,
    arch: Arch,
    name: str,
    profiles: tuple[str, ...] = (),
) -> Place:
    """Make the folders and the sandbox tree of a place, whose folder is called name."""
    folder = opts.folders.work / name
    # --mirror is of the distribution that was asked for, which need not be the tools tree's.
    mirror = opts.sources.mirror if distribution == opts.target.distribution else None
    sandbox = folder / "sandbox"
    if distribution.mirror_layout == "cdn":
        amazonlinux.write_sandbox_tree(
            sandbox, opts.sources.signing_key, mirror, opts.sources.proxies.first
        )
    else:
        proxies, any_age = opts.sources.proxies, opts.sources.allow_older_index
        debian.write_sandbox_tree(
            sandbox, debian.find(mirror), release, proxies.urls.values(), any_age=any_age
        )
        mirror = None
    for part in ("stages", "packages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    place = Place(
        folder, distribution, release, arch, sandbox, mirror, profiles, opts.sources.proxies
    )
    if not place.additions.exists():
        additions.NONE.lay_out(place.additions)
    return place
