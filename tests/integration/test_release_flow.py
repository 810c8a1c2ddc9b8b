"""Takes a release from finished builds to Finch's manifest, with the other side's own means."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import arch
from scripts.catalog import ROOT
from tests import consumer, flow, releases
from tests.consumer import Consumer
from tests.flow import Publisher

RUN = "25872286438"
OLDER = "25872286437"


def imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_consumer_knows_nothing_of_the_harness() -> None:
    found = {name.partition(".")[0] for name in imports(Path(consumer.__file__).read_text())}
    assert "subprocess" in found
    assert found <= sys.stdlib_module_names


@pytest.fixture
def publisher(
    aws: Any, s3_url: str, bucket: str, repository: str, qemu_img: list[Any], work: Path,
    key: Path, tmp_path: Path,
) -> Publisher:  # fmt: skip
    flow.open_to_all(aws, bucket)
    out = tmp_path / "out"
    for machine in arch.ARCHES:
        releases.write_build(out, machine, ROOT, qemu_img)
    base_url = f"{s3_url}/{bucket}"
    return Publisher(ROOT, out, work, tmp_path / "deps", bucket, repository, base_url, key)


@pytest.fixture
def finch(publisher: Publisher, cosign: list[Any], tmp_path: Path) -> Consumer:
    return publisher.consumer(cosign, tmp_path / "finch")


def test_a_release_goes_all_the_way_to_finch(publisher: Publisher, finch: Consumer) -> None:
    flow.release(publisher, finch, RUN)
    flow.clean(publisher, finch, RUN)


def test_updaters_find_the_newest_of_several_releases(
    publisher: Publisher, finch: Consumer
) -> None:
    for run in (RUN, OLDER):
        publisher.publish_builds(run)
    consumer.check_files(finch, RUN)


@pytest.mark.parametrize("machine", arch.NAMES)
def test_half_a_release_never_reaches_finch(
    publisher: Publisher, finch: Consumer, machine: str
) -> None:
    publisher.publish_builds(RUN, "--arch", machine)

    refused = publisher.write_deps(RUN)

    assert refused.returncode == 1
    assert "is not whole: it lacks the download" in refused.stderr
    assert not publisher.deps.exists()
    assert not finch.has("manifest.json")


def test_what_was_spoilt_after_it_was_published_never_reaches_finch(
    publisher: Publisher, finch: Consumer, aws: Any
) -> None:
    publisher.publish_builds(RUN)
    key = finch.newest(consumer.OS_IMAGES["AARCH64"])
    aws.put_object(Bucket=publisher.bucket, Key=key, Body=b"spoilt")

    refused = publisher.write_deps(RUN)

    assert refused.returncode == 1
    assert f"{key} is not the published file" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not publisher.deps.exists()
