"""Watches what Python does in this process: files outside a folder, programs, other machines."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# The audit events (PEP 578) that change files, with the arguments that are paths.
CHANGES = {
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.setxattr": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
}
STARTS = {"os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Breach(BaseException):
    """A parser did what none may. It is no Exception, so that no parser takes it for an error."""


class _Fence:
    """The folder that may be written to, or None while anything may be."""

    folder: Path | None = None
    breaches: list[str]

    def hook(self, event: str, args: tuple[object, ...]) -> None:
        if self.folder is None:
            return
        if event in STARTS:
            self._refuse(f"{event} {args[0]!r}")
        elif event == "socket.connect":
            self._check_address(args[1])
        elif event == "open":
            flags = args[2]
            if isinstance(flags, int) and flags & WRITES:
                self._check_path(event, args[0])
        for place in CHANGES.get(event, ()):
            self._check_path(event, args[place])

    def _check_path(self, event: str, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor, which was opened before
        assert self.folder
        text = os.fsdecode(path)
        folder = os.path.realpath(os.path.dirname(os.path.join(self.folder, text)))  # noqa: PTH118, PTH120
        inside = folder == str(self.folder) or folder.startswith(f"{self.folder}/")
        if not inside and text not in {os.devnull, str(self.folder)}:
            self._refuse(f"{event} {text!r}")

    def _check_address(self, address: object) -> None:
        if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1"}:
            self._refuse(f"socket.connect {address!r}")

    def _refuse(self, what: str) -> None:
        self.breaches.append(what)
        raise Breach(what)


_fence = _Fence()
_fence.breaches = []
sys.addaudithook(_fence.hook)  # for good: Python has no way to remove one


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Let the with block write to folder only, and start nothing. Raises Breach."""
    _fence.folder, _fence.breaches = folder.resolve(), []
    try:
        yield
    finally:
        _fence.folder = None
    if _fence.breaches:
        raise Breach(_fence.breaches[0])
