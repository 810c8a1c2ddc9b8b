"""How a disk image becomes a qcow2 file, with a qemu-img that writes down how it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from scripts.formats import qcow2
from scripts.mkosi.sandbox import Tools
from scripts.system.process import Arg, CommandError

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
