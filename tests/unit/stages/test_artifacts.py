from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.stages import artifacts, delivery
from scripts.stages.artifacts import Artifact


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with a file and a folder that are finished."""
    made = tmp_path / "made"
    (made / "oci/blobs").mkdir(parents=True)
    (made / "oci/index.json").write_text("index")
    (made / "oci/blobs/1").write_text("blob")
    (made / "image.raw").write_text("new")
    return made


def deliver(made: Path, out: Path) -> None:
    with delivery.delivery(["image.raw", "oci"], made, out):
        pass


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_files_and_folders_get_their_final_names(made: Path, out: Path) -> None:
    deliver(made, out)

    assert names(out) == ["image.raw", "oci", "oci/blobs", "oci/blobs/1", "oci/index.json"]


def test_folders_above_the_outputs_are_made(made: Path, out: Path) -> None:
    deliver(made, out / "debian/x86_64")

    assert (out / "debian/x86_64/image.raw").is_file()


def test_what_stood_there_before_is_replaced(made: Path, out: Path) -> None:
    (out / "oci").mkdir(parents=True)
    (out / "oci/stale").touch()
    (out / "image.raw").write_text("old")
    deliver(made, out)

    assert (out / "image.raw").read_text() == "new"
    assert names(out / "oci") == ["blobs", "blobs/1", "index.json"]


def test_leftovers_of_a_killed_delivery_are_no_hindrance(made: Path, out: Path) -> None:
    for name in (".oci.new", ".oci.old"):
        (out / name).mkdir(parents=True)
        (out / name / "stale").touch()
    (out / ".image.raw.new").write_text("half")
    deliver(made, out)

    assert not list(out.glob(".*"))
    assert (out / "image.raw").read_text() == "new"


def test_a_full_disk_leaves_the_good_artifacts_and_no_halves(
    made: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir()
    (out / "image.raw").write_text("old")
    move = shutil.move

    def fails_on_the_second(source: Path, target: Path, **how: Any) -> None:
        if source.name == "oci":
            target.mkdir()
            (target / "half").touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        move(source, target, **how)

    monkeypatch.setattr(shutil, "move", fails_on_the_second)
    with pytest.raises(OSError, match="No space left"):
        deliver(made, out)

    assert names(out) == ["image.raw"]
    assert (out / "image.raw").read_text() == "old"


def described(out: Path) -> set[str]:
    """Descriptions of a build of two images in out, which were there before; their names."""
    files = {"sbom.cdx.json", "provenance.intoto.json", "report.html"}
    files |= {"os-image.sbom.cdx.json", "wsl-rootfs.sbom.cdx.json"}
    out.mkdir()
    for name in files:
        (out / name).write_text("of the build before")
    return files


def test_what_described_an_artifact_goes_before_another_takes_its_place(
    made: Path, out: Path
) -> None:
    described(out)
    (made / "os-image.raw").write_text("new")
    with delivery.delivery(["os-image.raw"], made, out):
        pass

    assert names(out) == ["os-image.raw", "wsl-rootfs.sbom.cdx.json"]


def test_a_stage_without_artifacts_leaves_descriptions_alone(made: Path, out: Path) -> None:
    files = described(out)
    with delivery.delivery([], made, out):
        pass

    assert set(names(out)) == files


def test_a_delivery_that_fails_leaves_the_descriptions_of_the_good_artifacts(
    made: Path, out: Path
) -> None:
    files = described(out)
    with pytest.raises(OSError, match="full"), delivery.delivery(["image.raw"], made, out):
        raise OSError(errno.ENOSPC, "full")

    assert set(names(out)) == files


def test_files_of_a_folder_are_artifacts_of_their_own(made: Path) -> None:
    described = artifacts.describe(made, ["image.raw", "oci"])

    assert [artifact.name for artifact in described] == [
        "image.raw",
        "oci/blobs/1",
        "oci/index.json",
    ]
    assert [artifact.output for artifact in described] == ["image.raw", "oci", "oci"]
    assert described[0].size == 3
    assert described[0].sha512 == hashlib.sha512(b"new").hexdigest()


def test_an_artifact_that_was_moved_still_stands(made: Path, out: Path) -> None:
    [artifact] = artifacts.describe(made, ["image.raw"])
    deliver(made, out)

    assert artifact.stands_in(out)


def test_an_artifact_that_was_written_to_or_is_gone_does_not_stand(made: Path) -> None:
    artifact = Artifact.of(made, "image.raw")
    (made / "image.raw").write_text("NEW")
    assert not artifact.stands_in(made)
    (made / "image.raw").unlink()
    assert not artifact.stands_in(made)


def test_sha512sum_accepts_the_checksums(made: Path) -> None:
    artifacts.write_checksums(made, artifacts.describe(made, ["image.raw", "oci"]))

    for name in ("SHA512SUMS", "image.raw.sha512sum", "oci.sha512sum"):
        subprocess.run(["sha512sum", "--quiet", "--strict", "-c", name], cwd=made, check=True)


def test_a_copy_has_holes_where_the_disk_image_has_them(tmp_path: Path) -> None:
    image = tmp_path / "image.raw"
    with image.open("wb") as file:
        file.write(b"begin")
        file.seek(64 << 20)
        file.write(b"middle")
        file.truncate(128 << 20)
    delivery.copy_sparse(str(image), str(tmp_path / "copy"))

    copy = (tmp_path / "copy").stat()
    assert (copy.st_size, copy.st_mtime_ns) == (128 << 20, image.stat().st_mtime_ns)
    assert copy.st_blocks * 512 < 1 << 20
    assert filecmp.cmp(image, tmp_path / "copy", shallow=False)


def test_a_disk_that_cannot_be_read_is_an_error_and_not_a_hole(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "lseek", fails)
    with pytest.raises(OSError, match="Input/output error"):
        delivery.copy_sparse(str(made / "image.raw"), str(tmp_path / "copy"))
