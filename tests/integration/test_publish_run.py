"""Publishes one run from several jobs, and makes it the latest release in a job of its own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scripts.formats import oci_layout
from scripts.publish import promote as promotion
from scripts.publish import registry
from scripts.publish.registry import Registry
from scripts.publish.s3 import Bucket
from scripts.sessions import publish
from scripts.system.errors import HarnessError, UsageError
from scripts.system.process import run
from scripts.system.progress import Progress
from tests import services
from tests.publishing import MANIFEST, QCOW2, ROOTFS, RUN, SUMS, fetch, keys, tag

ARM_QCOW2 = QCOW2.replace("x86-64", "arm64")
ALL = {("darwin", "arm64"), ("darwin", "amd64"), ("windows", "amd64")}
X86 = ("--arch", "x86_64")
ARM = ("--arch", "aarch64")

# What finch-core's updaters do with a file: find the newest by its name, read the checksum beside
# it, and compare the file with that.
UPDATER = """
set -euo pipefail
list=$(curl --silent --fail "$BUCKET?list-type=2" | grep -o '<Key>[^<]*' | cut -c6-)
key=$(grep -E "$PATTERN" <<<"$list" | sort | tail -n 1)
sum=$(curl --silent --location --fail "$BUCKET/$key.sha512sum")
curl --silent --location --fail "$BUCKET/$key" >file
sha512sum file | cut -d ' ' -f 1 | grep -xq "^$sum$"
echo "$key $sum"
"""


@pytest.fixture
def base(s3_url: str, bucket: str, aws: Any) -> tuple[str, str]:
    """The option that says where people download from: the S3 server, which lets anybody read."""
    allowed = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"],
               "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}  # fmt: skip
    policy = {"Version": "2012-10-17", "Statement": [allowed]}
    aws.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    return "--base-url", f"{s3_url}/{bucket}"


@pytest.fixture
def job(tell: Callable[..., None], base: tuple[str, str], tmp_path: Path) -> Callable[..., None]:
    """Publishes as a job of CI does: with a folder of its own for what it keeps."""
    jobs = iter(range(99))

    def job(*more: str) -> None:
        work = tmp_path / f"job-{next(jobs)}"
        work.mkdir()
        (work / "programs").symlink_to((tmp_path / "work/programs").resolve())
        tell(*base, "--work", str(work), *more)

    return job


@pytest.fixture
def promote(
    root: Path, bucket: str, work: Path, base: tuple[str, str], other: Path
) -> Callable[..., None]:
    """Makes the run the latest release as the session does, without its builds."""
    assert other.exists()

    def promote(*more: str, **environ: str) -> None:
        argv = ["--distribution", "debian", "--run-id", RUN, "--bucket", bucket, *base,
                "--work", str(work), "--published", "--latest", *more]  # fmt: skip
        wanted = publish.parse_promotion(argv, environ, root=root)
        promotion.promote(wanted, Progress(live=False))

    return promote


def announced(aws: Any, bucket: str, key: str = MANIFEST) -> set[tuple[str, str]]:
    data = json.loads(fetch(aws, bucket, key))
    return {(one["platform"], one["arch"]) for one in data["artifacts"]}


def check_signed(aws: Any, bucket: str, cosign: list[Any], folder: Path, *names: str) -> None:
    """Verify signatures as people who download a release do."""
    for name in names:
        for part in (name, f"{name}.bundle"):
            (folder / part).write_bytes(fetch(aws, bucket, part))
        run([*cosign, "verify-blob", "--key", folder / "cosign.pub", "--insecure-ignore-tlog",
             "--bundle", folder / f"{name}.bundle", folder / name])  # fmt: skip


def updater(base: tuple[str, str], pattern: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {"BUCKET": base[1], "PATTERN": pattern, "PATH": "/usr/bin:/bin"}
    return subprocess.run(["bash", "-c", UPDATER], cwd=folder, env=environ, text=True,
                          capture_output=True, check=False)  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        (r"finch-[a-z0-9-]+-os-image-x86-64-[0-9]+\.qcow2$", QCOW2),
        (r"common/x86-64/finch-[a-z0-9-]+-rootfs-x86-64-[0-9]+\.tar\.gz$", ROOTFS),
    ],
)
def test_a_script_finds_a_file_by_its_name_and_its_digest_beside_it(
    job: Callable[..., None], base: tuple[str, str], aws: Any, bucket: str, tmp_path: Path,
    pattern: str, key: str,
) -> None:  # fmt: skip
    job()
    told = updater(base, pattern, tmp_path)
    assert told.returncode == 0, told.stderr
    assert told.stdout.split()[0] == key
    assert len(told.stdout.split()[1]) == 128

    aws.put_object(Bucket=bucket, Key=f"{key}.sha512sum", Body=f"{'0' * 128}\n".encode())
    assert updater(base, pattern, tmp_path).returncode == 1
    aws.delete_object(Bucket=bucket, Key=f"{key}.sha512sum")
    assert updater(base, pattern, tmp_path).returncode == 22


def test_each_file_comes_after_its_checksum_which_is_published_once(
    job: Callable[..., None], aws: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    upload = Bucket.upload

    def note(self: Bucket, one: Any, task: Any) -> None:
        sent.append(one.key)
        upload(self, one, task)

    monkeypatch.setattr(Bucket, "upload", note)
    job()
    files = [line.split("  ")[1] for line in fetch(aws, bucket, SUMS).decode().splitlines()]
    assert len(files) > 4
    assert sent == [one for key in files for one in (f"{key}.sha512sum", key)] + [SUMS, MANIFEST]

    sent.clear()
    job()
    assert sent == []
    aws.put_object(Bucket=bucket, Key=f"{QCOW2}.sha512sum", Body=b"other")
    with pytest.raises(HarnessError, match=f"{QCOW2}.sha512sum is already there, with other"):
        job()


def test_the_latest_release_serves_every_platform_unless_that_is_allowed(
    job: Callable[..., None], aws: Any, bucket: str
) -> None:
    with pytest.raises(HarnessError, match=r"the release would not serve darwin/arm64$"):
        job("--latest")
    assert keys(aws, bucket) == set()

    job("--latest", "--allow-partial")
    assert announced(aws, bucket, "manifest.json") == ALL - {("darwin", "arm64")}


def test_jobs_that_publish_one_architecture_each_make_one_release(
    job: Callable[..., None], other: Path, key: Path, cosign: list[Any], aws: Any, bucket: str,
    repository: str, skopeo: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert other.exists()
    job(*ARM, "--key", str(key))
    assert announced(aws, bucket) == {("darwin", "arm64")}
    with pytest.raises(HarnessError, match="would not serve darwin/amd64, windows/amd64"):
        job(*ARM, "--key", str(key), "--latest")
    job(*X86, "--key", str(key), "--latest")

    assert announced(aws, bucket) == ALL
    assert fetch(aws, bucket, "manifest.json") == fetch(aws, bucket, MANIFEST)
    place = Registry(skopeo, repository)
    for arch in ("x86-64", "arm64"):
        assert place.digest(f"latest-{arch}") == place.digest(tag(arch)) != ""
    images = json.loads(fetch(aws, bucket, MANIFEST))["container_images"]
    assert [one["image"] for one in images] == [
        f"{repository}:{tag('x86-64')}", f"{repository}:{tag('arm64')}"
    ]  # fmt: skip
    check_signed(aws, bucket, cosign, tmp_path, SUMS, MANIFEST, "manifest.json")
    listed = {line.split("  ")[1] for line in fetch(aws, bucket, SUMS).decode().splitlines()}
    assert listed == {
        name
        for name in keys(aws, bucket)
        if not name.endswith((".sha512sum", ".bundle", MANIFEST, "manifest.json", SUMS))
    }

    before = {name: fetch(aws, bucket, name) for name in keys(aws, bucket)}
    capsys.readouterr()
    for which in (ARM, X86, ()):
        job(*which, "--key", str(key), "--latest")
        assert "everything has already been published" in capsys.readouterr().out
    assert {name: fetch(aws, bucket, name) for name in keys(aws, bucket)} == before


@pytest.mark.parametrize("at", [f"{SUMS}.bundle", SUMS, f"{MANIFEST}.bundle", MANIFEST])
def test_of_two_jobs_that_publish_at_the_same_time_neither_loses_its_part(
    job: Callable[..., None], other: Path, key: Path, cosign: list[Any], aws: Any, bucket: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str,
) -> None:  # fmt: skip
    assert other.exists()
    upload = Bucket.upload
    late = [at]

    def overtaken(self: Bucket, one: Any, task: Any) -> None:
        if one.key in late:
            late.clear()
            job(*ARM, "--key", str(key))
        upload(self, one, task)

    monkeypatch.setattr(Bucket, "upload", overtaken)
    job(*X86, "--key", str(key))

    assert not late
    assert announced(aws, bucket) == ALL
    assert ARM_QCOW2.encode() in fetch(aws, bucket, SUMS)
    check_signed(aws, bucket, cosign, tmp_path, SUMS, MANIFEST)


def change(aws: Any, bucket: str, key: str, edit: Callable[[bytes], bytes]) -> None:
    aws.put_object(Bucket=bucket, Key=key, Body=edit(fetch(aws, bucket, key)))


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        (MANIFEST, lambda _: b"garbage"),
        (MANIFEST, lambda _: b"{}"),
        (MANIFEST, lambda text: text + b"\n"),
        (MANIFEST, lambda text: text.replace(b"-4711.qcow2", b"-4710.qcow2")),
        (MANIFEST, lambda text: text.replace(b"http://127", b"http://128")),
        (MANIFEST, lambda text: text.replace(b'"darwin"', b'"linux"')),
        (MANIFEST, lambda text: text.replace(b"-build-4711-", b"-build-4710-")),
        (MANIFEST, lambda text: text.replace(b'"sha256:', b'"sha512:')),
        (MANIFEST, lambda text: text.replace(b"sha512", b"sha513")),
        (SUMS, lambda text: text.replace(b"-4711.qcow2", b"-4710.qcow2")),
        (SUMS, lambda text: text + text),
        (SUMS, lambda text: text.replace(b"  ", b" ")),
        (SUMS, lambda text: text[:-1]),
        (SUMS, lambda _: b"\xff"),
    ],
)
def test_what_no_job_of_the_run_has_written_is_not_added_to(
    job: Callable[..., None], other: Path, aws: Any, bucket: str, name: str,
    edit: Callable[[bytes], bytes],
) -> None:  # fmt: skip
    assert other.exists()
    job(*ARM)
    change(aws, bucket, name, edit)
    published = {key: fetch(aws, bucket, key) for key in keys(aws, bucket)}
    with pytest.raises(HarnessError, match=f"{name} is not what the jobs of this run publish: "):
        job(*X86)
    assert {key: fetch(aws, bucket, key) for key in keys(aws, bucket)} == published


def test_the_files_of_other_jobs_are_read_before_they_are_vouched_for(
    job: Callable[..., None], other: Path, key: Path, aws: Any, bucket: str
) -> None:
    assert other.exists()
    job(*ARM, "--key", str(key))
    before = fetch(aws, bucket, ARM_QCOW2)
    for body in (b"evil", before + b" "):
        aws.put_object(Bucket=bucket, Key=ARM_QCOW2, Body=body)
        with pytest.raises(HarnessError, match=f"{ARM_QCOW2} is not the file that {SUMS} lists"):
            job(*X86, "--key", str(key))
    aws.delete_object(Bucket=bucket, Key=ARM_QCOW2)
    with pytest.raises(HarnessError, match=f"{ARM_QCOW2} is not the file that {SUMS} lists"):
        job(*X86, "--key", str(key))
    assert QCOW2 not in keys(aws, bucket)


def test_only_what_is_signed_by_the_same_is_added_to(
    job: Callable[..., None], other: Path, key: Path, cosign: list[Any], aws: Any, bucket: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    assert other.exists()
    job(*ARM)
    with pytest.raises(HarnessError, match=r"is published without a signature, so it cannot be"):
        job(*X86, "--key", str(key))
    for name in (SUMS, MANIFEST):
        (tmp_path / name).write_bytes(fetch(aws, bucket, name))
        (tmp_path / "others").mkdir(exist_ok=True)
    run([*cosign, "generate-key-pair"], cwd=tmp_path / "others", also="COSIGN_PASSWORD")
    for name in (SUMS, MANIFEST):
        run([*cosign, "sign-blob", "--yes", "--key", tmp_path / "others/cosign.key",
             "--tlog-upload=false", "--bundle", tmp_path / "bundle", tmp_path / name],
            also="COSIGN_PASSWORD")  # fmt: skip
        aws.put_object(Bucket=bucket, Key=f"{name}.bundle", Body=(tmp_path / "bundle").read_bytes())
    with pytest.raises(HarnessError, match=r"the published signature of .* was not made with"):
        job(*X86, "--key", str(key))
    with pytest.raises(UsageError, match="is signed, but this release would not be"):
        job(*X86)
    assert QCOW2 not in keys(aws, bucket)


def test_a_run_becomes_the_latest_release_without_its_builds(
    job: Callable[..., None], promote: Callable[..., None], out: Path, other: Path, key: Path,
    cosign: list[Any], aws: Any, bucket: str, tmp_path: Path, repository: str,
    skopeo: list[Any], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    job("--key", str(key))
    digests = {one["image"].rpartition(":")[2]: one["digest"]
               for one in json.loads(fetch(aws, bucket, MANIFEST))["container_images"]}  # fmt: skip
    for build in (out, other):
        (build / "manifest.json").unlink()
    promote("--key", str(key), "--repository", repository, "--expires-days", "9")

    assert announced(aws, bucket, "manifest.json") == ALL
    check_signed(aws, bucket, cosign, tmp_path, "manifest.json")
    told = json.loads(fetch(aws, bucket, "manifest.json"))
    form = "%Y-%m-%dT%H:%M:%SZ"
    dates = [
        datetime.strptime(told[name], form).replace(tzinfo=UTC)
        for name in ("published_at", "expires_at")
    ]
    assert dates[1] - dates[0] == timedelta(days=9)
    place = Registry(skopeo, repository)
    for arch in ("x86-64", "arm64"):
        assert place.digest(f"latest-{arch}") == digests[tag(arch)]

    before = fetch(aws, bucket, "manifest.json")
    promote("--key", str(key), "--repository", repository)
    assert "everything has already been published" in capsys.readouterr().out
    assert fetch(aws, bucket, "manifest.json") == before


@pytest.mark.parametrize("body", [b"evil", None])
def test_a_run_whose_files_cannot_be_downloaded_does_not_become_the_latest(
    job: Callable[..., None], promote: Callable[..., None], aws: Any, bucket: str,
    body: bytes | None,
) -> None:  # fmt: skip
    job()
    if body:
        aws.put_object(Bucket=bucket, Key=ROOTFS, Body=body)
        sentence = f"{ROOTFS} has the sha512 .* is announced"
    else:
        aws.delete_object(Bucket=bucket, Key=ROOTFS)
        sentence = f"{ROOTFS} cannot be downloaded: .*404"
    with pytest.raises(HarnessError, match=sentence):
        promote()
    assert "manifest.json" not in keys(aws, bucket)


def test_a_run_that_is_not_whole_or_not_there_does_not_become_the_latest(
    job: Callable[..., None], promote: Callable[..., None], aws: Any, bucket: str
) -> None:
    with pytest.raises(UsageError, match=f"run {RUN} has published no s3://{bucket}/{MANIFEST}"):
        promote()
    job(*X86)
    with pytest.raises(HarnessError, match="would not serve darwin/arm64"):
        promote()
    assert "manifest.json" not in keys(aws, bucket)
    promote("--allow-partial")
    assert announced(aws, bucket, "manifest.json") == ALL - {("darwin", "arm64")}


def test_a_run_becomes_the_latest_only_if_its_manifest_is_signed_and_valid(
    job: Callable[..., None], promote: Callable[..., None], key: Path, aws: Any, bucket: str
) -> None:
    job()
    with pytest.raises(HarnessError, match=f"{MANIFEST} is published without a signature"):
        promote("--key", str(key))
    change(aws, bucket, MANIFEST, lambda text: re.sub(rb'"20[0-9]{2}-', b'"2020-', text))
    with pytest.raises(
        HarnessError, match=r"not what the jobs of this run publish: it (expired|would)"
    ):
        promote()
    assert "manifest.json" not in keys(aws, bucket)


def test_a_run_does_not_take_the_place_of_a_newer_one_that_finch_core_published(
    job: Callable[..., None], promote: Callable[..., None], aws: Any, bucket: str
) -> None:
    url = "https://deps.runfinch.com/finch-al2023-os-image-arm64-32273812529.qcow2"
    theirs = {"artifacts": [{"platform": "darwin", "arch": "arm64", "url": url, "digest": "…"}]}
    aws.put_object(Bucket=bucket, Key="manifest.json", Body=json.dumps(theirs).encode())
    job()
    for how, argv in ((promote, []), (job, ["--latest"])):
        with pytest.raises(HarnessError, match="belongs to run 32273812529, which is newer"):
            how(*argv)
    assert json.loads(fetch(aws, bucket, "manifest.json")) == theirs


def test_the_images_of_a_run_keep_the_tag_of_their_first_day(
    job: Callable[..., None], out: Path, repository: str, skopeo: list[Any], aws: Any, bucket: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    first = f"2026.1.9-build-{RUN}-x86-64-with-kernel"
    place = Registry(skopeo, repository)
    place.copy(out / "container-with-kernel", "container-with-kernel", first)
    job()

    assert place.tags() == [first]
    [image] = json.loads(fetch(aws, bucket, MANIFEST))["container_images"]
    assert image["image"] == f"{repository}:{first}"
    place.delete(first)  # the manifest still names it
    job()
    assert place.tags() == [first]
    job()
    assert "everything has already been published" in capsys.readouterr().out


def test_the_moving_tag_follows_the_latest_release_and_never_goes_back(
    job: Callable[..., None], repository: str, skopeo: list[Any], tmp_path: Path
) -> None:
    place = Registry(skopeo, repository)
    job()
    assert place.digest("latest-x86-64") == ""
    job("--latest", "--allow-partial")
    digest = place.digest(tag())
    assert place.digest("latest-x86-64") == digest

    layout = tmp_path / "newer/container-with-kernel"
    oci_layout.write_placeholder(layout)
    newer = tag(run="5000")
    place.copy(layout, "container-with-kernel", newer)
    place.copy(layout, "container-with-kernel", "latest-x86-64")
    with pytest.raises(HarnessError, match=r"latest-x86-64 belongs to run 5000, which is newer"):
        job("--latest", "--allow-partial")
    assert place.digest("latest-x86-64") == place.digest(newer)


def test_a_moving_tag_moves_in_a_registry_whose_tags_are_immutable(
    tell: Callable[..., None], base: tuple[str, str], repository: str, skopeo: list[Any],
    tmp_path: Path, aws: Any, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert aws
    host, _, name = repository.partition("/")
    behind = Registry(skopeo, repository)
    older = tmp_path / "older/container-with-kernel"
    oci_layout.write_placeholder(older)
    for one in (tag(run="4000"), "latest-x86-64"):
        behind.copy(older, "container-with-kernel", one)
    with services.immutable(host) as front, services.ecr(services.Tags(behind)) as ecr:
        monkeypatch.setattr(registry, "opened", services.as_ecr(skopeo, ecr))
        tell(*base, "--repository", f"{front}/{name}", "--latest", "--allow-partial")

    assert behind.digest("latest-x86-64") == behind.digest(tag())
    assert behind.digest(tag(run="4000")) not in {"", behind.digest(tag())}


def test_a_registry_that_moves_and_deletes_no_tag_is_named(
    tell: Callable[..., None], repository: str, skopeo: list[Any], tmp_path: Path
) -> None:
    host, _, name = repository.partition("/")
    older = tmp_path / "older/container-with-kernel"
    oci_layout.write_placeholder(older)
    for one in (tag(run="4000"), "latest-x86-64"):
        Registry(skopeo, repository).copy(older, "container-with-kernel", one)
    with (
        services.immutable(host) as front,
        pytest.raises(HarnessError, match=r"does not let its tags move: .*immutable") as caught,
    ):
        tell("--repository", f"{front}/{name}", "--latest", "--allow-partial")
    assert "latest-*" in caught.value.hint


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--published"], "--published needs --latest and --bucket"),
        (["--published", "--latest", "--repository", "a.b/c"], "needs --latest and --bucket"),
        (["--published", "--latest", "--arch", "x86_64"], "so --arch makes no sense"),
        (["--published", "--latest", "--allow-unbooted"], "so --allow-unbooted makes no sense"),
        (["--published", "--latest", "--release", "../../x"], "'../../x' is not the name of a"),
    ],
)
def test_options_that_make_no_sense_for_a_published_run_are_refused(
    argv: list[str], expected: str
) -> None:
    if "--repository" not in argv:
        argv = [*argv, "--bucket", "b"] if "--latest" in argv else [*argv, "--repository", "a.b/c"]
    with pytest.raises(UsageError, match=expected):
        publish.parse_promotion([*argv, "--run-id", "1"], {})


def test_the_workflow_beside_one_s_own_is_the_one_that_has_signed_a_run(root: Path) -> None:
    own = "runfinch/finch-core/.github/workflows/publish-os-image-manifest.yaml@refs/heads/main"
    argv = ["--published", "--latest", "--bucket", "b", "--run-id", "1"]
    wanted = publish.parse_promotion(argv, {"GITHUB_WORKFLOW_REF": own}, root=root)
    builds = own.replace("publish-os-image-manifest", "build-os")
    assert wanted.signed_by == f"https://github.com/{builds}"
    assert wanted.signing.identity == f"https://github.com/{own}"
    named = publish.parse_promotion([*argv, "--signed-by", "https://a.b/c"], {}, root=root)
    assert named.signed_by == "https://a.b/c"
