"""Draws the icon of the distribution, a finch.

Writes mkosi.extra/usr/lib/wsl/finch.ico when run as a program:

    python3 mkosi.images/wsl-rootfs/icon.py
"""  # noqa: INP001 - a program, not a package

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

TARGET = Path(__file__).with_name("mkosi.extra") / "usr/lib/wsl/finch.ico"

# The sizes in pixels that Windows shows without scaling at its usual resolutions.
SIZES = (16, 24, 32, 48, 64, 256)

# Samples in each direction of a pixel, for smooth edges.
SAMPLES = 3

Shape = Callable[[float, float], bool]


def ellipse(x: float, y: float, wide: float, high: float, degrees: float = 0) -> Shape:
    """Return an ellipse around a point of the unit square, with its half axes, turned left."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def contains(a: float, b: float) -> bool:
        a, b = a - x, b - y
        return ((a * cos - b * sin) / wide) ** 2 + ((a * sin + b * cos) / high) ** 2 <= 1

    return contains


def polygon(*corners: tuple[float, float]) -> Shape:
    """Return a convex polygon, whose corners are given clockwise on the screen."""
    edges = list(zip(corners, (*corners[1:], corners[0]), strict=True))

    def contains(a: float, b: float) -> bool:
        return all((q[0] - p[0]) * (b - p[1]) >= (q[1] - p[1]) * (a - p[0]) for p, q in edges)

    return contains


# From the back to the front, in the unit square whose origin is at the top left.
DRAWING: tuple[tuple[Shape, tuple[int, int, int]], ...] = (
    (ellipse(0.5, 0.5, 0.5, 0.5), (0x1F, 0x6F, 0x78)),
    (polygon((0.32, 0.62), (0.36, 0.74), (0.12, 0.86), (0.08, 0.78)), (0x3A, 0x2E, 0x39)),
    (ellipse(0.48, 0.59, 0.27, 0.18, 28), (0xF2, 0xB8, 0x3B)),
    (ellipse(0.65, 0.4, 0.15, 0.15), (0xF2, 0xB8, 0x3B)),
    (polygon((0.78, 0.34), (0.93, 0.42), (0.77, 0.47)), (0xE8, 0x6A, 0x33)),
    (ellipse(0.4, 0.6, 0.19, 0.09, 28), (0x3A, 0x2E, 0x39)),
    (ellipse(0.7, 0.37, 0.028, 0.028), (0x3A, 0x2E, 0x39)),
)


def pixels(size: int) -> bytes:
    """Return the drawing as rows of red, green, blue and opacity, one byte each."""
    found = bytearray()
    offsets = [(sample + 0.5) / SAMPLES for sample in range(SAMPLES)]
    for row in range(size):
        for column in range(size):
            samples = [
                colour
                for b in offsets
                for a in offsets
                if (colour := _colour((column + a) / size, (row + b) / size))
            ]
            count = max(len(samples), 1)
            found += bytes(sum(channel) // count for channel in zip(*samples, strict=True))
            found += bytes(3 * (not samples)) + bytes([len(samples) * 255 // SAMPLES**2])
    return bytes(found)


def _colour(a: float, b: float) -> tuple[int, int, int] | None:
    return next((colour for shape, colour in reversed(DRAWING) if shape(a, b)), None)


def png(size: int) -> bytes:
    """Return the drawing as a PNG (ISO/IEC 15948)."""
    rows, raw = pixels(size), bytearray()
    for start in range(0, len(rows), 4 * size):
        raw += b"\0" + rows[start : start + 4 * size]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(raw), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def ico() -> bytes:
    """Return the icon: a directory and its images, which may be PNGs since Windows Vista."""
    images = [png(size) for size in SIZES]
    offset = 6 + 16 * len(images)
    entries = b""
    for size, image in zip(SIZES, images, strict=True):
        # A byte holds each side, where 0 means 256.
        entries += struct.pack("<BBBBHHII", size % 256, size % 256, 0, 0, 1, 32, len(image), offset)
        offset += len(image)
    return struct.pack("<HHH", 0, 1, len(images)) + entries + b"".join(images)


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(ico())
