from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scripts import catalog
from scripts.description import comparison
from scripts.description.comparison import Change, Kind
from scripts.sessions import diff
from scripts.system.errors import HarnessError, UsageError
from tests import builds

PACKAGES = {"base": {"bash": "5.2-1", "zlib1g": "1:1.3"}, "initrd": {"kmod": "34"}}


def build(
    folder: Path,
    *,
    cmdline: bytes = b"root=/dev/vda2 quiet",
    files: Mapping[str, str] | None = None,
) -> Path:
    """A build of everything that is compared."""
    folder.mkdir()
    builds.write_rootfs(folder, {"etc/hostname": "finch", "usr/bin/tool": "1", **(files or {})})
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("etc"))
    builds.write_layout(folder / "container-with-kernel", layer.getvalue())
    builds.write_disk(folder / "os-image.raw", {"esp": 16, "root": 32})
    builds.write_uki(folder / "os-image.efi", {".cmdline": cmdline, ".linux": b"kernel" * 1000})
    builds.write_manifest(folder, PACKAGES, "wsl-rootfs.tar.gz", "os-image.raw", "os-image.efi")
    return folder


def repack(folder: Path, packages: dict[str, dict[str, str]]) -> None:
    builds.write_manifest(folder, packages, "wsl-rootfs.tar.gz", "os-image.raw", "os-image.efi")


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return build(tmp_path / "a")


def test_equal_builds_do_not_differ(a: Path, tmp_path: Path) -> None:
    found = comparison.difference(a, build(tmp_path / "b"))

    assert set(found.changes) == {
        "packages", "packages of the initrd", "sizes", "UKI sections", "partitions",
        "files of wsl-rootfs", "files of container-with-kernel",
    }  # fmt: skip
    assert not any(found.changes.values())


def test_packages_that_came_went_and_changed_are_shown(a: Path, tmp_path: Path) -> None:
    b = build(tmp_path / "b")
    repack(b, {"base": {"bash": "5.2-2", "nano": "8"}, "initrd": {"kmod": "35"}})
    changes = comparison.difference(a, b).changes

    assert changes["packages"] == [
        Change(Kind.CHANGED, "bash (amd64)", "5.2-1", "5.2-2"),
        Change(Kind.ADDED, "nano (amd64)", after="8"),
        Change(Kind.REMOVED, "zlib1g (amd64)", before="1:1.3"),
    ]
    assert [change.name for change in changes["packages of the initrd"]] == ["kmod (amd64)"]


def test_files_differ_by_content_and_mode_not_by_time(a: Path, tmp_path: Path) -> None:
    b = build(tmp_path / "b", files={"etc/hostname": "other", "etc/new": "new"})
    changes = comparison.difference(a, b).changes["files of wsl-rootfs"]

    assert [(change.kind.value, change.name) for change in changes] == [
        ("changed", "/etc/hostname"),
        ("changed", "/etc/linked"),
        ("added", "/etc/new"),
    ]


def write_capability(build: Path, value: str) -> None:
    """Make the WSL rootfs of build one program with a file capability."""
    member = tarfile.TarInfo("usr/bin/ping")
    member.pax_headers = {"SCHILY.xattr.security.capability": value}
    with tarfile.open(
        build / "wsl-rootfs.tar.gz", "w:gz", format=tarfile.PAX_FORMAT, encoding="utf-8"
    ) as tar:
        tar.addfile(member)


def test_files_differ_by_their_extended_attributes(a: Path, tmp_path: Path) -> None:
    b = build(tmp_path / "b")
    # Both are no UTF-8, as capabilities are (linux/capability.h, struct vfs_cap_data).
    write_capability(a, "\x01\0\0\x02\0\x20\0\0\udcff")
    write_capability(b, "\x01\0\0\x02\0\x30\0\0\udcff")
    [change] = comparison.difference(a, b).changes["files of wsl-rootfs"]

    assert (change.kind, change.name) == (Kind.CHANGED, "/usr/bin/ping")
    assert "attributes" in change.before


def test_equal_extended_attributes_do_not_differ(a: Path, tmp_path: Path) -> None:
    b = build(tmp_path / "b")
    for one in (a, b):
        write_capability(one, "\x01\0\0\x02")

    assert comparison.difference(a, b).changes["files of wsl-rootfs"] == []


