"""Attacks on a release: by the bucket, the registry, the files of a build, and its descriptions."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scripts.publish import booted, layout, registry, release, s3
from scripts.publish import publish as publishing
from scripts.publish.release import Build, Upload
from scripts.publish.s3 import Bucket
from scripts.publish.signing import CREDENTIALS
from scripts.stages import artifacts
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError
from scripts.system.process import run
from scripts.system.progress import Progress
from tests import builds
from tests.publishing import (
    IMAGES,
    MANIFEST,
    MIB,
    OUTPUTS,
    QCOW2,
    ROOTFS,
    RUN,
    SUMS,
    boot,
    convert,
    fetch,
    keys,
    open_uploads,
    tag,
    told,
)


def rebuild(out: Path, root: Path) -> None:
    """Describe what is in out as a finished build, as whoever writes there can."""
    builds.write_manifest(out, IMAGES, *OUTPUTS, root=root)
    builds.write_provenance(out)


def put(aws: Any, bucket: str, key: str, data: bytes) -> None:
    """Put data into the bucket with metadata as publishing writes them."""
    sha512 = hashlib.sha512(data).hexdigest()
    aws.put_object(Bucket=bucket, Key=key, Body=data, Metadata={s3.SHA512: sha512})


def stamp(days: float) -> str:
    """The moment in so many days, as a release manifest has it."""
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def genuine(tell: Callable[..., None], aws: Any, bucket: str) -> str:
    """The manifest that an unsigned publish wrote; the bucket is empty again."""
    tell()
    text = fetch(aws, bucket, MANIFEST).decode()
    for name in keys(aws, bucket):
        aws.delete_object(Bucket=bucket, Key=name)
    return text


def with_dates(text: str, published: str, expires: str) -> str:
    data = json.loads(text) | {"published_at": published, "expires_at": expires}
    return json.dumps(data, indent=2) + "\n"


PLANTS: dict[str, Callable[[str], str]] = {
    "expires in 2999": lambda text: with_dates(text, stamp(0), "2999-01-01T00:00:00Z"),
    "a key twice": lambda text: text.replace(
        '  "artifacts"', '  "expires_at": "2999-01-01T00:00:00Z",\n  "artifacts"'
    ),
    "the same key with the same value twice": lambda text: text.replace(
        '  "artifacts"', f'  "expires_at": "{json.loads(text)["expires_at"]}",\n  "artifacts"'
    ),
    "an unknown field": lambda text: text.replace("{", '{\n  "mirror": "https://evil.example",', 1),
    "an expiry that has passed": lambda text: with_dates(text, stamp(-9), stamp(-1)),
    "a day too long": lambda text: with_dates(text, stamp(0), stamp(184)),
    "dated in the future": lambda text: with_dates(text, stamp(2), stamp(9)),
    "a date in other words": lambda text: with_dates(text, stamp(0), stamp(9).replace("T", "t")),
    "a date with one digit": lambda text: with_dates(text, "2026-1-1T00:00:00Z", stamp(9)),
    "other white space": lambda text: text + " ",
    "another artifact": lambda text: text.replace("sha512:", "sha512:0"),
    "no object": lambda _: "[]",
    "an abyss": lambda _: "[" * 100_000,
    "a megabyte": lambda _: " " * (s3.SMALL + 1),
    # Only the dates are the attacker's, and they are good ones: still they are not signed.
    "good dates": lambda text: with_dates(text, stamp(-1), stamp(1)),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_a_release_manifest_that_was_planted_under_the_run_s_name_is_never_signed(
    genuine: str, plant: Callable[[str], str], tell: Callable[..., None], key: Path,
    aws: Any, bucket: str,
) -> None:  # fmt: skip
    planted = plant(genuine).encode()
    assert planted != genuine.encode()
    put(aws, bucket, MANIFEST, planted)
    with pytest.raises(HarnessError, match=rf"{MANIFEST} "):
        tell("--key", str(key), "--latest", "--allow-partial")
    assert keys(aws, bucket) == {MANIFEST}
    assert fetch(aws, bucket, MANIFEST) == planted


@pytest.mark.parametrize("name", sorted(PLANTS.keys() - {"good dates"}))
def test_a_planted_release_manifest_stops_an_unsigned_release_too(
    genuine: str, name: str, tell: Callable[..., None], aws: Any, bucket: str
) -> None:
    put(aws, bucket, MANIFEST, PLANTS[name](genuine).encode())
    with pytest.raises(HarnessError, match=rf"{MANIFEST} "):
        tell("--latest", "--allow-partial")
    assert keys(aws, bucket) == {MANIFEST}


def test_checksums_that_were_planted_under_the_run_s_name_are_never_signed(
    genuine: str, tell: Callable[..., None], key: Path, aws: Any, bucket: str
) -> None:
    assert genuine
    tell()
    sums = fetch(aws, bucket, SUMS)
    for name in keys(aws, bucket) - {SUMS}:
        aws.delete_object(Bucket=bucket, Key=name)
    # What publishing compares first is as it should be; only the bytes are not.
    aws.put_object(Bucket=bucket, Key=SUMS, Body=b"0" * 128 + sums[128:],
                   Metadata={s3.SHA512: hashlib.sha512(sums).hexdigest()})  # fmt: skip
    with pytest.raises(HarnessError, match=rf"{SUMS} is already there, with other bytes"):
        tell("--key", str(key))
    assert keys(aws, bucket) == {SUMS}


def test_a_signature_by_another_key_is_not_made_the_latest_release_s(
    tell: Callable[..., None], key: Path, aws: Any, bucket: str, cosign: list[Any], tmp_path: Path
) -> None:
    tell("--key", str(key))
    (tmp_path / "other").mkdir()
    run([*cosign, "generate-key-pair"], cwd=tmp_path / "other", also=CREDENTIALS)
    (tmp_path / "m").write_bytes(fetch(aws, bucket, MANIFEST))
    run([*cosign, "sign-blob", "--yes", "--key", tmp_path / "other/cosign.key",
         "--tlog-upload=false", "--bundle", tmp_path / "b", tmp_path / "m"],
        also=CREDENTIALS)  # fmt: skip
    put(aws, bucket, f"{MANIFEST}.bundle", (tmp_path / "b").read_bytes())
    with pytest.raises(HarnessError, match=f"signature of {MANIFEST} was not made with"):
        tell("--key", str(key), "--latest", "--allow-partial")
    assert "manifest.json" not in keys(aws, bucket)


@pytest.mark.parametrize("name", [QCOW2, ROOTFS])
def test_a_planted_file_of_the_right_size_and_with_metadata_that_lie_is_not_taken_for_ours(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str, name: str
) -> None:
    source = out / ("os-image.qcow2" if name == QCOW2 else "wsl-rootfs.tar.gz")
    aws.put_object(Bucket=bucket, Key=name, Body=b"x" * source.stat().st_size,
                   Metadata={s3.SHA512: file_digest(source, "sha512")})  # fmt: skip
    with pytest.raises(HarnessError, match=f"{name} is already there, with other bytes"):
        tell()
    assert keys(aws, bucket) == {name}


def test_a_disk_that_was_swapped_after_the_boot_test_is_refused(
    tell: Callable[..., None], out: Path, root: Path, qemu_img: list[Any], aws: Any, bucket: str
) -> None:
    (out / "os-image.raw").write_bytes(b"evil" * 16384)
    with pytest.raises(HarnessError, match=r"os-image\.raw has been changed since it was built"):
        tell()
    convert(qemu_img, out / "os-image.raw", out / "os-image.qcow2")
    rebuild(out, root)
    with pytest.raises(HarnessError, match="tested a different os-image"):
        tell()
    assert keys(aws, bucket) == set()


@pytest.mark.parametrize("is_here", [True, False], ids=["beside the raw disk", "in another job"])
def test_a_qcow2_whose_content_is_not_the_disk_that_booted_is_refused(
    tell: Callable[..., None], out: Path, root: Path, qemu_img: list[Any], tmp_path: Path,
    aws: Any, bucket: str, is_here: bool,
) -> None:  # fmt: skip
    (tmp_path / "evil").write_bytes(b"evil" * 16384)
    convert(qemu_img, tmp_path / "evil", out / "os-image.qcow2")
    rebuild(out, root)
    if not is_here:
        (out / "os-image.raw").unlink()
    with pytest.raises(HarnessError, match=r"qcow2 is not the disk of .*: its content differs"):
        tell()
    with pytest.raises(HarnessError, match="its content differs"):
        tell("--allow-unbooted", "--allow-altered")
    assert keys(aws, bucket) == set()


def test_a_job_that_has_only_the_qcow2_publishes_the_disk_that_another_job_booted(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str
) -> None:
    (out / "os-image.raw").unlink()
    tell()
    assert QCOW2 in keys(aws, bucket)


def test_a_qcow2_that_takes_its_content_from_a_file_beside_it_is_refused(
    tell: Callable[..., None], out: Path, root: Path, qemu_img: list[Any]
) -> None:
    (out / "os-image.qcow2").unlink()
    run([*qemu_img, "create", "-f", "qcow2", "-F", "raw", "-b", out / "os-image.raw",
         out / "os-image.qcow2"])  # fmt: skip
    rebuild(out, root)
    with pytest.raises(HarnessError, match=r"is not the disk of os-image\.raw: it has a backing"):
        tell()


def test_a_qcow2_that_keeps_its_data_in_another_file_is_refused(
    tell: Callable[..., None], out: Path, root: Path, qemu_img: list[Any]
) -> None:
    run([*qemu_img, "convert", "-O", "qcow2", "-o", f"data_file={out / 'data'},data_file_raw=on",
         out / "os-image.raw", out / "os-image.qcow2"])  # fmt: skip
    rebuild(out, root)
    with pytest.raises(HarnessError, match="or keeps its data in another file"):
        tell()


def test_a_qcow2_with_a_snapshot_or_of_another_size_is_refused(
    tell: Callable[..., None], out: Path, root: Path, qemu_img: list[Any]
) -> None:
    run([*qemu_img, "snapshot", "-c", "hidden", out / "os-image.qcow2"])
    rebuild(out, root)
    with pytest.raises(HarnessError, match="it has snapshots"):
        tell()
    # `qemu-img compare` would call these two identical, as the rest is zeros.
    convert(qemu_img, out / "os-image.raw", out / "os-image.qcow2")
    run([*qemu_img, "resize", out / "os-image.qcow2", "8T"])
    rebuild(out, root)
    with pytest.raises(HarnessError, match="its disk has 8796093022208 bytes, not 65536"):
        tell()


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('"status": "passed"', '"status": "skipped"', "failed its boot test: disk has skipped"),
        ('"passed": true', '"passed": "false"', "failed its boot test"),
        ('"passed": true', '"passed": false, "passed": true', "has the key 'passed' twice"),
        ('"arch": "x86_64"', '"arch": "aarch64"', "tested a different os-image"),
        ('"distribution": "debian"', '"distribution": "x"', "tested a different os-image"),
        ('"disk": "', '"disk": "0', "tested a different os-image"),
        ('"checks": [', '"checks": [], "made": [', "failed its boot test: it made no checks"),
        ('"checks": [', '"checks": [1, ', "is not the result of a boot test"),
    ],
)
def test_a_result_that_only_claims_a_passed_boot_test_is_refused(
    tell: Callable[..., None], out: Path, before: str, after: str, reason: str
) -> None:
    path = out / artifacts.BOOT_TEST
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(HarnessError, match=reason):
        tell()


def test_images_that_are_not_booted_are_published_only_beside_a_disk_that_was(
    tell: Callable[..., None], out: Path, root: Path, aws: Any, bucket: str
) -> None:
    builds.write_manifest(out, IMAGES, "wsl-rootfs.tar.gz", "wsl-rootfs.wsl", root=root)
    builds.write_provenance(out)
    with pytest.raises(HarnessError, match="was built without the os-image, so nothing in it has"):
        tell()
    assert keys(aws, bucket) == set()
    tell("--allow-unbooted")
    assert keys(aws, bucket) >= {ROOTFS}


def test_a_qcow2_without_the_disk_that_it_was_made_from_is_refused(
    tell: Callable[..., None], out: Path, root: Path
) -> None:
    builds.write_manifest(out, IMAGES, "os-image.qcow2", root=root)
    builds.write_provenance(out)
    for more in ([], ["--allow-unbooted"]):
        with pytest.raises(HarnessError, match=r"without the os-image|does not list that"):
            tell(*more)


@pytest.mark.parametrize("image", ["container-with-kernel", "wsl-rootfs"])
def test_an_image_of_another_base_than_the_disk_that_booted_is_refused(
    tell: Callable[..., None], out: Path, image: str
) -> None:
    need = "base" if image == "wsl-rootfs" else "base-with-kernel"
    with told(out) as data:
        data["images"][image]["built_from"][need] = "0" * 64
    with pytest.raises(HarnessError, match=f"{need} has been rebuilt since"):
        tell()
    with pytest.raises(HarnessError, match=f"{image} in .* was made from another {need} than the"):
        booted.check(Build.load(out))


def test_a_disk_that_was_made_from_nothing_vouches_for_no_other_image(out: Path) -> None:
    with told(out) as data:
        data["images"]["os-image"]["built_from"] = {}
    with pytest.raises(HarnessError, match="does not say what the os-image was made from"):
        booted.check(Build.load(out))


# Uploads the file whole, and in parts.
sizes = pytest.mark.parametrize("part", [s3.PART, 5 * MIB])


@sizes
def test_a_file_that_changes_between_the_check_and_the_upload_is_refused(
    upload: Upload, aws: Any, bucket: str, tmp_path: Path, part: int
) -> None:
    with upload.source.open("r+b") as file:
        file.seek(11 * MIB)
        file.write(b"evil")
    with (
        pytest.raises(HarnessError, match="large has been changed since it was built"),
        Progress(live=False).task("upload") as task,
    ):
        s3.Bucket(bucket, aws, tmp_path / "uploads", part).upload(upload, task)
    assert keys(aws, bucket) == set()
    assert open_uploads(aws, bucket) == []


@pytest.mark.parametrize("size", [0, 6 * MIB, 20 * MIB])
def test_a_file_that_changes_during_the_upload_never_appears_under_its_name(
    upload: Upload, aws: Any, bucket: str, tmp_path: Path, size: int
) -> None:
    def change(**_: Any) -> None:
        with upload.source.open("r+b") as file:
            file.write(b"evil")
            file.seek(11 * MIB)
            file.write(b"evil")
            file.truncate(size)

    aws.meta.events.register("before-call.s3.UploadPart", change)
    with (
        pytest.raises(HarnessError, match="large has been changed since it was built"),
        Progress(live=False).task("upload") as task,
    ):
        s3.Bucket(bucket, aws, tmp_path / "uploads", 5 * MIB).upload(upload, task)
    assert keys(aws, bucket) == set()
    assert open_uploads(aws, bucket) == []


@sizes
def test_what_is_sent_is_what_was_hashed_even_if_the_file_changes_on_the_way(
    upload: Upload, aws: Any, bucket: str, tmp_path: Path, part: int
) -> None:
    data = upload.source.read_bytes()
    changed = []

    def change(**_: Any) -> None:
        changed.append(upload.source.write_bytes(b"evil"))

    last = "PutObject" if part == s3.PART else "CompleteMultipartUpload"
    aws.meta.events.register(f"before-call.s3.{last}", change)
    with Progress(live=False).task("upload") as task:
        s3.Bucket(bucket, aws, tmp_path / "uploads", part).upload(upload, task)
    assert changed
    assert fetch(aws, bucket, upload.key) == data


def test_a_part_that_somebody_else_put_into_our_upload_is_sent_again(
    upload: Upload, aws: Any, bucket: str, tmp_path: Path
) -> None:
    place = s3.Bucket(bucket, aws, tmp_path / "uploads", 5 * MIB)

    def stop(**_: Any) -> None:
        raise KeyboardInterrupt

    aws.meta.events.register("before-call.s3.UploadPart", stop)
    with pytest.raises(KeyboardInterrupt), Progress(live=False).task("upload") as task:
        place.upload(upload, task)
    aws.meta.events.unregister("before-call.s3.UploadPart", stop)
    [begun] = open_uploads(aws, bucket)
    aws.upload_part(Bucket=bucket, Key=upload.key, UploadId=begun["UploadId"], PartNumber=1,
                    Body=b"x" * 5 * MIB)  # fmt: skip
    with Progress(live=False).task("upload") as task:
        place.upload(upload, task)
    assert fetch(aws, bucket, upload.key) == upload.source.read_bytes()


@pytest.mark.parametrize("is_first", [True, False], ids=["the first release", "a later one"])
def test_of_two_publishes_that_race_for_the_latest_one_loses_in_one_sentence(
    tell: Callable[..., None], aws: Any, bucket: str, monkeypatch: pytest.MonkeyPatch,
    is_first: bool,
) -> None:  # fmt: skip
    if not is_first:
        tell("--latest", "--allow-partial")
    upload = Bucket.upload

    def late(self: Bucket, one: Upload, task: Any) -> None:
        if one.key == "manifest.json":  # the other publish ends before this one
            aws.put_object(Bucket=bucket, Key=one.key, Body=b"of run 9999")
        upload(self, one, task)

    monkeypatch.setattr(Bucket, "upload", late)
    sentence = rf"^somebody else has changed s3://{bucket}/manifest\.json in the meantime$"
    with pytest.raises(HarnessError, match=sentence):
        tell("--latest", "--allow-partial", "--run-id", "5000")
    assert fetch(aws, bucket, "manifest.json") == b"of run 9999"


def test_a_latest_release_that_was_removed_meanwhile_is_a_lost_race_too(
    tell: Callable[..., None], aws: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell("--latest", "--allow-partial")
    upload = Bucket.upload

    def late(self: Bucket, one: Upload, task: Any) -> None:
        if one.key == "manifest.json":
            aws.delete_object(Bucket=bucket, Key=one.key)
        upload(self, one, task)

    monkeypatch.setattr(Bucket, "upload", late)
    with pytest.raises(HarnessError, match="somebody else has changed"):
        tell("--latest", "--allow-partial", "--run-id", "5000")


def test_a_build_with_a_mkosi_from_mkosi_source_is_altered(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str
) -> None:
    for source in ("/home/me/mkosi", "/the Debian archive (mkosi.deb)", "upstream's tarball "):
        with told(out) as data:
            data["mkosi"]["source"] = source
        with pytest.raises(HarnessError, match="was built with MKOSI_SOURCE, so others would"):
            tell()
    assert keys(aws, bucket) == set()
    tell("--allow-altered")
    assert QCOW2 in keys(aws, bucket)


def test_a_build_with_a_profile_of_mkosi_is_altered(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str
) -> None:
    with told(out) as data:
        data["options"]["profile"] = ["full-kernel"]
    with pytest.raises(HarnessError, match="was built with --profile, so others would"):
        tell()
    assert keys(aws, bucket) == set()
    tell("--allow-altered")
    assert QCOW2 in keys(aws, bucket)


def test_the_pinned_mkosi_from_debian_alters_nothing(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str
) -> None:
    with told(out) as data:
        data["mkosi"]["source"] = "the Debian archive (mkosi_27.1-1_all.deb)"
    tell()
    assert QCOW2 in keys(aws, bucket)


@pytest.mark.parametrize(
    "name", ["mkosi.local.conf", "mkosi.local/mkosi.conf", "mkosi.images/base/mkosi.local.conf"]
)
def test_a_build_with_a_user_s_own_mkosi_configuration_is_altered(
    tell: Callable[..., None], out: Path, root: Path, aws: Any, bucket: str, name: str
) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("[Content]\nPackages=evil\n")
    with pytest.raises(HarnessError, match=f"is stale: {name} changed"):
        tell()
    rebuild(out, root)
    with pytest.raises(HarnessError, match=f"was built with {name}, so others would build"):
        tell()
    assert keys(aws, bucket) == set()
    tell("--allow-altered")
    assert QCOW2 in keys(aws, bucket)


@pytest.mark.parametrize(
    "name",
    [
        "container-with-kernel/../../../../../../../etc/passwd",
        "../../etc/passwd",
        "/etc/passwd",
        "container-with-kernel//etc/passwd",
        "container-with-kernel/./index.json",
        "container-with-kernel/\x1b[2Jx",
        "a\nb",
        "a\\b",
        "",
        "os-image.raw",  # which is there already
    ],
)
def test_a_manifest_with_a_name_that_leaves_the_folder_or_is_there_twice_is_refused(
    tell: Callable[..., None], out: Path, name: str, aws: Any, bucket: str
) -> None:
    with told(out) as data:
        digest = file_digest(Path("/etc/passwd"), "sha512")
        data["artifacts"].append({"name": name, "size": 1, "sha512": digest})
    with pytest.raises(HarnessError, match="has a name that no build makes: ") as caught:
        tell()
    assert "\x1b" not in caught.value.message
    assert keys(aws, bucket) == set()


@pytest.mark.parametrize("name", ["../../latest", "trixie/..", "{arch}", "a\nb", ""])
def test_a_release_whose_name_would_lead_elsewhere_in_the_bucket_is_refused(
    tell: Callable[..., None], out: Path, name: str
) -> None:
    with told(out) as data:
        data["release"] = name
    with pytest.raises(HarnessError, match="has a name that no build makes"):
        tell("--release", name)


@pytest.mark.parametrize(
    "name",
    [
        *("os-image.qcow2", "os-image.raw", "container-with-kernel.tar", "report.html"),
        *("provenance.intoto.json", "boot-test/result.json", "boot-test"),
        *("container-with-kernel", "container-with-kernel/index.json"),
        "container-with-kernel/blobs",
    ],
)
def test_an_artifact_that_is_a_link_to_another_file_is_refused(
    tell: Callable[..., None], out: Path, tmp_path: Path, aws: Any, bucket: str, name: str
) -> None:
    (out / name).rename(tmp_path / "elsewhere")
    (out / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HarnessError, match="leads through a symbolic link"):
        tell()
    assert keys(aws, bucket) == set()


def test_an_artifact_that_is_no_regular_file_is_refused_at_once(
    tell: Callable[..., None], out: Path
) -> None:
    (out / "report.html").unlink()
    os.mkfifo(out / "report.html")
    with pytest.raises(HarnessError, match=r"report\.html is not a regular file"):
        tell()


def test_a_whole_build_may_be_behind_a_link(
    tell: Callable[..., None], out: Path, tmp_path: Path, aws: Any, bucket: str
) -> None:
    out.rename(tmp_path / "disk")
    out.symlink_to(tmp_path / "disk")
    tell()
    assert QCOW2 in keys(aws, bucket)


def swap_layout(layout: Path) -> None:
    shutil.rmtree(layout)
    builds.write_layout(layout, b"evil")


def swap_index(layout: Path) -> None:
    data = json.loads((layout / "index.json").read_text())
    (layout / "index.json").write_text(json.dumps(data | {"annotations": {"evil": "yes"}}))


def swap_blobs(layout: Path) -> None:
    for blob in (layout / "blobs/sha256").iterdir():
        blob.write_bytes(b"x" * blob.stat().st_size)


@pytest.mark.parametrize("swap", [swap_layout, swap_index, swap_blobs])
def test_a_container_image_that_changes_before_it_is_pushed_is_refused(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str, repository: str,
    skopeo: list[Any], monkeypatch: pytest.MonkeyPatch, swap: Callable[[Path], None],
) -> None:  # fmt: skip
    show = publishing._show

    def show_and_swap(*args: Any) -> None:  # after all checks
        show(*args)
        swap(out / "container-with-kernel")

    monkeypatch.setattr(publishing, "_show", show_and_swap)
    with pytest.raises(HarnessError, match=r"is missing|has been changed since it was built"):
        tell()
    assert registry.Registry(skopeo, repository).digest(tag()) == ""
    assert keys(aws, bucket) == set()


def test_a_blob_that_is_not_what_its_name_says_is_not_pushed(
    tell: Callable[..., None], out: Path, root: Path, repository: str, skopeo: list[Any]
) -> None:
    for blob in (out / "container-with-kernel/blobs/sha256").iterdir():
        blob.write_bytes(blob.read_bytes() + b" ")
    rebuild(out, root)
    with pytest.raises(HarnessError, match="is not the image that it claims to be"):
        tell()
    assert registry.Registry(skopeo, repository).digest(tag()) == ""


def test_a_layout_with_a_second_image_or_an_odd_digest_is_refused(
    tell: Callable[..., None], out: Path, root: Path
) -> None:
    index = out / "container-with-kernel/index.json"
    data = json.loads(index.read_text())
    [entry] = data["manifests"]
    others: list[Any] = [
        [entry, entry], [], [entry | {"digest": "sha256:../../../etc/passwd"}],
        [entry | {"digest": "sha512:" + "0" * 128}], [entry | {"digest": 1}], [{}],
    ]  # fmt: skip
    for manifests in others:
        index.write_text(json.dumps(data | {"manifests": manifests}))
        rebuild(out, root)
        with pytest.raises(HarnessError, match="is not an OCI image layout with one image"):
            tell()


def test_only_files_that_the_manifest_lists_are_copied_to_be_pushed(
    out: Path, tmp_path: Path
) -> None:
    (out / "container-with-kernel/blobs/sha256/extra").write_text("evil")
    build = Build.load(out)
    image = release.image(build, RUN, datetime.now(UTC).date())
    assert image
    copied = layout.copy(build, image, tmp_path / "copy")
    listed = {name for name in build.sha512 if name.startswith("container-with-kernel/")}
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path / "copy").as_posix() for path in files} == listed
    assert copied == replace(image, layout=tmp_path / "copy/container-with-kernel")


def test_a_tag_that_somebody_moves_before_the_manifest_is_published_stops_it(
    tell: Callable[..., None], aws: Any, bucket: str, repository: str,
    skopeo: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    builds.write_layout(tmp_path / "container-with-kernel", b"evil")
    upload = Bucket.upload

    def late(self: Bucket, one: Upload, task: Any) -> None:
        if one.key == QCOW2:  # after the push
            evil, target = tmp_path / "container-with-kernel", f"docker://{repository}:{tag()}"
            run([*skopeo, "--insecure-policy", "copy", "--dest-tls-verify=false",
                 f"oci:{evil}", target])  # fmt: skip
        upload(self, one, task)

    monkeypatch.setattr(Bucket, "upload", late)
    with pytest.raises(HarnessError, match=f"{tag()} is sha256:.* instead of sha256:"):
        tell()
    assert MANIFEST not in keys(aws, bucket)


def test_a_provenance_that_changes_after_it_was_hashed_is_refused(out: Path) -> None:
    build = Build.load(out)
    files = release.uploads(build, RUN)
    (out / artifacts.PROVENANCE).write_text((out / artifacts.PROVENANCE).read_text() + " ")
    with pytest.raises(HarnessError, match=r"provenance\.intoto\.json has been changed"):
        release.check_described(build, files)


def test_a_provenance_that_gives_a_digest_to_another_name_is_refused(
    tell: Callable[..., None], out: Path
) -> None:
    path = out / artifacts.PROVENANCE
    path.write_text(path.read_text().replace('"os-image.qcow2"', '"os-image.other"'))
    with pytest.raises(HarnessError, match=r"describes a different os-image\.qcow2"):
        tell()


def test_a_boot_test_of_the_very_same_disk_still_counts(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str
) -> None:
    boot(out)
    tell()
    assert QCOW2 in keys(aws, bucket)


def test_stages_that_are_made_from_each_other_are_no_endless_loop(out: Path) -> None:
    with told(out) as data:
        data["images"]["base"]["built_from"] = {"os-image": "0" * 64}
    booted.check(Build.load(out))


def test_s3_gets_a_checksum_of_what_was_hashed_to_compare_with_what_arrives(
    upload: Upload, aws: Any, bucket: str, tmp_path: Path
) -> None:
    sent = []
    for operation in ("PutObject", "UploadPart"):
        aws.meta.events.register(
            f"before-call.s3.{operation}",
            lambda params, **_: sent.append(params["headers"].get("x-amz-checksum-sha256")),
        )
    with Progress(live=False).task("upload") as task:
        s3.Bucket(bucket, aws, tmp_path / "uploads", 5 * MIB).upload(upload, task)
        s3.Bucket(bucket, aws, tmp_path / "uploads").upload(replace(upload, key="whole"), task)
    data = upload.source.read_bytes()
    parts = [data[: 5 * MIB], data[5 * MIB : 10 * MIB], data[10 * MIB :], data]
    digests = [base64.b64encode(hashlib.sha256(part).digest()).decode() for part in parts]
    assert sent == digests
