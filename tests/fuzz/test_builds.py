"""What the harness reads of builds: its own files, which a cache or a bucket may have altered."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from scripts.arch import X86_64
from scripts.build.manifest import Contents, Manifest
from scripts.description import comparison, inventory, report, sbom
from scripts.description.inventory import Installed, System
from scripts.emulation.emulators import RECORD as EMULATORS_RECORD
from scripts.publish import announcement, booted, release
from scripts.publish.release import Build
from scripts.stages import artifacts, inputs, records
from scripts.stages.artifacts import Artifact
from scripts.stages.records import WORD, Package, Record
from scripts.system import strict
from scripts.system.text import json_text
from tests import builds
from tests.fuzz.conftest import Attack, assert_shown_safely
from tests.fuzz.hostile import JSON, TEXT, altered, json_like, mutated, odd_json, put, text_like

RECORD = json.loads(
    json.dumps(
        {
            "key": "k",
            "inputs": {"package sources": "x", "RPM a.rpm": "0" * 64, "mkosi.conf": "1" * 64},
            "seconds": 1.5,
            "artifacts": [{"name": "os-image.raw", "size": 3, "mtime_ns": 4, "sha512": "2" * 128}],
            "packages": [{"name": "bash", "version": "5.2", "architecture": "amd64"}],
            "digest": "3" * 64,
            "built_from": {"base": "4" * 64},
        }
    )
)
OF_MKOSI = {
    "manifest_version": 1,
    "config": {"name": "base"},
    "packages": [{"type": "deb", "name": "bash", "version": "5.2", "architecture": "amd64"}],
}
RESULT: dict[str, Any] = {
    "passed": False,
    "reason": "sshd is disabled",
    "checks": [{"name": "sshd", "title": "t", "status": "failed", "evidence": "e", "reason": "r"}],
    "accelerator": "tcg",
    "accelerator_reason": "none",
    "qemu": "10.0",
    "seconds": 61.2,
    "note": "",
    "disk": "0",
    "console_tail": "login:",
    "guest": {"os": "Debian", "kernel": "6.12"},
    "timings": {"first: firmware": 2.0, "second: sshd": 20.0},
}
OS_RELEASE = 'NAME="Amazon Linux"\nID="amzn"\nVERSION_ID="2023"\nPRETTY_NAME="Amazon Linux 2023"\n'
STATUS = """\
Package: bash
Status: install ok installed
Installed-Size: 7000
Architecture: amd64
Source: bash (5.2-1)
Version: 5.2-1
Homepage: https://example.invalid/bash
Description: shell
 in several
 lines