def test_the_kernel_command_line_is_shown_whole(a: Path, tmp_path: Path) -> None:
    b = build(tmp_path / "b", cmdline=b"root=/dev/vda2")
    changes = comparison.difference(a, b).changes["UKI sections"]

    assert changes == [Change(Kind.CHANGED, ".cmdline", "root=/dev/vda2 quiet", "root=/dev/vda2")]


def test_partitions_differ_by_place_and_size(a: Path, tmp_path: Path) -> None:
    b = build(tmp_path / "b")
    builds.write_disk(b / "os-image.raw", {"esp": 16, "root": 40, "data": 8})
    changes = comparison.difference(a, b).changes["partitions"]

    assert [(change.kind.value, change.name) for change in changes] == [
        ("changed", "2 root"),
        ("added", "3 data"),
    ]


def test_of_a_mere_manifest_packages_and_sizes_are_compared(a: Path, tmp_path: Path) -> None:
    found = comparison.difference(a / "manifest.json", build(tmp_path / "b"))

    assert set(found.changes) == {"packages", "packages of the initrd", "sizes"}
    assert "UKI sections" in found.skipped


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("text", "  ~ bash (amd64): 5.2-1 → 5.2-2\n"),
        ("markdown", "| ~ | `bash (amd64)` | `5.2-1` | `5.2-2` |\n"),
    ],
)
def test_the_difference_is_told_in_the_form_that_is_asked_for(
    a: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, expected: str
) -> None:
    b = build(tmp_path / "b")
    repack(b, {"base": {"bash": "5.2-2", "zlib1g": "1:1.3"}, "initrd": {"kmod": "34"}})
    diff.main([str(a), str(b), "--format", form])

    assert expected in capsys.readouterr().out


def test_json_is_for_programs(a: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diff.main([str(a), str(a), "--format", "json"])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)

    assert told["changes"]["packages"] == []


def test_markdown_stays_short_and_cells_stay_cells() -> None:
    changes = [Change(Kind.ADDED, f"/a|`{number}", after="x") for number in range(100)]
    text = comparison.to_markdown(comparison.Difference("a", "b", {"files": changes}, []))

    assert "| + | `/a\\x7c\\x600` |  | `x` |" in text
    assert "… and 40 more" in text
    assert "100 added" in text


def test_where_no_build_is_the_hint_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*manifest\.json"):
        comparison.difference(tmp_path, tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": [], "artifacts": []}'])
def test_what_is_no_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(HarnessError, match="is not the manifest of a build"):
        comparison.difference(tmp_path, tmp_path)


def test_a_damaged_artifact_is_named(a: Path) -> None:
    (a / "wsl-rootfs.tar.gz").write_bytes((a / "wsl-rootfs.tar.gz").read_bytes()[:100])
    with pytest.raises(HarnessError, match=f"an artifact in {a} cannot be read"):
        comparison.difference(a, a)


def test_artifacts_of_any_image_in_the_catalogue_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sixth = catalog.Image("sixth", ("x86_64",), ("sixth.raw",))
    monkeypatch.setattr(catalog, "IMAGES", {**catalog.IMAGES, "sixth": sixth})
    for name, sizes in {"a": {"root": 8}, "b": {"root": 16}}.items():
        builds.write_disk(build(tmp_path / name) / "sixth.raw", sizes)
    changes = comparison.difference(tmp_path / "a", tmp_path / "b").changes

    assert [change.name for change in changes["partitions of sixth"]] == ["1 root"]
    assert changes["partitions"] == []


def test_a_package_with_a_line_break_makes_no_line_of_its_own() -> None:
    changes = [Change(Kind.ADDED, "a\n  + fake: 1|`", after="\x1b[2J")]
    found = comparison.Difference("a`", "b\n", {"packages": changes}, [])

    assert comparison.to_text(found).splitlines()[2:] == [r"  + a\n  + fake: 1|`: \x1b[2J"]
    markdown = comparison.to_markdown(found)
    assert markdown.startswith(r"### `a\x60` → `b\n`")
    assert r"| + | `a\n  + fake: 1\x7c\x60` |  | `\x1b[2J` |" in markdown
    assert json.loads(comparison.to_json(found))["changes"]["packages"][0]["after"] == "\x1b[2J"
