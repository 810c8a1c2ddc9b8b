"""How a disk image becomes a qcow2 file, with a qemu-img that writes down how it is called."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from scripts.formats import qcow2
from scripts.formats.qcow2 import Qcow2Error
from scripts.mkosi.sandbox import Tools
from scripts.system.process import Arg, CommandError

MIB = 1 << 20

# Writes its output when it converts, and fails where its first argument is told to.
PROGRAM = """\
import pathlib, sys
fails, program, action, *rest = sys.argv[1:]
with pathlib.Path(__file__).with_name("calls").open("a") as calls:
    print(program, action, *rest, file=calls)
if action == fails:
    sys.exit(f"{action} failed")
if action == "convert":
    pathlib.Path(rest[-1]).write_text("converted")
"""


@dataclass(frozen=True)
class Recorder(Tools):
    """A tools tree whose qemu-img is the program above; fails at one action, if any."""

    fails: str = ""

    def command(
        self,
        argv: Sequence[Arg],
        *,
        read: Sequence[Path] = (),
        write: Sequence[Path] = (),
        network: bool = False,
    ) -> list[str]:
        assert not network
        with (self.tree / "shared").open("a") as shared:
            print("read", *read, "write", *write, file=shared)
        program = str(self.tree / "program.py")
        return [sys.executable, "-I", program, self.fails, *(os.fspath(arg) for arg in argv)]


@pytest.fixture
def tools(tmp_path: Path) -> Recorder:
    (tmp_path / "program.py").write_text(PROGRAM)
    return Recorder(tmp_path, Path("/nowhere"))


def test_a_disk_image_is_compressed_with_zstd_and_then_checked(
    tools: Recorder, tmp_path: Path
) -> None:
    raw, made = tmp_path / "os-image.raw", tmp_path / "os-image.qcow2"

    assert qcow2.to_qcow2(raw, tools) == made
    assert made.read_text() == "converted"
    convert, check = (tmp_path / "calls").read_text().splitlines()
    assert convert.startswith("qemu-img convert -c -O qcow2 -o compression_type=zstd ")
    assert convert.endswith(f" {raw} {made}")
    assert check == f"qemu-img check --quiet {made}"


def test_qemu_img_may_write_beside_the_disk_image_only_to_convert_it(
    tools: Recorder, tmp_path: Path
) -> None:
    qcow2.to_qcow2(tmp_path / "os-image.raw", tools)

    assert (tmp_path / "shared").read_text().splitlines() == [
        f"read write {tmp_path}",
        f"read {tmp_path}/os-image.qcow2 write",
    ]


@pytest.mark.parametrize("action", ["convert", "check"])
def test_a_disk_image_that_cannot_be_converted_or_is_damaged_afterwards_is_an_error(
    tools: Recorder, tmp_path: Path, action: str
) -> None:
    with pytest.raises(CommandError) as caught:
        qcow2.to_qcow2(tmp_path / "os-image.raw", replace(tools, fails=action))

    assert caught.value.output.strip() == f"{action} failed"


def header(**fields: int) -> bytes:
    """The header of a version 3 image with a disk of 1 MiB and the features of ours."""
    known = {"version": 3, "backing": 0, "size": MIB, "encrypted": 0, "snapshots": 0}
    given = {**known, "features": 1 << 3, **fields}
    return struct.pack(
        ">4sIQIIQIIQQIIQQ", b"QFI\xfb", given["version"], given["backing"], 0, 16, given["size"],
        given["encrypted"], 1, 1 << 16, 1 << 17, 1, given["snapshots"], 0, given["features"],
    ) + bytes(32)  # fmt: skip


def test_the_size_of_the_disk_is_in_the_header(tmp_path: Path) -> None:
    path = tmp_path / "os-image.qcow2"
    path.write_bytes(header())
    assert qcow2.disk_size(path) == MIB


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "it is not a qcow2 image"),
        (header()[:79], "it is not a qcow2 image"),
        (b"x" + header()[1:], "it is not a qcow2 image"),
        (header(version=2), "it has version 2, not 3"),
        (header(backing=104), "it has a backing file"),
        (header(encrypted=2), "it is encrypted"),
        (header(snapshots=1), "it has snapshots"),
        (header(features=1), "it is incomplete, or keeps its data in another file"),
        (header(features=1 << 2 | 1 << 3), "it is incomplete, or keeps its data in another file"),
        (header(features=1 << 63), "it is incomplete, or keeps its data in another file"),
    ],
)
def test_an_image_that_needs_more_than_itself_is_no_disk(
    tmp_path: Path, data: bytes, complaint: str
) -> None:
    path = tmp_path / "os-image.qcow2"
    path.write_bytes(data)
    with pytest.raises(Qcow2Error, match=complaint):
        qcow2.disk_size(path)


def test_a_disk_of_another_size_is_not_even_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "os-image.qcow2"
    path.write_bytes(header(size=1 << 60))
    with pytest.raises(Qcow2Error, match=f"its disk has {1 << 60} bytes, not {MIB}"):
        qcow2.disk_digest(path, MIB, ["/no/qemu-img"], tmp_path)
