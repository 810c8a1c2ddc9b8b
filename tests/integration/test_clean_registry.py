"""Cleans a real registry, and ECR as a server on loopback, of older images of releases."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from scripts.publish import cleaning
from scripts.publish.cleaning import Named
from scripts.publish.registry import Registry
from scripts.sessions import clean_registry
from scripts.system.errors import HarnessError, UsageError
from scripts.system.progress import Progress, Task
from tests import builds, services

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


def tag(run: int, arch: str = "arm64") -> str:
    return f"2026.9.30-build-{run}-{arch}-with-kernel"


@pytest.fixture
def place(skopeo: list[Any], repository: str) -> Registry:
    return Registry(skopeo, repository)


@pytest.fixture
def push(place: Registry, tmp_path: Path) -> Callable[..., str]:
    """Pushes an image that has a number in it under tags, and returns its digest."""

    def push(number: int, *tags: str) -> str:
        layout = tmp_path / f"image-{number}"
        builds.write_layout(layout, str(number).encode())
        for one in tags:
            place.copy(layout, "container-with-kernel", one)
        return place.digest(tags[0])

    return push


@pytest.fixture
def deps(tmp_path: Path) -> Path:
    folder = tmp_path / "deps"
    folder.mkdir()
    (folder / "full-os.conf").write_text("X86_64_ARTIFACT=finch-al2023-os-image-x86-64-2.qcow2\n")
    return folder


@pytest.fixture
def clean(repository: str, deps: Path, work: Path) -> Callable[..., None]:
    """Runs the session."""
    return lambda *more: clean_registry.main(
        ["--repository", repository, "--deps", os.fspath(deps), "--work", os.fspath(work), *more]
    )


def test_only_older_images_that_nothing_names_are_deleted(
    clean: Callable[..., None], push: Callable[..., str], place: Registry,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    gone = push(1, tag(1))
    push(2, tag(2))  # named in deps
    push(3, tag(3), "latest-arm64")
    push(4, tag(4))
    push(5, tag(5))
    push(6, tag(1, "x86-64"))
    push(7, "arm64-with-kernel-1", "somebody-s")
    before = {one: place.digest(one) for one in place.tags()}

    clean("--keep", "1")

    left = {one: place.digest(one) for one in place.tags()}
    assert {*before} - {*left} == {tag(1), tag(4)}
    assert left.items() <= before.items()
    assert not services.has_manifest(place.host, place.name, gone)
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines() if "-build-" in line]
    assert {row[0]: row[-1] for row in rows} == {
        tag(5): "stays: among the newest",
        tag(4): "deleted",
        tag(3): "stays: also called latest-arm64",
        tag(2): "stays: named in deps",
        tag(1): "deleted",
        tag(1, "x86-64"): "stays: among the newest",
    }


def test_a_dry_run_deletes_nothing(
    clean: Callable[..., None], push: Callable[..., str], place: Registry,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for run in (3, 4):
        push(run, tag(run))
    clean("--keep", "1", "--dry-run")

    assert place.tags() == [tag(3), tag(4)]
    assert capsys.readouterr().out.count("would be deleted") == 1


def test_a_week_of_releases_stays_without_being_asked(
    clean: Callable[..., None], push: Callable[..., str], place: Registry
) -> None:
    for run in range(10, 18):
        push(run, tag(run))
    clean()
    assert place.tags() == [tag(run) for run in range(11, 18)]


def test_an_empty_repository_is_clean(
    clean: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    clean()
    assert "0 images of releases" in capsys.readouterr().out


def test_what_is_no_image_for_this_machine_is_no_obstacle(
    clean: Callable[..., None], push: Callable[..., str], place: Registry
) -> None:
    """A layer cache and an index of another architecture have digests, too."""
    for run in (3, 4):
        push(run, tag(run))
    for name, platform in {"cache": {}, "other": {"architecture": "s390x", "os": "linux"}}.items():
        entry = manifest_of(place, tag(4)) | ({"platform": platform} if platform else {})
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                 "manifests": [entry]}  # fmt: skip
        put(place, name, index)

    clean("--keep", "1")

    assert place.tags() == [tag(4), "cache", "other"]


def manifest_of(place: Registry, name: str) -> dict[str, Any]:
    """The entry for an image in an index."""
    media = "application/vnd.oci.image.manifest.v1+json"
    answer = requests.get(
        f"http://{place.host}/v2/{place.name}/manifests/{name}",
        headers={"Accept": media}, timeout=60,
    )  # fmt: skip
    return {"mediaType": media, "digest": answer.headers["Docker-Content-Digest"],
            "size": len(answer.content)}  # fmt: skip


def put(place: Registry, name: str, index: dict[str, Any]) -> None:
    requests.put(
        f"http://{place.host}/v2/{place.name}/manifests/{name}",
        headers={"Content-Type": index["mediaType"]}, data=json.dumps(index), timeout=60,
    ).raise_for_status()  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "0"], "--keep must be 1 or more, not 0"),
        (["--repository", "finch"], "--repository 'finch' does not name a registry"),
        (["--repository", ""], "--repository is missing"),
        (["--deps", "/nonexistent"], r"/nonexistent has no full-os\.conf or rootfs\.conf"),
        (["--deps", "/etc"], r"/etc has no full-os\.conf or rootfs\.conf"),
    ],
)
def test_wrong_usage_deletes_nothing(
    clean: Callable[..., None], push: Callable[..., str], place: Registry,
    options: list[str], message: str,
) -> None:  # fmt: skip
    for run in range(1, 10):
        push(run, tag(run))
    with pytest.raises(UsageError, match=message):
        clean(*options)
    assert len(place.tags()) == 9


@pytest.fixture
def task() -> Iterator[Task]:
    with Progress(live=False).task("registry") as task:
        yield task


def test_ecr_is_cleaned_by_its_own_api(
    aws: Any, monkeypatch: pytest.MonkeyPatch, clean: Callable[..., None]
) -> None:
    assert aws
    one, two, three = (f"sha256:{number * 64}" for number in "123")
    tags = {"latest-arm64": one, tag(4): three, tag(3): one, tag(2): two, tag(1): two}
    with services.ecr(dict(tags)) as ecr:
        monkeypatch.setenv("AWS_ENDPOINT_URL", ecr.url)
        clean("--repository", f"{HOST}/finch/os", "--keep", "1")
    # deps names run 2, whose image run 1 has built again.
    assert ecr.tags == tags
    with services.ecr({**tags, tag(1): "sha256:" + "4" * 64}) as ecr:
        monkeypatch.setenv("AWS_ENDPOINT_URL", ecr.url)
        clean("--repository", f"{HOST}/finch/os", "--keep", "1")
    assert ecr.tags == {name: tags[name] for name in tags if name != tag(1)}
    assert ecr.repository == ("123456789012", "finch/os")


def test_an_ecr_repository_that_is_not_there_is_named(
    aws: Any, monkeypatch: pytest.MonkeyPatch, clean: Callable[..., None]
) -> None:
    assert aws
    with services.ecr(None) as ecr:
        monkeypatch.setenv("AWS_ENDPOINT_URL", ecr.url)
        with pytest.raises(UsageError, match=r"the repository .*/finch/os does not exist"):
            clean("--repository", f"{HOST}/finch/os")


def test_what_it_needs_is_downloaded_without_a_registry(tmp_path: Path, work: Path) -> None:
    clean_registry.main(["--prepare", "--work", os.fspath(work)])
    assert [path for path in (work / "programs").iterdir() if path.name.startswith("skopeo-")]
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("code", ["AccessDeniedException", "ExpiredTokenException"])
def test_a_role_that_may_not_ask_ecr_learns_what_it_lacks(
    aws: Any, monkeypatch: pytest.MonkeyPatch, clean: Callable[..., None], code: str
) -> None:
    assert aws
    with services.ecr({}) as ecr:
        monkeypatch.setenv("AWS_ENDPOINT_URL", ecr.url)
        monkeypatch.setattr(ecr, "answer", lambda *_: (400, {"__type": code, "message": "no"}))
        with pytest.raises(HarnessError, match="access to ECR is denied") as caught:
            clean("--repository", f"{HOST}/finch/os")
    assert "ecr:BatchDeleteImage" in caught.value.hint


def test_a_tag_that_goes_with_another_is_told(
    push: Callable[..., str], place: Registry, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in (3, 4):
        push(run, tag(run))
    push(5, "somebody-s")
    delete = Registry.delete

    def delete_more(self: Registry, name: str) -> None:
        delete(self, name)
        delete(self, "somebody-s")

    monkeypatch.setattr(Registry, "delete", delete_more)
    nothing = Named(frozenset(), frozenset(), "")
    with pytest.raises(HarnessError, match="somebody-s should have stayed, but it has gone"):
        cleaning.clean(place, nothing, 1, task, dry_run=False)