"""
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2024 somebody
License: GPL-3+ and MIT

License: GPL-3+
 text
"""


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A whole build, which has one artifact of each kind."""
    out = tmp_path / "out"
    out.mkdir()
    builds.write_disk(out / "os-image.raw", {"esp": 1, "root": 1})
    builds.write_uki(out / "os-image.efi", {".cmdline": b"rw", ".uname": b"6.12", ".linux": b"k"})
    builds.write_rootfs(out, {"etc/hostname": "finch"})
    builds.write_layout(out / "container-with-kernel", tar_of("etc/hostname"))
    builds.write_manifest(
        out, {"base": {"bash": "5.2-1"}, "os-image": {"linux": "6.12"}}, "os-image.raw"
    )
    builds.write_provenance(out)
    system = System("debian", "13", "Debian")
    package = Installed("deb", "bash", "5.2", "amd64", "bash", ("GPL-3.0-or-later",), size=7000)
    image = sbom.Image("os-image", "x86_64", system, [Artifact.of(out, "os-image.raw")], [package])
    put(out / artifacts.SBOM, sbom.to_json(image).encode())
    put(out / artifacts.BOOT_TEST, json.dumps(RESULT).encode())
    return out


def tar_of(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            member.pax_headers = {"SCHILY.xattr.user.a": "b"}
            tar.addfile(member, io.BytesIO(b"abc"))
            link = tarfile.TarInfo(f"{name}.link")
            link.type, link.linkname = tarfile.LNKTYPE, name
            tar.addfile(link)
    return file.getvalue()


def test_json_is_read_or_refused(attack: Attack) -> None:
    attack(st.one_of(json_like(RECORD), odd_json()), strict.loads, (ValueError,), share=3)


def test_a_manifest_is_read_or_refused(attack: Attack, build: Path, tmp_path: Path) -> None:
    sample = json.loads((build / "manifest.json").read_text())

    def read(data: bytes) -> None:
        manifest = Manifest.read(put(tmp_path / "manifest.json", data))
        Contents.of(manifest)
        text = json_text(manifest.to_json())
        assert Manifest.read(put(tmp_path / "manifest.json", text.encode())) == manifest

    attack(json_like(sample), read)


def test_a_record_of_a_stage_is_read_or_counts_as_none(attack: Attack, tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        put(tmp_path / records.NAME, data)
        record = Record.read(tmp_path)
        if record:
            [one.stands_in(tmp_path) for one in record.artifacts]
            inputs.difference(record.inputs, ())
            record.write(tmp_path)

    attack(json_like(RECORD), read)


def test_mkosis_manifest_is_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        for package in records.packages_of(put(tmp_path / "image.manifest", data), {}):
            assert all(isinstance(text, str) for text in vars(package).values())

    attack(json_like(OF_MKOSI), read, share=2)


@pytest.mark.parametrize("name", [artifacts.SBOM, artifacts.PROVENANCE, artifacts.BOOT_TEST])
def test_a_report_is_made_of_any_description(attack: Attack, build: Path, name: str) -> None:
    sample = json.loads((build / name).read_text())

    def write(data: bytes) -> None:
        put(build / name, data)
        report.write(build)
        assert_shown_safely((build / artifacts.REPORT).read_text())

    attack(json_like(sample), write)


@pytest.mark.parametrize("name", [artifacts.PROVENANCE, artifacts.BOOT_TEST])
def test_a_damaged_description_is_not_published(attack: Attack, build: Path, name: str) -> None:
    sample = json.loads((build / name).read_text())
    loaded = Build.load(build)

    def check(data: bytes) -> None:
        put(build / name, data)
        if name == artifacts.PROVENANCE:
            release.check_described(loaded, release.uploads(loaded, "17"))
        else:
            booted.check(loaded)

    attack(json_like(sample), check)


def test_a_published_manifest_names_a_run_or_none(attack: Attack) -> None:
    sample = {
        "artifacts": [{"url": "https://x/finch-debian-13-x86_64-17.wsl", "sha512": "0"}],
        "container_images": [{"image": "x/y:x86_64-with-kernel-17", "digest": "sha256:0"}],
    }
    attack(json_like(sample), lambda data: announcement.newest_run(data) >= 0, share=3)


def test_the_files_of_a_build_are_compared_or_refused(attack: Attack, build: Path) -> None:
    names = ["os-image.raw", "os-image.efi", "wsl-rootfs.tar.gz"]
    names += [p.relative_to(build).as_posix() for p in (build / "container-with-kernel").rglob("*")]
    whole = {name: (build / name).read_bytes() for name in names if (build / name).is_file()}
    # The interesting bytes of a disk are at its start.
    whole["os-image.raw"] = whole["os-image.raw"][:4096]
    cases = [st.tuples(st.just(name), mutated(data)) for name, data in whole.items()]

    def compare(case: tuple[str, bytes]) -> None:
        name, data = case
        put(build / name, data)
        try:
            found = comparison.difference(build, build)
            for write in comparison.FORMATS.values():
                assert_shown_safely(write(found))
        finally:
            put(build / name, whole[name])

    attack(st.one_of(*cases), compare, share=0.1)


def test_a_tarball_is_compared_or_refused(attack: Attack, build: Path) -> None:
    def compare(data: bytes) -> None:
        put(build / "wsl-rootfs.tar.gz", data)
        assert_shown_safely(comparison.to_markdown(comparison.difference(build, build)))

    attack(mutated(tar_of("a", "b/c")), compare, share=0.2)


def test_no_difference_escapes_from_its_format(attack: Attack) -> None:
    changes = st.builds(comparison.Change, st.sampled_from(comparison.Kind), TEXT, TEXT, TEXT)
    found = st.builds(
        comparison.Difference, TEXT, TEXT,
        st.fixed_dictionaries({"files": st.lists(changes, max_size=4)}), st.just(["sizes"]),
    )  # fmt: skip

    def write(one: comparison.Difference) -> None:
        texts = {name: to(one) for name, to in comparison.FORMATS.items()}
        for text in texts.values():
            assert_shown_safely(text)
        assert json.loads(texts["json"])["a"] == one.a
        rows = [line for line in texts["markdown"].splitlines() if line.startswith("|")]
        assert len(rows) == (len(one.changes["files"]) + 2 if one.changes["files"] else 0)
        assert all(row.count("|") == 5 for row in rows)
        assert all(row.count("`") % 2 == 0 for row in rows)

    attack(found, write)


def test_an_os_release_is_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        put(tmp_path / "usr/lib/os-release", data)
        inventory.system(tmp_path)

    attack(text_like(OS_RELEASE), read, share=3)


def test_a_database_of_packages_is_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    put(tmp_path / "usr/share/doc/bash/copyright", COPYRIGHT.encode())

    def read(data: bytes) -> None:
        put(tmp_path / "var/lib/dpkg/status", data)
        inventory.of_tree(tmp_path, tools=None)  # type: ignore[arg-type]

    attack(text_like(STATUS), read)


def test_a_file_of_licences_is_read_or_left_out(attack: Attack, tmp_path: Path) -> None:
    put(tmp_path / "var/lib/dpkg/status", STATUS.encode())

    def read(data: bytes) -> None:
        put(tmp_path / "usr/share/doc/bash/copyright", data)
        inventory.of_tree(tmp_path, tools=None)  # type: ignore[arg-type]

    attack(text_like(COPYRIGHT), read)


def test_a_bill_of_materials_holds_any_package(attack: Attack) -> None:
    word = TEXT.map(lambda text: "".join(filter(WORD.fullmatch, text))[:500] or "a")
    # Databases are decoded with replacements for what is no UTF-8.
    text = TEXT.map(lambda text: text.encode(errors="replace").decode()[:200])
    package = st.builds(
        Installed, st.sampled_from(["deb", "rpm"]), word, word, word, text,
        st.lists(text, max_size=2).map(tuple), text, st.integers(0, 2**40),
    )  # fmt: skip
    system = st.builds(System, text, text, text)

    def write(case: tuple[list[Installed], System]) -> None:
        packages, distribution = case
        artifact = Artifact("os-image.raw", 1, 1, "0" * 128)
        image = sbom.Image("os-image", "x86_64", distribution, [artifact], packages, packages)
        text = sbom.to_json(image)
        text.encode()
        json.loads(text)

    attack(st.tuples(st.lists(package, max_size=3), system), write)


def test_a_manifest_holds_any_package(attack: Attack, build: Path, tmp_path: Path) -> None:
    sample = Manifest.read(build)

    def write(text: str) -> None:
        data = sample.to_json()
        data["images"]["base"]["packages"] = [dict.fromkeys(vars(Package("a", "b", "c")), text)]
        put(tmp_path / "manifest.json", json_text(data).encode())
        manifest = Manifest.read(tmp_path)
        assert manifest.images["base"].packages[0].name == text

    attack(TEXT, write)


def test_json_is_written_so_that_it_acts_nowhere(attack: Attack) -> None:
    def write(value: object) -> None:
        text = json_text(value)
        text.encode()
        assert_shown_safely(text)

    attack(st.one_of(JSON, altered(RECORD)), write, share=3)


def test_the_record_of_emulators_is_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    from scripts.catalog import ROOT
    from scripts.emulation.emulators import TABLE, EmulationTable, download
    from scripts.system.progress import Progress

    table = EmulationTable.read(ROOT / TABLE)
    folder = tmp_path / "emulators" / f"{X86_64.debian}-{table.digest[:16]}"
    progress = Progress(live=False)

    def read(data: bytes) -> None:
        put(folder / EMULATORS_RECORD, data)
        found = download(ROOT, tmp_path, X86_64, progress, offline=True)
        assert found.digest
        for one in table.emulated.values():
            found.program(one)

    attack(json_like({"package": "a.deb", "digests": {"qemu-aarch64-static": "0"}}), read)
