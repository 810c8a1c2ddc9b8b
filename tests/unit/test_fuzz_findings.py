"""The smallest input of each traceback that tests/fuzz has found, by the parser that it was in."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import pytest

from scripts.arch import X86_64
from scripts.build.manifest import Manifest
from scripts.catalog import DISTRIBUTIONS, ROOT, Catalog, CatalogError
from scripts.description import inventory, sbom
from scripts.description.inventory import Installed, System
from scripts.emulation import emulators
from scripts.emulation.emulators import TABLE, EmulationTable
from scripts.emulation.entries import Entry, registered
from scripts.formats import disk, oci_layout
from scripts.formats.disk import DiskError, Partition
from scripts.mkosi.pin import Pin
from scripts.options import DEBIAN
from scripts.packages import engine, recipes, thirdparty
from scripts.pins import edits
from scripts.pins.lookups import Lookups
from scripts.publish import announcement
from scripts.stages import places, records
from scripts.stages.artifacts import Artifact
from scripts.stages.records import Package, Record
from scripts.system.errors import HarnessError, MachineError, UsageError
from scripts.system.fetch import Settings
from scripts.system.progress import Progress
from scripts.system.url import Url
from tests import builds
from tests.unit.server import Server

DEEP_TOML = "a=" + "[" * 1200


def put(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("data", ["{", '{"packages": [1]}', "null", b"\x80", '{"packages": 1}'])
def test_a_damaged_manifest_of_mkosi_is_named(tmp_path: Path, data: str | bytes) -> None:
    with pytest.raises(HarnessError, match="is not a manifest of mkosi"):
        records.packages_of(put(tmp_path / "base.manifest", data), {})


@pytest.mark.parametrize("name", ["", "a\nb", "a b", "\x1b[2J", "\udc9b", "ä", "a" * 501])
def test_a_package_called_with_a_line_break_or_worse_is_refused(tmp_path: Path, name: str) -> None:
    listed = {"packages": [{"name": name, "version": "1", "architecture": "amd64"}]}
    with pytest.raises(HarnessError, match="is not the name, version or architecture"):
        records.packages_of(put(tmp_path / "base.manifest", json.dumps(listed)), {})
    with pytest.raises(ValueError, match="is not the name"):
        Installed("deb", name, "1", "amd64", "")


@pytest.mark.parametrize("architecture", [False, 0, None, [], {}])
def test_a_package_with_an_architecture_that_is_no_text_is_refused(
    tmp_path: Path, architecture: object
) -> None:
    listed = {"packages": [{"name": "bash", "version": "1", "architecture": architecture}]}
    with pytest.raises(HarnessError, match="is not a manifest of mkosi"):
        records.packages_of(put(tmp_path / "base.manifest", json.dumps(listed)), {})


def test_a_record_with_a_package_that_has_no_name_counts_as_none(tmp_path: Path) -> None:
    Record("k", (), 1, (), (Package("bash", "5", "amd64"),)).write(tmp_path)
    text = (tmp_path / records.NAME).read_text()
    assert Record.read(tmp_path)
    put(tmp_path / records.NAME, text.replace('"bash"', "null"))
    assert Record.read(tmp_path) is None


def test_a_record_with_an_artifact_that_has_no_name_counts_as_none(tmp_path: Path) -> None:
    Record("k", (), 1, (Artifact("os-image.raw", 1, 2, "ff"),), ()).write(tmp_path)
    text = (tmp_path / records.NAME).read_text()
    assert Record.read(tmp_path)
    put(tmp_path / records.NAME, text.replace('"os-image.raw"', "null"))
    assert Record.read(tmp_path) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("distribution", None),
        ("release", 1),
        ("pins", {"a": 1}),
        ("images", {"base": {"stage_key": 1, "inputs": {}, "seconds": 1, "packages": []}}),
        ("images", {"base": {"stage_key": "", "inputs": {}, "seconds": True, "packages": []}}),
        ("artifacts", [{"name": "a", "size": -1, "sha512": ""}]),
        ("options", {"without_packages": "yes"}),
        ("options", {"mirror": "\udc9b"}),
        ("mkosi", {"patches": []}),
    ],
)
def test_a_manifest_with_a_value_of_another_type_is_damaged(
    tmp_path: Path, key: str, value: object
) -> None:
    builds.write_manifest(tmp_path, {"base": {"bash": "5.2"}})
    data = json.loads((tmp_path / "manifest.json").read_text())
    put(tmp_path / "manifest.json", json.dumps({**data, key: value}))
    with pytest.raises(HarnessError, match="is not the manifest of a build"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("data", [b"[" * 5000, b"NaN", b'{"artifacts": [{"url": 1}]}', b"\xff"])
def test_a_published_manifest_that_is_odd_names_no_run(data: bytes) -> None:
    assert announcement.newest_run(data) == 0


def write_gpt(path: Path, *, start: int = 2, count: int = 1, size: int = 128) -> Path:
    header = b"EFI PART" + bytes(64) + struct.pack("<QII", start, count, size)
    return put(path, bytes(512) + header.ljust(512, b"\0") + b"\1" * 128 + bytes(896))


@pytest.mark.parametrize(
    "fields",
    [
        {"start": 2**63},
        {"start": 2**64 - 1},
        {"count": 2**32 - 1, "size": 2**32 - 1},
        {"count": 2**20},
        {"size": 8},
        {"start": 100},
    ],
)
def test_a_gpt_with_absurd_numbers_is_refused(tmp_path: Path, fields: dict[str, int]) -> None:
    with pytest.raises(DiskError):
        disk.partitions(write_gpt(tmp_path / "disk", **fields))


def test_a_gpt_that_ends_early_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="no GPT"):
        disk.partitions(put(tmp_path / "disk", bytes(512) + b"EFI PART"))


def test_a_partition_outside_its_disk_holds_nothing(tmp_path: Path) -> None:
    path = write_gpt(tmp_path / "disk")
    with pytest.raises(DiskError):
        disk.partitions(path)  # its first sector is 0x0101…
    for offset, size in ((2**70, 512), (0, -512), (512, 600)):
        assert disk.file_system(path, Partition(1, "t", "u", "l", offset, size)).name != "ext4"


@pytest.mark.parametrize(
    "index",
    [
        "null",
        "[]",
        '{"manifests": []}',
        '{"manifests": [1]}',
        '{"manifests": [{"digest": "sha256:../../../etc/passwd"}]}',
        '{"manifests": [{"digest": 1}]}',
        "[" * 5000,
    ],
)
def test_a_layout_with_an_odd_index_is_refused(tmp_path: Path, index: str) -> None:
    put(tmp_path / "layout/index.json", index)
    with pytest.raises(HarnessError):
        oci_layout.pack_oci(tmp_path / "layout")
    assert not (tmp_path / "layout.tar").exists()


def test_an_os_release_that_is_no_utf_8_is_read(tmp_path: Path) -> None:
    put(
        tmp_path / "usr/lib/os-release", b'ID=\nVERSION_ID="' + b"9" * 5000 + b'"\nPRETTY_NAME=\x80'
    )
    found = inventory.system(tmp_path)
    assert (found.id, len(found.version), found.name) == ("linux", 200, "�")


@pytest.mark.parametrize(
    "data", ["Status: a installed\n", b"\x80", "Package: a\nStatus: installed\nVersion: 1 2\n"]
)
def test_a_damaged_database_of_packages_is_named(tmp_path: Path, data: str | bytes) -> None:
    put(tmp_path / "var/lib/dpkg/status", data)
    with pytest.raises(HarnessError):
        inventory.of_tree(tmp_path, tools=None)  # type: ignore[arg-type]


def test_a_package_with_an_empty_licence_has_none() -> None:
    package = Installed("deb", "a", "1", "amd64", "a", ("", " ", "MIT"))
    artifact = Artifact("os-image.raw", 1, 1, "0" * 128)
    image = sbom.Image("os-image", "x86_64", System("debian", "13", ""), [artifact], [package])
    assert '"MIT"' in sbom.to_json(image)


def test_odd_toml_is_a_wrong_configuration(tmp_path: Path) -> None:
    path = put(tmp_path / "odd.toml", DEEP_TOML)
    for read in (recipes.read, thirdparty.read_pins, Pin.read, EmulationTable.read):
        with pytest.raises(UsageError):
            read(path)
    with pytest.raises(HarnessError):
        edits.value(path, "a.b")
    with pytest.raises(CatalogError):
        Catalog.parse(DEEP_TOML)


@pytest.mark.parametrize("suites", ["1", "[1]", "{}"])
def test_a_table_of_emulators_with_values_of_other_types_is_refused(
    tmp_path: Path, suites: str
) -> None:
    text = f"flags = 1\n[debian]\npackage = 1\nsuites = {suites}\n[targets.a]\nmagic = 1\n"
    with pytest.raises(UsageError, match="not a table of emulators"):
        EmulationTable.read(put(tmp_path / "t.toml", text))


@pytest.mark.parametrize("data", ["", "null", "{}", b"\x80", '{"package": "a", "digests": 1}'])
def test_a_damaged_record_of_emulators_says_what_to_remove(
    tmp_path: Path, data: str | bytes
) -> None:
    table = EmulationTable.read(ROOT / TABLE)
    put(emulators.folder_of(tmp_path, table, X86_64, DEBIAN) / emulators.RECORD, data)
    with pytest.raises(HarnessError, match="is damaged") as caught:
        emulators.download(ROOT, tmp_path, X86_64, Progress(live=False), offline=True)
    assert caught.value.hint.startswith("rm -r ")


@pytest.mark.parametrize(
    "text", ["enabled\nmagic zz\n", "enabled\nmagic 7f\n", "magic 7f\nmask z\n"]
)
def test_an_entry_that_the_kernel_does_not_write_is_left_out(tmp_path: Path, text: str) -> None:
    assert Entry.parse("a", text) is None
    put(tmp_path / "a", text.encode() + b"\x80")
    assert registered(tmp_path) == []


def test_a_configuration_of_mkosi_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    distribution = DISTRIBUTIONS["debian"]
    put(tmp_path / distribution.conf, b"[Distribution]\nRelease=\x80\n")
    with pytest.raises(UsageError, match="is not a mkosi configuration"):
        places.release_of(tmp_path, distribution)


@pytest.mark.parametrize("path", ["/version", "/v1.44/version", "/v1.44/info"])
@pytest.mark.parametrize("body", [b"null", b"[]", b'{"Components": [1], "DriverStatus": [1]}'])
def test_an_engine_that_answers_oddly_does_not_answer(
    server: Server, path: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    good = b'{"ApiVersion": "1.44", "Version": "25.0"}'
    server.files = {"/version": good, "/v1.44/version": good, "/v1.44/info": b"{}", path: body}
    with pytest.raises(MachineError):
        engine.find({"DOCKER_HOST": server.url.replace("http", "tcp")})


def test_metadata_that_is_packed_wrongly_cannot_be_read(server: Server, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"<metadata/>", mtime=0))
    packed[10] = 0x01  # a stored block whose length contradicts itself
    namespace = "http://linux.duke.edu/metadata/repo"
    server.files = {
        "/repodata/repomd.xml": f'<repomd xmlns="{namespace}"><data type="primary">'
        '<location href="p.gz"/></data></repomd>'.encode(),
        "/p.gz": bytes(packed),
    }
    look = Lookups(tmp_path, Settings(attempts=1))
    with pytest.raises(HarnessError, match=r"the metadata of .* cannot be read"):
        look._rpms(Url(server.url), sent=False)
