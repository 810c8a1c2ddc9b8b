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
from tests import builds

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
    """An OCI image layout with a layer."""
    builds.write_layout(tmp_path / "image", b"layer")
    return tmp_path / "image"


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


@pytest.mark.parametrize("index", ["{}", "[]", '{"manifests": []}', '{"manifests": [{}, {}]}'])
def test_a_layout_without_exactly_one_image_is_refused(layout: Path, index: str) -> None:
    (layout / "index.json").write_text(index)
    with pytest.raises(HarnessError, match="not an OCI image layout with one image"):
        oci_layout.pack_oci(layout)


def test_a_layout_that_lacks_its_index_is_refused_with_its_path(layout: Path) -> None:
    (layout / "index.json").unlink()
    with pytest.raises(HarnessError, match=r"index\.json cannot be read: No such file"):
        oci_layout.pack_oci(layout)


def test_a_layout_that_lacks_a_blob_is_refused_with_its_path(layout: Path) -> None:
    layer = oci_layout.Image.read(layout).layers[0]
    layer.path.unlink()
    with pytest.raises(HarnessError, match=f"{layer.name} cannot be read"):
        oci_layout.pack_oci(layout)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, " " * (4 << 20) + "{}"])
def test_a_layout_whose_index_is_damaged_is_refused_with_its_path(layout: Path, text: str) -> None:
    (layout / "index.json").write_text(text)
    with pytest.raises(HarnessError, match=r"index\.json cannot be read"):
        oci_layout.pack_oci(layout)


def altered(layout: Path, **fields: object) -> Path:
    """The layout with other fields in the one entry of its index."""
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0] |= fields
    (layout / "index.json").write_text(json.dumps(index))
    return layout


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../etc/passwd",
        "sha256:/etc/passwd",
        "../x:y",
        f"sha256:{'A' * 64}",
        f"sha256:{'a' * 64}\n",
        f"md5:{'a' * 32}",
        7,
        None,
    ],
)
def test_a_digest_that_is_none_leads_to_no_file(layout: Path, digest: object) -> None:
    with pytest.raises(HarnessError, match="where a digest should be"):
        oci_layout.pack_oci(altered(layout, digest=digest))


@pytest.mark.parametrize("size", [1, -1, "3", True, 10**30, None])
def test_a_blob_of_another_size_than_the_layout_says_is_refused(layout: Path, size: object) -> None:
    with pytest.raises(HarnessError, match=r"not the blob that|where the size of"):
        oci_layout.pack_oci(altered(layout, size=size))


@pytest.mark.parametrize("kind", ["application/vnd.oci.image.index.v1+json", "\x1b[2Jtext", None])
def test_a_blob_of_another_type_than_a_manifest_is_not_read_as_one(
    layout: Path, kind: object
) -> None:
    with pytest.raises(HarnessError, match="has a blob of the type") as caught:
        oci_layout.pack_oci(altered(layout, mediaType=kind))
    assert "\x1b" not in str(caught.value)


def test_a_layer_that_was_changed_is_refused(layout: Path) -> None:
    layer = oci_layout.Image.read(layout).layers[0]
    layer.path.write_bytes(bytes(layer.size))
    with pytest.raises(HarnessError, match="is not the blob that the layout names"):
        oci_layout.pack_oci(layout)


def test_a_layer_that_is_a_link_to_a_file_of_the_host_is_refused(
    layout: Path, tmp_path: Path
) -> None:
    layer = oci_layout.Image.read(layout).layers[0]
    layer.path.rename(tmp_path / "elsewhere")
    layer.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HarnessError, match="cannot be read"):
        oci_layout.pack_oci(layout)


def test_a_file_that_the_image_does_not_name_is_not_packed(layout: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host")
    (layout / "blobs/sha256/link").symlink_to(tmp_path / "secret")
    (layout / "extra").write_text("of nobody")
    with tarfile.open(oci_layout.pack_oci(layout)) as archive:
        assert not {"extra", "blobs/sha256/link"} & set(archive.getnames())
