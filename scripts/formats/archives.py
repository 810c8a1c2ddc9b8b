"""Packs the root file system for WSL and Lima.

Equal contents give equal bytes: members are sorted by name, owners are numbers, and nothing depends
on the machine or the time.
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
    """Rewrite the tar of a root file system as <tar>.gz, remove the tar, and return the new file.

    compressor is a command that compresses stdin to stdout. Raises CommandError if it fails.
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
    """Write the members of source to process, wait for it, and return whether it took them all."""
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
    """Yield each member as it is written, sorted by name, with the member that holds its content.

    If a file has several names, the first one becomes the file, and the others become links to it:
    an archive must have the file before the links.
    """
    first: dict[str, str] = {}
    for member in sorted(source.getmembers(), key=lambda member: _name(member.name)):
        name = _name(member.name)
        if not name:  # the root itself, which exists where the archive is unpacked
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
    """Return those extended headers that belong to the file, such as its capabilities."""
    return {name: value for name, value in headers.items() if name.startswith("SCHILY.")}


def link_wsl(packed: Path) -> Path:
    """Link <name>.tar.gz to <name>.wsl, which Windows installs on a double click. Return it."""
    wsl = packed.with_name(f"{packed.name.removesuffix('.tar.gz')}.wsl")
    wsl.unlink(missing_ok=True)
    wsl.hardlink_to(packed)
    return wsl
