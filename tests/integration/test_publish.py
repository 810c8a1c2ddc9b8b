"""Publishes to a real registry and an S3 server on loopback, and fetches the release back."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts import catalog
from scripts.build import manifest
from scripts.build.manifest import Given, Manifest
from scripts.catalog import ROOT
from scripts.publish import registry, release, s3, signing
from scripts.publish.s3 import Bucket
from scripts.sessions import publish
from scripts.stages import artifacts
from scripts.system import locks
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import run
from scripts.system.progress import Progress
from tests import builds, services
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
    fetch,
    keys,
    open_uploads,
    tag,
    told,
)


def test_files_come_back_under_finch_s_names_with_their_checksums(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str, tmp_path: Path
) -> None:
    tell()

    assert {QCOW2, ROOTFS, SUMS, MANIFEST} <= keys(aws, bucket)
    for key in keys(aws, bucket):
        (tmp_path / "back" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / key).write_bytes(fetch(aws, bucket, key))
    subprocess.run(
        ["sha512sum", "--quiet", "--strict", "--check", SUMS], cwd=tmp_path / "back", check=True
    )
    manifest = json.loads(fetch(aws, bucket, MANIFEST))
    assert {(one["platform"], one["arch"]) for one in manifest["artifacts"]} == {
        ("darwin", "amd64"),
        ("windows", "amd64"),
    }
    qcow2 = next(one for one in manifest["artifacts"] if one["platform"] == "darwin")
    assert qcow2["url"] == f"https://{bucket}.s3.amazonaws.com/{QCOW2}"
    assert qcow2["digest"] == "sha512:" + file_digest(out / "os-image.qcow2", "sha512")
    assert manifest["published_at"] < manifest["expires_at"]


def test_the_image_comes_back_from_the_registry_with_the_layout_s_digest(
    tell: Callable[..., None], repository: str, out: Path, skopeo: list[Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], aws: Any, bucket: str,
) -> None:  # fmt: skip
    tell()

    index = json.loads((out / "container-with-kernel/index.json").read_text())
    digest = index["manifests"][0]["digest"]
    assert f"{repository}:{tag()} is {digest}" in capsys.readouterr().out
    back = tmp_path / "back"
    run(
        [*skopeo, "--insecure-policy", "copy", "--preserve-digests", "--src-tls-verify=false",
         f"docker://{repository}@{digest}", f"oci:{back}:it"]
    )  # fmt: skip
    for path in (out / "container-with-kernel/blobs/sha256").iterdir():
        assert (back / "blobs/sha256" / path.name).read_bytes() == path.read_bytes()
    manifest = json.loads(fetch(aws, bucket, MANIFEST))
    assert manifest["container_images"] == [
        {"arch": "amd64", "image": f"{repository}:{tag()}", "digest": digest}
    ]


def test_the_tar_is_taken_as_an_oci_archive_and_as_docker_s(out: Path, skopeo: list[Any]) -> None:
    tar = out / "container-with-kernel.tar"
    for kind in ("oci-archive", "docker-archive"):
        told = json.loads(run([*skopeo, "inspect", f"{kind}:{tar}"]).stdout)
        assert (told["Architecture"], told["Os"], len(told["Layers"])) == ("amd64", "linux", 1)


def test_manifest_and_checksums_are_signed_so_that_cosign_verifies_them(
    tell: Callable[..., None], key: Path, cosign: list[Any], aws: Any, bucket: str, tmp_path: Path
) -> None:
    tell("--key", str(key), "--latest", "--allow-partial")

    for name in (SUMS, MANIFEST, "manifest.json"):
        for part in (name, f"{name}.bundle"):
            (tmp_path / part).write_bytes(fetch(aws, bucket, part))
        verify = [*cosign, "verify-blob", "--key", tmp_path / "cosign.pub",
                  "--insecure-ignore-tlog", "--bundle", tmp_path / f"{name}.bundle"]  # fmt: skip
        run([*verify, tmp_path / name])
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
        assert run([*verify, tmp_path / name], check=False).returncode != 0
    assert fetch(aws, bucket, "manifest.json") == fetch(aws, bucket, MANIFEST)


def test_a_wrong_password_of_the_key_is_one_sentence(
    tell: Callable[..., None], key: Path, aws: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "wrong")
    with pytest.raises(HarnessError, match=r"SHA512SUMS cannot be signed: .*decrypt"):
        tell("--key", str(key))
    assert keys(aws, bucket) == set()


def test_the_same_again_does_nothing(
    tell: Callable[..., None], key: Path, aws: Any, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell("--key", str(key), "--latest", "--allow-partial")
    before = {key: fetch(aws, bucket, key) for key in keys(aws, bucket)}
    dates = {one["Key"]: one["LastModified"]
             for one in aws.list_objects_v2(Bucket=bucket)["Contents"]}  # fmt: skip
    tell("--key", str(key), "--latest", "--allow-partial")

    assert "everything has already been published" in capsys.readouterr().out
    assert {key: fetch(aws, bucket, key) for key in keys(aws, bucket)} == before
    assert dates == {
        one["Key"]: one["LastModified"] for one in aws.list_objects_v2(Bucket=bucket)["Contents"]
    }


def test_other_bytes_under_a_published_name_are_refused_before_anything_goes_out(
    tell: Callable[..., None], aws: Any, bucket: str, repository: str, skopeo: list[Any]
) -> None:
    aws.put_object(Bucket=bucket, Key=ROOTFS, Body=b"other")
    with pytest.raises(HarnessError, match=rf"s3://{bucket}/{ROOTFS} is already there, with other"):
        tell()

    assert keys(aws, bucket) == {ROOTFS}
    assert registry.Registry(skopeo, repository).digest(tag()) == ""


@pytest.mark.parametrize("name", [ROOTFS, SUMS, MANIFEST])
def test_nothing_is_signed_where_other_bytes_are_published(
    tell: Callable[..., None], aws: Any, bucket: str, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, name: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(signing.Signer, "sign", lambda *_: pytest.fail("it was signed"))
    (tmp_path / "key").touch()
    aws.put_object(Bucket=bucket, Key=name, Body=b"other")
    with pytest.raises(HarnessError, match=name):
        tell("--key", str(tmp_path / "key"))


def test_an_unsigned_release_takes_the_place_of_no_signed_one(
    tell: Callable[..., None], key: Path, aws: Any, bucket: str
) -> None:
    tell("--key", str(key), "--latest", "--allow-partial")
    published = keys(aws, bucket)
    with pytest.raises(UsageError, match=r"manifest\.json is signed, but this release would not"):
        tell("--run-id", "4712", "--latest", "--allow-partial")
    assert keys(aws, bucket) == published


def test_what_makes_a_published_release_the_latest_was_not_published_already(
    tell: Callable[..., None], aws: Any, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell()
    tell("--latest", "--allow-partial")
    assert "everything has already been published" not in capsys.readouterr().out
    assert fetch(aws, bucket, "manifest.json") == fetch(aws, bucket, MANIFEST)


def test_the_latest_release_is_never_an_older_one_than_it_was(
    tell: Callable[..., None], aws: Any, bucket: str
) -> None:
    tell("--latest", "--allow-partial")
    published = keys(aws, bucket)
    with pytest.raises(HarnessError, match="belongs to run 4711, which is newer than 999"):
        tell("--run-id", "999", "--latest", "--allow-partial")
    assert keys(aws, bucket) == published
    tell("--run-id", "10000", "--latest", "--allow-partial")
    assert b"-10000." in fetch(aws, bucket, "manifest.json")


def test_nothing_is_published_while_a_build_runs(aws: Any, bucket: str, tmp_path: Path) -> None:
    argv = ["--bucket", bucket, "--run-id", RUN, "--work", str(tmp_path / "work")]
    with (
        locks.only_build(tmp_path / "work"),
        pytest.raises(HarnessError, match="another build is running in this checkout"),
    ):
        publish.main([*argv, "--out", str(tmp_path)])
    assert keys(aws, bucket) == set()


def test_another_image_under_a_published_tag_is_refused(
    tell: Callable[..., None], out: Path, root: Path, aws: Any, bucket: str
) -> None:
    tell()
    published = keys(aws, bucket)
    shutil.rmtree(out / "container-with-kernel")
    builds.write_layout(out / "container-with-kernel", b"")
    builds.write_manifest(out, IMAGES, *OUTPUTS, root=root)
    builds.write_provenance(out)
    with pytest.raises(HarnessError, match="is already there, but it is another image"):
        tell()
    assert keys(aws, bucket) == published


def test_a_dry_run_tells_the_plan_without_credentials_or_a_server(
    tell: Callable[..., None], bucket: str, repository: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    tell("--dry-run")

    told = capsys.readouterr().out
    for name in (QCOW2, ROOTFS, SUMS, MANIFEST):
        assert f"s3://{bucket}/{name}" in told
    assert f"{repository}:{tag()}" in told
    assert "nothing is signed" in told
    monkeypatch.undo()


def test_an_upload_whose_connection_was_cut_goes_on_where_it_broke(
    upload: release.Upload, aws: Any, s3_url: str, bucket: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with services.cutting(s3_url, 7 * MIB) as url, Progress(live=False).task("upload") as task:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        broken = Bucket.open(bucket, tmp_path / "uploads")
        with pytest.raises(HarnessError, match=f"the connection to the bucket {bucket} failed"):
            s3.Bucket(bucket, broken.client, tmp_path / "uploads", 5 * MIB).upload(upload, task)
    assert keys(aws, bucket) == set()
    [begun] = open_uploads(aws, bucket)
    arrived = aws.list_parts(Bucket=bucket, Key=upload.key, UploadId=begun["UploadId"])["Parts"]
    assert [part["PartNumber"] for part in arrived] == [1]

    sent: list[int] = []
    aws.meta.events.register(
        "before-call.s3.UploadPart", lambda params, **_: sent.append(params["url_path"])
    )
    with Progress(live=False).task("upload") as task:
        s3.Bucket(bucket, aws, tmp_path / "uploads", 5 * MIB).upload(upload, task)
    assert len(sent) == 2
    assert fetch(aws, bucket, upload.key) == upload.source.read_bytes()
    assert open_uploads(aws, bucket) == []
    assert s3.Bucket(bucket, aws, tmp_path / "uploads").check(upload)


def test_an_upload_that_another_machine_left_half_done_is_removed(
    upload: release.Upload, aws: Any, bucket: str, tmp_path: Path
) -> None:
    left = aws.create_multipart_upload(Bucket=bucket, Key=upload.key)
    aws.upload_part(Bucket=bucket, Key=upload.key, UploadId=left["UploadId"], PartNumber=1,
                    Body=b"x" * 5 * MIB)  # fmt: skip
    with Progress(live=False).task("upload") as task:
        s3.Bucket(bucket, aws, tmp_path / "uploads", 5 * MIB).upload(upload, task)

    assert open_uploads(aws, bucket) == []
    assert fetch(aws, bucket, upload.key) == upload.source.read_bytes()


# Uploads the file whole, and in parts.
sizes = pytest.mark.parametrize("part", [s3.PART, 5 * MIB])


@sizes
def test_what_another_published_meanwhile_is_not_written_over(
    upload: release.Upload, aws: Any, bucket: str, tmp_path: Path, part: int
) -> None:
    aws.put_object(Bucket=bucket, Key=upload.key, Body=b"other")
    with (
        pytest.raises(HarnessError, match="is already there, with other bytes"),
        Progress(live=False).task("upload") as task,
    ):
        s3.Bucket(bucket, aws, tmp_path / "uploads", part).upload(upload, task)
    assert fetch(aws, bucket, upload.key) == b"other"
    assert open_uploads(aws, bucket) == []
    assert list((tmp_path / "uploads").rglob("*.json")) == []


@sizes
def test_the_same_bytes_that_another_published_meanwhile_are_as_good(
    upload: release.Upload, aws: Any, bucket: str, tmp_path: Path, part: int
) -> None:
    with Progress(live=False).task("upload") as task:
        for machine in ("other", "own"):
            s3.Bucket(bucket, aws, tmp_path / machine, part).upload(upload, task)
    assert open_uploads(aws, bucket) == []
    assert list((tmp_path / "own").rglob("*.json")) == []


def test_an_upload_that_s3_has_finished_though_its_answer_was_lost_is_finished(
    upload: release.Upload, aws: Any, bucket: str, tmp_path: Path
) -> None:
    def answer_the_repetition(**_: Any) -> tuple[Any, dict[str, Any]]:
        aws.put_object(
            Bucket=bucket,
            Key=upload.key,
            Body=upload.source.read_bytes(),
            Metadata={s3.SHA512: upload.sha512},
        )
        return SimpleNamespace(status_code=404), {"Error": {"Code": "NoSuchUpload"}}

    aws.meta.events.register("before-call.s3.CompleteMultipartUpload", answer_the_repetition)
    with Progress(live=False).task("upload") as task:
        s3.Bucket(bucket, aws, tmp_path / "uploads", 5 * MIB).upload(upload, task)
    assert list((tmp_path / "uploads").rglob("*.json")) == []


def test_bytes_of_another_length_are_others_whatever_their_metadata_say(
    upload: release.Upload, aws: Any, bucket: str, tmp_path: Path
) -> None:
    aws.put_object(Bucket=bucket, Key=upload.key, Body=b"half", Metadata={s3.SHA512: upload.sha512})
    with pytest.raises(HarnessError, match="is already there, with other bytes"):
        s3.Bucket(bucket, aws, tmp_path / "uploads").check(upload)


def test_without_credentials_nothing_happens_and_the_hint_tells_where_they_go(
    tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UsageError, match="there are no AWS credentials") as caught:
        tell()
    assert "AWS_PROFILE" in caught.value.hint


def test_a_bucket_that_is_not_there_is_named(tell: Callable[..., None]) -> None:
    with pytest.raises(UsageError, match="the bucket no-such-bucket does not exist"):
        tell("--bucket", "no-such-bucket")


def test_a_repository_that_is_not_there_is_named_and_no_file_goes_out(
    tell: Callable[..., None], aws: Any, bucket: str
) -> None:
    with (
        services.refusing(404, "NAME_UNKNOWN") as host,
        pytest.raises(UsageError, match=f"there is no repository {host}/finch"),
    ):
        tell("--repository", f"{host}/finch")
    assert keys(aws, bucket) == set()


def test_a_registry_that_wants_a_password_is_named(
    tell: Callable[..., None], aws: Any, bucket: str
) -> None:
    with (
        services.refusing(401, "UNAUTHORIZED") as host,
        pytest.raises(UsageError, match=f"{host} denies access"),
    ):
        tell("--repository", f"{host}/finch")
    assert keys(aws, bucket) == set()


def test_what_is_no_finished_build_is_refused(tell: Callable[..., None], out: Path) -> None:
    (out / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"there is no build at .*manifest\.json"):
        tell()


def test_what_was_not_booted_is_refused_unless_that_is_allowed(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str
) -> None:
    shutil.rmtree(out / "boot-test")
    with pytest.raises(HarnessError, match="has not been booted"):
        tell()
    assert keys(aws, bucket) == set()
    tell("--allow-unbooted")
    assert QCOW2 in keys(aws, bucket)


def test_what_failed_its_boot_test_is_refused_with_the_reason(
    tell: Callable[..., None], out: Path
) -> None:
    boot(out, passed=False, reason="kernel panic")
    with pytest.raises(HarnessError, match="failed its boot test: kernel panic"):
        tell()


def test_a_boot_test_of_another_image_does_not_count(tell: Callable[..., None], out: Path) -> None:
    result = json.loads((out / artifacts.BOOT_TEST).read_text())
    (out / artifacts.BOOT_TEST).write_text(json.dumps(result | {"disk": "0" * 128}))
    with pytest.raises(HarnessError, match="tested a different os-image"):
        tell()


def test_what_the_checkout_would_build_otherwise_is_stale(
    tell: Callable[..., None], root: Path
) -> None:
    path = root / "mkosi.images/base/mkosi.conf"
    path.write_text(path.read_text() + "# changed\n")
    with pytest.raises(HarnessError, match=r"base in .* is stale: .*base/mkosi\.conf changed"):
        tell()


@pytest.mark.parametrize("name", ["mkosi/pin.toml", "binfmt/targets.toml"])
def test_a_pin_that_is_another_by_now_makes_a_build_stale(
    tell: Callable[..., None], root: Path, name: str
) -> None:
    (root / name).write_text((root / name).read_text() + "# changed\n")
    with pytest.raises(HarnessError, match=f"is stale: {name} changed"):
        tell()


def test_what_amazon_linux_is_made_of_is_pinned_in_more_files() -> None:
    pinned = (
        manifest.pins(ROOT, catalog.DISTRIBUTIONS["amazonlinux"]).keys()
        - manifest.pins(ROOT, catalog.DISTRIBUTIONS["debian"]).keys()
    )
    assert {
        "third-party/pins.toml",
        "al2023-package-build/Dockerfile",
        "al2023-package-build/packages.toml",
        "al2023-package-build/patches/cloud-init/0001-Drop-the-patch-that-breaks-mounts.patch",
    } <= pinned


def test_a_build_without_a_patch_that_was_added_is_stale(
    tell: Callable[..., None], root: Path
) -> None:
    (root / "mkosi/0009-New.patch").write_text("new")
    with pytest.raises(HarnessError, match=r"is stale: mkosi/0009-New\.patch changed"):
        tell()


def test_a_build_with_a_patch_that_is_gone_is_stale(tell: Callable[..., None], root: Path) -> None:
    (root / "mkosi/0001-Add-support-for-Amazon-Linux.patch").unlink()
    with pytest.raises(HarnessError, match=r"is stale: mkosi/0001-Add-support\S+ changed"):
        tell()


def test_debian_s_mkosi_may_lack_the_patch_that_takes_a_full_source_tree(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str
) -> None:
    with told(out) as data:
        del data["mkosi"]["patches"]["0002-Test-Amazon-Linux.patch"]
    tell()
    assert QCOW2 in keys(aws, bucket)


def test_another_release_than_the_pinned_one_is_published_only_where_it_is_named(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str
) -> None:
    with told(out) as data:
        data["release"] = "bookworm"
    with pytest.raises(HarnessError, match="was built from release bookworm, but trixie is to be"):
        tell()
    tell("--release", "bookworm")
    assert QCOW2.replace("trixie", "bookworm") in keys(aws, bucket)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("signing_key", "ab" * 32),
        ("third_party_pins", "ab" * 32),
        ("packages", "ab" * 32),
        ("without_packages", True),
        ("allow_missing", ["pass"]),
    ],
)
def test_what_was_built_otherwise_than_others_would_is_refused_unless_that_is_allowed(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str, name: str, value: Any
) -> None:
    with told(out) as data:
        data["options"] = {name: value}
    with pytest.raises(HarnessError, match=f"was built with --{name.replace('_', '-')}"):
        tell()
    tell("--allow-altered")
    assert QCOW2 in keys(aws, bucket)


def test_a_key_that_is_amazon_s_own_alters_nothing(out: Path) -> None:
    pins = manifest.pins(ROOT, catalog.DISTRIBUTIONS["amazonlinux"])
    key = pins["al2023-package-build/keys/RPM-GPG-KEY-amazon-linux-2023"]
    told = replace(Manifest.read(out), pins=pins, options=Given(signing_key=key))
    release._check_unaltered(release.Build(out, told))


def test_packages_may_come_from_any_mirror(
    tell: Callable[..., None], out: Path, aws: Any, bucket: str
) -> None:
    with told(out) as data:
        data["options"] = {"mirror": "https://mirror.example/", "third_party_mirror": "…"}
    tell()
    assert QCOW2 in keys(aws, bucket)


def test_an_image_that_still_stands_on_an_older_base_is_stale(
    tell: Callable[..., None], out: Path
) -> None:
    with told(out) as data:
        images = data["images"]
        images["base"]["digest"] = images["base-with-kernel"]["built_from"]["base"] = "0" * 64
    with pytest.raises(HarnessError, match=r"rootfs in .* is stale: base has been rebuilt since"):
        tell()


def test_a_provenance_of_other_artifacts_is_refused(
    tell: Callable[..., None], out: Path, root: Path, aws: Any, bucket: str
) -> None:
    (out / "container-with-kernel.tar").write_bytes(b"built anew")
    builds.write_manifest(out, IMAGES, *OUTPUTS, root=root)
    with pytest.raises(
        HarnessError, match=r"json describes a different container-with-kernel\.tar"
    ):
        tell()
    assert keys(aws, bucket) == set()


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"subject": [{"name": "os-image"}]}'])
def test_what_is_no_provenance_is_refused(tell: Callable[..., None], out: Path, text: str) -> None:
    (out / artifacts.PROVENANCE).write_text(text)
    with pytest.raises(HarnessError, match=r"provenance\.intoto\.json is not a provenance"):
        tell()


def test_a_file_that_somebody_wrote_to_is_refused(tell: Callable[..., None], out: Path) -> None:
    (out / "os-image.qcow2").write_bytes(b"tampered")
    with pytest.raises(HarnessError, match=r"os-image\.qcow2 has been changed since it was built"):
        tell()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--run-id", "1"], "nowhere to publish"),
        (["--bucket", "b"], "the run ID is missing"),
        (["--bucket", "b", "--run-id", "v1"], "must be a number"),
        (["--bucket", "b", "--run-id", "007"], "without leading zeros, not '007'"),
        (["--bucket", "b", "--run-id", "0"], "without leading zeros, not '0'"),
        (["--repository", "https://a.b/c", "--run-id", "1"], "does not name a registry"),
        (["--repository", "a.b/c:latest", "--run-id", "1"], "does not name a registry"),
        (["--repository", f"a.b/c@sha256:{'0' * 64}", "--run-id", "1"], "does not name a registry"),
        (["--repository", "a.b/C", "--run-id", "1"], "does not name a registry"),
        (["--repository", "a.b/../c", "--run-id", "1"], "does not name a registry"),
        (["--bucket", "b", "--run-id", "1", "--distribution", "arch"], "unknown distribution"),
        (["--bucket", "b", "--run-id", "1", "--arch", "mips"], "unknown architecture"),
        (["--bucket", "b", "--run-id", "1", "--key", "/no/key"], "there is no key"),
        (["--bucket", "b", "--run-id", "1", "--expires-days", "0"], "must be 1 to 183, not 0"),
        (["--bucket", "b", "--run-id", "1", "--expires-days", "184"], "must be 1 to 183, not 184"),
        (["--bucket", "b", "--run-id", "1", "--allow-partial"], "--allow-partial is for --latest"),
        (["--repository", "finch", "--run-id", "1"], "does not name a registry"),
        (["--repository", "owner/finch", "--run-id", "1"], "does not name a registry"),
        (["--repository", "ghcr.io/", "--run-id", "1"], "does not name a registry"),
    ],
)
def test_options_that_make_no_sense_are_refused(argv: list[str], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        publish.parse(argv, {})


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:5000", "[::1]:5000", "registry:5000", "ghcr.io"]
)
def test_a_registry_is_told_by_its_dot_its_port_or_localhost(host: str, root: Path) -> None:
    argv = ["--repository", f"{host}/finch/os", "--run-id", "1"]
    assert publish.parse(argv, {}, root=root).repository == f"{host}/finch/os"


@pytest.mark.parametrize(
    "said",
    [
        "reading manifest 1 in localhost/a: manifest unknown",
        "reading manifest 1 in localhost/a: name unknown: repository name not known to registry",
        "reading manifest 1 in 1.dkr.ecr.us-east-1.amazonaws.com/a: manifest unknown: Requested "
        "image not found",
        "initiating layer upload to /v2/a/blobs/uploads/ in 1.dkr.ecr.us-east-1.amazonaws.com: "
        "name unknown: The repository with name 'a' does not exist in the registry with id '1'",
        "reading manifest 1 in harbor.example/a: repository a/b not found",
    ],
)
def test_a_registry_that_has_no_such_thing_is_understood(said: str) -> None:
    assert registry.ABSENT.search(said)


@pytest.mark.parametrize(
    "said",
    [
        'error getting credentials - err: exec: "docker-credential-ecr-login": executable file not '
        "found in $PATH, out: ``",
        "reading manifest 1 in registry.example/repository: StatusCode: 404, <h1>Not Found</h1>",
    ],
)
def test_whatever_else_is_not_found_is_no_answer_of_a_registry(said: str) -> None:
    assert not registry.ABSENT.search(said)


def test_a_credential_helper_that_is_not_installed_is_named(
    skopeo: list[Any], tmp_path: Path
) -> None:
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"credHelpers": {"registry.example": "not-there"}}))
    place = registry.Registry(skopeo, "registry.example/finch", path)
    with pytest.raises(HarnessError, match="docker-credential-not-there"):
        place.digest("tag")


def test_ecr_s_password_is_handed_over_in_a_file_that_is_gone_afterwards(aws: Any) -> None:
    assert aws
    host = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    with registry.opened(["skopeo"], f"{host}/finch") as place:
        assert place.authentication
        assert place.authentication.stat().st_mode & 0o777 == 0o600
        [auth] = json.loads(place.authentication.read_text())["auths"].items()
    assert auth[0] == host
    assert base64.b64decode(auth[1]["auth"]).startswith(b"AWS:")
    assert not place.authentication.exists()


def test_another_registry_gets_the_user_s_own_password() -> None:
    with registry.opened(["skopeo"], "ghcr.io/owner/finch") as place:
        assert place.authentication is None
