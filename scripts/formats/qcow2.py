"""Disk images in QEMU's qcow2 format.

The layout of the header is from QEMU's docs/interop/qcow2.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from scripts.mkosi.sandbox import Tools
from scripts.system.digests import file_digest
from scripts.system.process import Arg, run

MAGIC = b"QFI\xfb"

# The header up to the incompatible features: magic, version, offset and size of the backing file's
# name, cluster bits, size of the disk, encryption, five fields about tables, snapshots and their
# offset, features.
HEADER = struct.Struct(">4sIQIIQIIQQIIQQ")

# The one incompatible feature that our images need: clusters compressed with zstd. Others include
# an external file with the data.
COMPRESSION_TYPE = 1 << 3


class Qcow2Error(Exception):
    """A file is not a qcow2 image that holds one whole disk; the text says why."""


def to_qcow2(raw: Path, tools: Tools) -> Path:
    """Convert raw to a compressed qcow2 file beside it, check that, and return it.

    Compressing with zstd is six times as fast as with zlib, and gives smaller files. QEMU reads
    them since version 5.1, and so does Lima's own reader, which converts the image on macOS.
    """
    qcow2 = raw.with_suffix(".qcow2")
    convert: list[Arg] = [
        "qemu-img", "convert",
        "-c", "-O", "qcow2", "-o", "compression_type=zstd",
        "-m", "4", "-W",
        raw, qcow2,
    ]  # fmt: skip
    run(tools.command(convert, write=[raw.parent]))
    run(tools.command(["qemu-img", "check", "--quiet", qcow2], read=[qcow2]))
    return qcow2


def disk_size(qcow2: Path) -> int:
    """Return the size in bytes of the disk in qcow2, which needs no other file.

    Raises Qcow2Error if it is damaged, or does not hold exactly one disk: if it has a backing file
    or snapshots, is encrypted, or keeps its data in another file. Its readers might then see
    different disks.
    """
    with qcow2.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise Qcow2Error("it is not a qcow2 image")
    _, version, backing, _, _, size, encrypted, *_, snapshots, _, features = HEADER.unpack(head)
    complaints = {
        f"it has version {version}, not 3": version != 3,
        "it has a backing file": backing,
        "it is encrypted": encrypted,
        "it has snapshots": snapshots,
        "it is incomplete, or keeps its data in another file": features & ~COMPRESSION_TYPE,
    }
    for complaint, is_wrong in complaints.items():
        if is_wrong:
            raise Qcow2Error(complaint)
    return int(size)


def disk_digest(qcow2: Path, size: int, qemu_img: Sequence[Arg], folder: Path) -> str:
    """Return the sha512 of the disk in qcow2, as a raw disk image of size bytes would have it.

    qemu_img is the command that starts qemu-img, and folder has room for the raw image, which is
    removed again. Unlike `qemu-img compare` this also tells disks of different sizes apart, and it
    needs no original. Raises Qcow2Error as `disk_size` does, or for another size; CommandError if
    qemu-img cannot read the image.
    """
    if (found := disk_size(qcow2)) != size:
        raise Qcow2Error(f"its disk has {found} bytes, not {size}")
    raw = folder / f"{qcow2.name}.raw"
    try:
        run([*qemu_img, "convert", "-f", "qcow2", "-O", "raw", qcow2, raw])
        return file_digest(raw, "sha512")
    finally:
        raw.unlink(missing_ok=True)
