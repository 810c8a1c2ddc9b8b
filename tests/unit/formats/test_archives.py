from __future__ import annotations

import gzip
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from scripts.formats import archives, oci_layout
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError
from scripts.system.process import CommandError

GZIP = ["gzip", "--no-name", "--fast"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system in little, whose names are made in no order."""
    tree = tmp_path / "tree"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/perl").write_text("program")
    (tree / "usr/bin/perl5").hardlink_to(tree / "usr/bin/perl")
    (tree / "usr/bin/awk").hardlink_to(tree / "usr/bin/perl")
    (tree / "etc").mkdir()
    (tree / "etc/hostname").write_text("finch\n")
    (tree / "etc/link").symlink_to("hostname")
    with (tree / "usr/holes").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    os.setxattr(tree / "etc/hostname", "user.binary", b"\x01\xff\x00\xfe")
    return tree


def tar(tree: Path, target: Path) -> Path:
    """A tar as mkosi makes it."""
    pax = "--pax-option=delete=atime,delete=ctime,delete=mtime"
    names = sorted((path.name for path in tree.iterdir()), reverse=True)
    command: list[str | Path] = [
        "tar", "-C", tree, "--sparse", "--xattrs", "--xattrs-include=*", pax, "-cf", target,
        *(f"./{name}" for name in names),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return target


def unpack(packed: Path, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(
        ["tar", "-C", folder, "--xattrs", "--xattrs-include=*", "-xzf", packed], check=True
    )
    return folder


def test_members_stand_in_order_without_the_names_of_owners(tree: Path, tmp_path: Path) -> None:
    packed = archives.pack_rootfs(tar(tree, tmp_path / "rootfs.tar"), GZIP)

    assert packed == tmp_path / "rootfs.tar.gz"
    assert not (tmp_path / "rootfs.tar").exists()
    with tarfile.open(packed) as archive:
        assert archive.getnames() == [
            "etc",
            "etc/hostname",
            "etc/link",
            "usr",
            "usr/bin",
            "usr/bin/awk",
            "usr/bin/perl",
            "usr/bin/perl5",
            "usr/holes",
        ]
        assert {member.uname for member in archive} == {""}
        assert all(isinstance(member.mtime, int) for member in archive)


def test_files_links_holes_and_attributes_come_out_as_they_went_in(
    tree: Path, tmp_path: Path
) -> None:
    out = unpack(archives.pack_rootfs(tar(tree, tmp_path / "rootfs.tar"), GZIP), tmp_path / "out")

    subprocess.run(["diff", "-r", "--no-dereference", tree, out], check=True)
    assert len({(out / "usr/bin" / name).stat().st_ino for name in ("awk", "perl", "perl5")}) == 1
    assert os.getxattr(out / "etc/hostname", "user.binary") == b"\x01\xff\x00\xfe"


def test_further_names_of_a_file_take_no_space(tree: Path, tmp_path: Path) -> None:
    with tarfile.open(archives.pack_rootfs(tar(tree, tmp_path / "rootfs.tar"), GZIP)) as archive:
        links = {member.name: member.size for member in archive if member.islnk()}

    assert links == {"usr/bin/perl": 0, "usr/bin/perl5": 0}


def test_equal_trees_come_to_equal_bytes(tree: Path, tmp_path: Path) -> None:
    first = archives.pack_rootfs(tar(tree, tmp_path / "first.tar"), GZIP)
    (tmp_path / "second").mkdir()
    unpacked = unpack(first, tmp_path / "again")
    second = archives.pack_rootfs(tar(unpacked, tmp_path / "second/first.tar"), GZIP)

    assert file_digest(first) == file_digest(second)


def test_a_compressor_that_fails_leaves_the_tar(tree: Path, tmp_path: Path) -> None:
    plain = tar(tree, tmp_path / "rootfs.tar")
    with pytest.raises(CommandError, match="status 3"):
        archives.pack_rootfs(plain, ["sh", "-c", "cat >/dev/null; exit 3"])
    assert plain.exists()


def test_a_compressor_that_ends_early_is_an_error_all_the_same(tree: Path, tmp_path: Path) -> None:
    (tree / "usr/large").write_bytes(os.urandom(1 << 20))
    with pytest.raises(CommandError):
        archives.pack_rootfs(tar(tree, tmp_path / "rootfs.tar"), ["true"])


def test_the_wsl_file_is_the_tarball_under_another_name(tmp_path: Path) -> None:
    packed = tmp_path / "wsl-rootfs.tar.gz"
    packed.write_bytes(gzip.compress(b""))
    archives.link_wsl(packed)
    wsl = archives.link_wsl(packed)

    assert wsl.name == "wsl-rootfs.wsl"
    assert wsl.samefile(packed)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An OCI image layout, of contents that say where they stand."""
    layout = tmp_path / "image"
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    manifest = {"config": {"digest": "sha256:c"}, "layers": [{"digest": "sha256:1"}]}
    for name, text in {"m": json.dumps(manifest), "c": "config", "1": "layer"}.items():
        (blobs / name).write_text(text)
    (layout / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:m"}]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


def test_the_archive_of_a_layout_names_its_blobs_as_docker_does(layout: Path) -> None:
    with tarfile.open(oci_layout.pack_oci(layout)) as archive:
        names = archive.getnames()
        manifest = archive.extractfile("manifest.json")
        assert manifest
        [image] = json.load(manifest)

    assert names == sorted(names)
    assert {"oci-layout", "index.json", image["Config"], *image["Layers"]} <= set(names)
    assert image["RepoTags"] == ["localhost/finch/image:latest"]


def test_folders_in_the_archive_of_a_layout_can_be_entered_by_anyone(layout: Path) -> None:
    with tarfile.open(oci_layout.pack_oci(layout)) as archive:
        modes = {member.name: member.mode for member in archive if member.isdir()}

    assert modes == {"blobs": 0o755, "blobs/sha256": 0o755}


def test_equal_layouts_come_to_equal_archives(layout: Path) -> None:
    first = file_digest(oci_layout.pack_oci(layout))
    os.utime(layout / "oci-layout", (0, 0))

    assert file_digest(oci_layout.pack_oci(layout)) == first


@pytest.mark.parametrize("index", ["{}", '{"manifests": []}', '{"manifests": [{}, {}]}'])
def test_a_layout_without_exactly_one_image_is_refused(layout: Path, index: str) -> None:
    (layout / "index.json").write_text(index)
    with pytest.raises(HarnessError, match="not an OCI image layout with one image"):
        oci_layout.pack_oci(layout)


@pytest.mark.parametrize("name", ["index.json", "blobs/sha256/m"])
def test_a_layout_that_lacks_a_file_is_refused_with_its_path(layout: Path, name: str) -> None:
    (layout / name).unlink()
    with pytest.raises(HarnessError, match=f"{name} cannot be read"):
        oci_layout.pack_oci(layout)


def test_a_layout_whose_index_is_damaged_is_refused_with_its_path(layout: Path) -> None:
    (layout / "index.json").write_text("{")
    with pytest.raises(HarnessError, match=r"index\.json cannot be read"):
        oci_layout.pack_oci(layout)
