"""The archives that others take: the rootfs for WSL and Lima, and the container image as one tar.

Equal contents come out as equal bytes: members in the order of their names, owners as numbers,
nothing of the machine and the moment that made them.
"""

from __future__ import annotations

import copy
import os
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scripts.system.process import Arg, CommandError, running, start


def pack_rootfs(tar: Path, compressor: Sequence[Arg]) -> Path:
    """Rewrite the plain tar of a root file system as <tar>.gz and remove it; returns that file.

    compressor is a command that compresses stdin to stdout. Raises CommandError where it fails.
    """
    packed = tar.with_name(f"{tar.name}.gz")
    with (
        tarfile.open(tar, "r:") as source,
        packed.open("wb") as file,
        running(start(compressor, stdin=subprocess.PIPE, stdout=file)) as process,
    ):
        is_whole = _write(source, process)
    if process.returncode or not is_whole:
        raise CommandError([os.fspath(arg) for arg in compressor], process.returncode, "")
    tar.unlink()
    return packed


def _write(source: tarfile.TarFile, process: subprocess.Popen[bytes]) -> bool:
    """Write the members of source to process and wait for its end; whether it took all of them."""
    assert process.stdin
    try:
        with tarfile.open(fileobj=process.stdin, mode="w|", format=tarfile.PAX_FORMAT) as target:
            for member, content in _in_order(source):
                target.addfile(member, source.extractfile(content) if content else None)
        process.stdin.close()
    except BrokenPipeError:
        process.wait()
        return False
    process.wait()
    return True


def _in_order(source: tarfile.TarFile) -> Iterable[tuple[tarfile.TarInfo, tarfile.TarInfo | None]]:
    """Each member as it is written, by name, and the one that holds its content, if it has any.

    Of the names of one file the first is the file and the others are links to it, as an archive has
    to have it.
    """
    first: dict[str, str] = {}
    for member in sorted(source.getmembers(), key=lambda member: _name(member.name)):
        name = _name(member.name)
        if not name:  # the root itself, which whoever unpacks has made
            continue
        written = copy.copy(member)
        written.name, written.uname, written.gname = name, "", ""
        written.mtime = int(member.mtime)
        written.pax_headers = _attributes(member.pax_headers)
        if not (member.isreg() or member.islnk()):
            yield written, None
            continue
        content = source.getmember(member.linkname) if member.islnk() else member
        if (to := first.setdefault(content.name, name)) != name:
            written.type, written.linkname, written.size = tarfile.LNKTYPE, to, 0
            yield written, None
        else:
            written.type, written.linkname, written.size = tarfile.REGTYPE, "", content.size
            yield written, content


def _name(name: str) -> str:
    return name.removeprefix(".").removeprefix("/")


def _attributes(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a member's extended headers is of the file, such as its capabilities."""
    return {name: value for name, value in headers.items() if name.startswith("SCHILY.")}


def link_wsl(packed: Path) -> Path:
    """Give <name>.tar.gz the name <name>.wsl too, which Windows installs at a double click."""
    wsl = packed.with_name(f"{packed.name.removesuffix('.tar.gz')}.wsl")
    wsl.unlink(missing_ok=True)
    wsl.hardlink_to(packed)
    return wsl
