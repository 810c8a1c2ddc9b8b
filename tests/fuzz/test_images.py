"""What the harness reads of images, in formats that others have defined."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from xml.etree import ElementTree as ET

from hypothesis import strategies as st

from scripts.arch import ARCHES
from scripts.emulation import elf
from scripts.formats import disk, oci_layout, svg, uki
from scripts.formats.disk import DiskError, Partition
from scripts.formats.svg import SvgError
from scripts.formats.uki import UkiError
from tests import builds
from tests.fuzz.conftest import Attack
from tests.fuzz.hostile import TEXT, json_like, mutated, put, text_like
from tests.fuzz.test_builds import tar_of
from tests.unit.formats.test_disk import ESP, ROOT, superblock, write_disk

PLOT = """\
<?xml version="1.0" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg width="800px" height="640px" version="1.1" xmlns="http://www.w3.org/2000/svg">
<defs><style type="text/css"><![CDATA[
rect.box { fill: rgb(255,255,255); stroke-width: 1; }
]]></style></defs>
<g transform="translate(20.000,100)"> <rect class="box" x="0" y="0" width="10.5" height="2" />
<text class="left" x="20" y="50">sshd.service (1.2s)</text> </g>
</svg>
"""


def assert_acts_on_nothing(text: str) -> None:
    for element in ET.fromstring(text.encode()).iter():
        assert element.tag.removeprefix(f"{{{svg.NAMESPACE}}}") in svg.ELEMENTS
        assert {*element.keys()} <= svg.ATTRIBUTES
        if element.tag.endswith("style"):
            assert not {"url", "@", "\\"} & {*(element.text or "").split("(")}


def test_a_partition_table_is_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    path = write_disk(tmp_path / "disk", ESP, ROOT)
    with path.open("rb") as file:
        sample = file.read(2048)
    fields = st.tuples(*[st.integers(0, 2**64 - 1)] * 1, *[st.integers(0, 2**32 - 1)] * 2).map(
        lambda numbers: sample[:584] + struct.pack("<QII", *numbers) + sample[600:]
    )

    def read(data: bytes) -> None:
        for partition in disk.partitions(put(tmp_path / "disk", data)):
            disk.file_system(tmp_path / "disk", partition)

    attack(st.one_of(mutated(sample), fields), read, (DiskError,))


def test_a_file_system_is_recognised_or_unknown(attack: Attack, tmp_path: Path) -> None:
    whole = Partition(1, "t", "u", "l", 0, 1 << 20)
    samples = (bytes(1024) + superblock(), b"XFSB", b"hsqs", bytes(82) + b"FAT32")
    attack(mutated(*samples), lambda data: disk.file_system(put(tmp_path / "disk", data), whole))


def test_a_uki_is_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    builds.write_uki(tmp_path / "uki.efi", {".cmdline": b"rw", ".uname": b"6.12", ".sbat": b"s"})
    sample = (tmp_path / "uki.efi").read_bytes()

    def read(data: bytes) -> None:
        path = put(tmp_path / "uki.efi", data)
        uki.sections(path)
        uki.read(path)

    attack(mutated(sample), read, (UkiError,), share=0.3)


def test_an_oci_layout_is_packed_or_refused(attack: Attack, tmp_path: Path) -> None:
    layout = tmp_path / "container"
    builds.write_layout(layout, tar_of("a"))
    sample = json.loads((layout / "index.json").read_text())
    blob = layout / "blobs" / sample["manifests"][0]["digest"].replace(":", "/")
    manifest = blob.read_bytes()
    whole = json.dumps(sample).encode()
    cases = st.one_of(
        json_like(sample).map(lambda data: (data, manifest)),
        json_like(json.loads(manifest)).map(lambda data: (whole, data)),
    )

    def pack(case: tuple[bytes, bytes]) -> None:
        put(layout / "index.json", case[0])
        put(blob, case[1])
        oci_layout.pack_oci(layout)

    attack(cases, pack)


def test_a_chart_is_drawn_again_or_refused(attack: Attack) -> None:
    def clean(data: bytes) -> None:
        assert_acts_on_nothing(svg.clean(data.decode(errors="replace")))

    attack(text_like(PLOT), clean, (SvgError,))


def test_a_tiny_program_says_anything(attack: Attack) -> None:
    words = st.tuples(st.sampled_from(ARCHES), st.text(max_size=50))
    attack(words, lambda case: elf.says(*case).index(case[1].encode()), share=3)


def test_a_name_in_a_chart_is_only_text(attack: Attack) -> None:
    def clean(text: str) -> None:
        assert_acts_on_nothing(svg.clean(PLOT.replace("sshd.service", text)))

    attack(TEXT, clean, (SvgError,), share=2)
