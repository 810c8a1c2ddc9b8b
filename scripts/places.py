"""Where each target is built, and how mkosi is called there."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from scripts import sources, stages
from scripts.arch import Arch, native
from scripts.digests import text_digest
from scripts.options import Options
from scripts.run import Arg
from scripts.stages import TOOLS_TREE

# mkosi takes the value of a setting such as BaseTrees= apart at spaces, and expands variables of
# the environment only then: a path that may hold spaces has to come in one.
OUTPUT = "FINCH_OUTPUT"
SANDBOX_TREE = "FINCH_SANDBOX_TREE"
TOOLS_SANDBOX_TREE = "FINCH_TOOLS_SANDBOX_TREE"


@dataclass(frozen=True)
class Place:
    """Where the stages of one target are built and kept, and how mkosi is called for it."""

    folder: Path
    distribution: str
    release: str
    arch: Arch
    sandbox_tree: Path

    def stage(self, name: str) -> Path:
        """The folder that holds the finished output and the record of the stage called name."""
        return self.folder / "stages" / name

    def workspace(self, name: str) -> Path:
        """The folder called name that mkosi works in.

        mkosi passes its path through a shell without quoting it. Where that would go wrong it lies
        in /var/tmp, which is mkosi's own choice.
        """
        path = os.fspath(self.folder / name)
        if path == shlex.quote(path):
            return self.folder / name
        return Path("/var/tmp") / f"finch-{text_digest(path)[:16]}"

    @property
    def sources_digest(self) -> str:
        """The sha256 over the package sources, "" where mkosi's own are used."""
        files = sorted(self.sandbox_tree.rglob("*.sources"))
        return text_digest("".join(path.read_text() for path in files)) if files else ""

    def environment(self, output: Path) -> dict[str, str]:
        """What mkosi needs in its environment to put its output into the folder output."""
        return {
            # mkosi builds a tools tree with the host's programs, and a person's PATH lacks some.
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            OUTPUT: os.fspath(output),
            SANDBOX_TREE: os.fspath(self.sandbox_tree),
        }

    def arguments(self) -> list[Arg]:
        """Mkosi's arguments that are the same for all stages of the target."""
        return [
            "--distribution", self.distribution,
            "--release", self.release,
            "--architecture", self.arch.mkosi,
            "--sandbox-tree", f"${SANDBOX_TREE}",
            "--workspace-directory", self.workspace("workspace"),
        ]  # fmt: skip


def release_of(root: Path, distribution: str) -> str:
    """The release that mkosi.conf.d/<distribution>.conf pins."""
    conf = stages.read_conf(root / f"mkosi.conf.d/{distribution}.conf")
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
    name = f"{opts.distribution}/{opts.arch}"
    # What this machine can bootstrap: Debian with apt, Fedora with dnf.
    bootstrap = "debian" if shutil.which("apt-get") else "fedora"
    return Places(
        images=_place(opts, opts.distribution, release, opts.arch, name),
        tools=_place(
            opts, bootstrap, release_of(opts.root, bootstrap), native(), f"tools/{bootstrap}"
        ),
    )


def _place(opts: Options, distribution: str, release: str, arch: Arch, name: str) -> Place:
    folder = opts.work / name
    archive = sources.find(opts.mirror) if distribution == "debian" else None
    sandbox = sources.write_sandbox_tree(folder / "sandbox", archive, release)
    for part in ("stages", "packages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    return Place(folder, distribution, release, arch, sandbox)
