"""Makes what somebody who can write to a cache of packages would put there."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

# The header of a member of an ar archive, and the name of one that dpkg skips (deb(5)).
MEMBER = "{name:<16}{time:<12}{uid:<6}{gid:<6}{mode:<8}{size:<10}`\n"
SKIPPED = "_padding"


def forge(deb: Path, postinst: str) -> None:
    """Replace deb by one of the same name, version and size whose postinst is the given script."""
    size = deb.stat().st_size
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
        for bulky in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/lib"):
            shutil.rmtree(tree / bulky, ignore_errors=True)
        script = tree / "DEBIAN/postinst"
        script.write_text(postinst)
        script.chmod(0o755)
        made = Path(scratch) / "made.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", tree, made],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        deb.write_bytes(_padded(made.read_bytes(), size))


def _padded(archive: bytes, size: int) -> bytes:
    """Return archive with a member that dpkg skips, so that it has size bytes."""
    archive += b"\n" * (len(archive) % 2)
    room = size - len(archive) - 60
    assert room >= 0, "there is no room for padding"
    header = MEMBER.format(name=SKIPPED, time=0, uid=0, gid=0, mode=100644, size=room)
    return archive + header.encode() + b"\n" * room
