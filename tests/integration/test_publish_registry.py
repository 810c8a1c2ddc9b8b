"""Lists, reads and deletes tags in a real registry, and in ECR's API as a server on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.publish import registry
from scripts.publish.registry import Registry
from scripts.system.errors import HarnessError, UsageError
from tests import builds, services
from tests.publishing import WORK

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture
def place(skopeo: list[Any], repository: str) -> Registry:
    return Registry(skopeo, repository)


def push(place: Registry, folder: Path, layer: bytes, *tags: str) -> str:
    """Push an image with that layer under tags, and return its digest."""
    layout = folder / f"image-{layer.decode()}"
    builds.write_layout(layout, layer)
    for tag in tags:
        place.copy(layout, "container-with-kernel", tag)
    return place.digest(tags[0])


def test_a_repository_that_nobody_has_pushed_to_has_no_tags(place: Registry) -> None:
    assert place.tags() == []
    assert place.digest("any") == ""


def test_tags_are_listed_and_each_has_the_digest_of_its_image(
    place: Registry, tmp_path: Path
) -> None:
    one = push(place, tmp_path, b"1", "b", "a")
    two = push(place, tmp_path, b"2", "c")

    assert place.tags() == ["a", "b", "c"]
    assert [place.digest(tag) for tag in "abc"] == [one, one, two]
    assert one != two


def test_deleting_a_tag_leaves_the_image_under_its_other_tags(
    place: Registry, tmp_path: Path
) -> None:
    digest = push(place, tmp_path, b"1", "latest", "old")
    other = push(place, tmp_path, b"2", "other")

    place.delete("old")

    assert place.tags() == ["latest", "other"]
    assert (place.digest("latest"), place.digest("other")) == (digest, other)


def test_deleting_the_last_tag_deletes_the_image(place: Registry, tmp_path: Path) -> None:
    digest = push(place, tmp_path, b"1", "only")
    push(place, tmp_path, b"2", "other")

    place.delete("only")

    assert place.tags() == ["other"]
    assert not services.has_manifest(place.host, place.name, digest)


def test_deleting_a_tag_that_is_not_there_does_nothing(place: Registry, tmp_path: Path) -> None:
    push(place, tmp_path, b"1", "only")
    place.delete("never")
    assert place.tags() == ["only"]


def test_a_registry_that_deletes_nothing_says_so(skopeo: list[Any]) -> None:
    with services.refusing(405, "UNSUPPORTED") as host:
        place = Registry(skopeo, f"{host}/finch")
        with pytest.raises(HarnessError, match=f"{host}/finch cannot be used"):
            place.delete("tag")


def test_a_tag_stays_where_it_was_in_a_registry_that_deletes_no_image(
    skopeo: list[Any], tmp_path: Path
) -> None:
    with services.docker_registry(tmp_path / "registry", WORK, deletes=False) as host:
        place = Registry(skopeo, f"{host}/finch")
        digest = push(place, tmp_path, b"1", "one", "two")
        with pytest.raises(HarnessError, match=f"{host}/finch cannot be used"):
            place.delete("one")
        assert {tag: place.digest(tag) for tag in place.tags()} == {"one": digest, "two": digest}


def test_ecr_removes_one_tag_by_its_own_api(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert aws
    with services.ecr({"latest-arm64": "sha256:" + "1" * 64, "other": "sha256:" + "1" * 64}) as ecr:
        monkeypatch.setenv("AWS_ENDPOINT_URL", ecr.url)
        with registry.opened(["no-skopeo"], f"{HOST}/finch/os") as place:
            place.delete("latest-arm64")
            place.delete("never-there")
    assert ecr.repository == ("123456789012", "finch/os")
    assert ecr.tags
    assert [*ecr.tags] == ["other"]


def test_ecr_s_refusal_to_delete_is_one_sentence(aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert aws
    with services.ecr({"tag": "sha256:" + "1" * 64}) as ecr:
        monkeypatch.setenv("AWS_ENDPOINT_URL", ecr.url)
        ecr.failure = ("ImageReferencedByManifestList", "an index refers to it")
        with (
            registry.opened(["no-skopeo"], f"{HOST}/finch/os") as place,
            pytest.raises(HarnessError, match="finch/os:tag cannot be deleted: an index refers"),
        ):
            place.delete("tag")


def test_an_ecr_repository_that_is_not_there_is_named(
    aws: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert aws
    with services.ecr(None) as ecr:
        monkeypatch.setenv("AWS_ENDPOINT_URL", ecr.url)
        with (
            registry.opened(["no-skopeo"], f"{HOST}/finch/os") as place,
            pytest.raises(UsageError, match=r"the repository .*/finch/os does not exist"),
        ):
            place.delete("tag")
