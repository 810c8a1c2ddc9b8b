"""The workshop: options, folders, mkosi and progress of one run, in one value."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

from scripts.emulation import binfmt
from scripts.mkosi import installation, source
from scripts.mkosi.sandbox import Tools
from scripts.mkosi.source import Mkosi
from scripts.options import Options
from scripts.packages import supplementary
from scripts.stages.places import Places
from scripts.system.progress import Progress


@dataclass(frozen=True)
class Workshop:
    """The options of one run, the folders it works in, and its progress display."""

    options: Options
    places: Places
    progress: Progress

    @classmethod
    def prepare(cls, options: Options, progress: Progress) -> Workshop:
        """Make the folders and sandbox trees that options ask for."""
        places = Places.prepare(options)
        further = supplementary.repositories(options, places.images)
        return cls(options, places.with_repositories(further), progress)

    @cached_property
    def mkosi(self) -> Mkosi:
        """The pinned and patched mkosi, obtained when it is first needed."""
        return obtain_mkosi(self.options, self.progress)

    @property
    def tools(self) -> Tools:
        """The programs of the tools tree, which must have been built."""
        return Tools(self.places.tools_tree, self.mkosi.sandbox)

    def emulation(self) -> AbstractContextManager[None]:
        """Let this machine run the images' programs for as long as the context lasts."""
        options = self.options
        return binfmt.emulated(
            options.target.arch,
            options.folders.root,
            options.folders.work,
            self.progress,
            may_register=options.build.binfmt,
            offline=options.sources.offline,
        )

    def install_mkosi(self) -> Mkosi:
        """Install mkosi into this environment, unless it is there, and return it."""
        installation.install(self.mkosi)
        return self.mkosi


def obtain_mkosi(options: Options, progress: Progress) -> Mkosi:
    """Obtain the pinned and patched mkosi, or the one that options name."""
    return source.obtain(
        options.folders.root / "mkosi",
        options.folders.work,
        progress,
        given=options.sources.mkosi_source,
        offline=options.sources.offline,
    )
