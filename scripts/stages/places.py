"""Where each target is built, and how mkosi is called there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import AARCH64, Arch, native
from scripts.distributions import amazonlinux, debian
from scripts.options import RPM_DISTRIBUTIONS, Options
from scripts.stages import additions, plan
from scripts.stages.plan import TOOLS_TREE
from scripts.system.digests import text_digest
from scripts.system.process import Arg

# mkosi takes the value of a setting such as BaseTrees= apart at spaces, and expands variables of
# the environment only then: a path that may hold spaces has to come in one.
OUTPUT = "FINCH_OUTPUT"
SANDBOX_TREE = "FINCH_SANDBOX_TREE"
TOOLS_SANDBOX_TREE = "FINCH_TOOLS_SANDBOX_TREE"
ADDITIONS = "FINCH_ADDITIONS"
EMULATORS = "FINCH_EMULATORS"
STANDINS = "FINCH_STANDINS"

# The RPMs among the additions, as mkosi takes the path.
RPMS = f"${ADDITIONS}/rpms"


@dataclass(frozen=True)
class Place:
    """Where the stages of one target are built and kept, and how mkosi is called for it.

    mirror is None where the sandbox tree or mkosi's default says where packages come from.
    """

    folder: Path
    distribution: str
    release: str
    arch: Arch
    sandbox_tree: Path
    mirror: str | None = None
    profiles: tuple[str, ...] = ()

    def stage(self, name: str) -> Path:
        """The folder that holds the finished output and the record of the stage called name."""
        return self.folder / "stages" / name

    @property
    def emulators(self) -> Path:
        """The tree of emulators that goes into the base image."""
        return self.folder / "emulators"

    @property
    def additions(self) -> Path:
        """The folder that `additions.Additions.lay_out` has made."""
        return self.folder / "additions"

    @property
    def sources_digest(self) -> str:
        """The sha256 over the package sources, "" where mkosi's own are used."""
        files = sorted([*self.sandbox_tree.rglob("*.sources"), *self.sandbox_tree.rglob("*-KEY-*")])
        texts = [self.mirror or "", *(path.read_text() for path in files)]
        return text_digest("".join(texts)) if any(texts) else ""

    @property
    def repository(self) -> str:
        """The repository that RPMs come from, in words ("" where there are none)."""
        if self.distribution not in RPM_DISTRIBUTIONS:
            return ""
        return f"{self.distribution} at {self.mirror or amazonlinux.CDN}"

    def environment(self, output: Path) -> dict[str, str]:
        """What mkosi needs in its environment to put its output into the folder output."""
        return {
            # mkosi builds a tools tree with the host's programs, and a person's PATH lacks some.
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            OUTPUT: os.fspath(output),
            SANDBOX_TREE: os.fspath(self.sandbox_tree),
            ADDITIONS: os.fspath(self.additions),
            EMULATORS: os.fspath(self.emulators),
        }

    def arguments(self) -> list[Arg]:
        """Mkosi's arguments that are the same for all stages of the target."""
        return [
            "--distribution", self.distribution,
            "--release", self.release,
            "--architecture", self.arch.mkosi,
            *(["--mirror", self.mirror] if self.mirror else []),
            *(arg for profile in self.profiles for arg in ("--profile", profile)),
            "--sandbox-tree", f"${SANDBOX_TREE}",
        ]  # fmt: skip


def release_of(root: Path, distribution: str) -> str:
    """The release that mkosi.conf.d/<distribution>.conf pins."""
    conf = plan.read_conf(root / f"mkosi.conf.d/{distribution}.conf")
    return conf["Distribution"]["Release"]


@dataclass(frozen=True)
class Places:
    """The two targets of every build: the images that were asked for, and the tools tree.

    The tools tree is always native.
    """

    images: Place
    tools: Place

    def of_stage(self, name: str) -> Place:
        """Where the stage called name is built."""
        return self.tools if name == TOOLS_TREE else self.images

    def stage(self, name: str) -> Path:
        """The folder that holds the finished output and the record of the stage called name."""
        return self.of_stage(name).stage(name)

    def plain(self, output: Path) -> tuple[list[Arg], dict[str, str]]:
        """The arguments and the environment of a mkosi that builds everything itself, into output.

        It makes its own default tools tree, unless told otherwise.
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
        return self.stage(TOOLS_TREE) / TOOLS_TREE


def of(opts: Options) -> Places:
    """The places of what opts asks for, their folders and sandbox trees made."""
    release = opts.release or release_of(opts.root, opts.distribution)
    # dnf and all that it needs is a fifth of a tools tree, which a Debian build can do without; a
    # QEMU and its firmware as much.
    profiles = (
        *(["rpm"] if opts.distribution in RPM_DISTRIBUTIONS else []),
        *(["aarch64"] if opts.arch is AARCH64 else []),
    )
    return Places(
        images=_place(
            opts, opts.distribution, release, opts.arch, f"{opts.distribution}/{opts.arch}"
        ),
        tools=_place(
            opts,
            "debian",
            release_of(opts.root, "debian"),
            native(),
            "-".join(("tools/debian", *profiles)),
            profiles,
        ),
    )


def _place(
    opts: Options,
    distribution: str,
    release: str,
    arch: Arch,
    name: str,
    profiles: tuple[str, ...] = (),
) -> Place:
    folder = opts.work / name
    # --mirror is of the distribution that was asked for, which the tools tree's need not be.
    mirror = opts.mirror if distribution == opts.distribution else None
    sandbox = folder / "sandbox"
    if distribution in RPM_DISTRIBUTIONS:
        debian.write_rpm_sandbox_tree(sandbox, opts.signing_key)
    else:
        archive = debian.find(mirror) if distribution == "debian" else None
        debian.write_sandbox_tree(sandbox, archive, release)
        mirror = None
    for part in ("stages", "packages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    place = Place(folder, distribution, release, arch, sandbox, mirror, profiles)
    if not place.additions.exists():
        additions.NONE.lay_out(place.additions)
    return place
