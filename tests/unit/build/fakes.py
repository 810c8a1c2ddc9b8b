"""A mkosi that is a program of the tests, and what it tells of being called."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.distributions.debian import Archive
from scripts.mkosi.source import Mkosi
from scripts.system.process import Arg
from scripts.system.url import Url

PROGRAM = Path(__file__).with_name("fake_mkosi.py")

# In place of mkosi's sandbox: hides nothing, and has the fake program play those of the tools tree.
SANDBOX = """\
import sys
def enter(argv):
    command = argv[argv.index("--") + 1:]
    if "--image-id" in command:
        return command
    return [sys.executable, {program!r}, {folder!r}, "--", *command]
"""


@dataclass(frozen=True)
class Event:
    """Something that the fake program told of; more is what it said besides."""

    what: str
    stage: str
    more: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.what} {self.stage}"


class FakeMkosi(Mkosi):
    """A mkosi whose command is the fake program, told what to do in its folder."""

    @classmethod
    def make(cls, folder: Path) -> FakeMkosi:
        """Make one in folder that turns each image into a file of the image's name."""
        (folder / "mkosi").mkdir(parents=True)
        names = {"program": os.fspath(PROGRAM), "folder": os.fspath(folder)}
        (folder / "mkosi/sandbox.py").write_text(SANDBOX.format(**names))
        return cls(folder, "27.1", "a test", "0" * 64)

    def command(self, *args: Arg) -> list[Arg]:
        return [sys.executable, PROGRAM, self.folder, *args]

    def archive(self) -> Archive:
        return Archive(Url("http://archive.test/debian"))

    def tell(self, stage: str, *attempts: dict[str, Any]) -> None:
        """Tell it what to do for stage, each time that it is called."""
        (self.folder / f"{stage}.json").write_text(json.dumps(attempts))

    def events(self, *what: str) -> list[Event]:
        """What it told of in order; of those kinds, if any are given.

        That metadata were fetched is told only to those that ask for "sync".
        """
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines]
        told = [Event(event.pop("what"), event.pop("stage"), event) for event in events]
        return [event for event in told if event.what in what or not (what or event.what == "sync")]
