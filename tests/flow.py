"""Takes a release from finished builds to Finch: we publish it, and the consumer fetches it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import consumer
from tests.consumer import Consumer


@dataclass(frozen=True)
class Publisher:
    """Runs the sessions of the checkout root, as people do, for a release of the builds in out.

    options are more ones for publishing these builds. work is what is kept between runs, deps the
    folder of finch-core's files, and key the private key.
    """

    root: Path
    out: Path
    work: Path
    deps: Path
    bucket: str
    repository: str
    base_url: str
    key: Path
    options: tuple[str, ...] = ()

    def run(self, session: str, *options: object) -> subprocess.CompletedProcess[str]:
        """Run a session in a process of its own."""
        command = [sys.executable, "-m", f"scripts.sessions.{session}", *map(str, options)]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)

    def publish(self, run: str, *options: object) -> None:
        """Publish, and sign what is published with the key."""
        told = self.run(
            "publish", "--run-id", run, "--bucket", self.bucket, "--base-url", self.base_url,
            "--key", self.key, "--work", self.work, *options,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr

    def publish_builds(self, run: str, *options: object) -> None:
        """Publish the builds."""
        self.publish(run, "--out", self.out, *self.options, *options)

    def write_deps(self, run: str, *options: object) -> subprocess.CompletedProcess[str]:
        """Write the two files, or compare them."""
        return self.run(
            "deps", "--run-id", run, "--base-url", self.base_url, "--into", self.deps, *options
        )

    def consumer(self, cosign: list[Any], folder: Path) -> Consumer:
        """Return the other side of it, which keeps what it downloads in folder."""
        folder.mkdir()
        host, _, name = self.repository.partition("/")
        return Consumer(
            self.base_url, self.base_url, f"http://{host}/v2/{name}",
            [os.fspath(word) for word in cosign], self.key.with_name("cosign.pub"), folder,
        )  # fmt: skip


def open_to_all(aws: Any, bucket: str) -> None:
    """Let anyone download from bucket, as the CDN in front of finch-core's does."""
    arn = f"arn:aws:s3:::{bucket}/*"
    allowed = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": arn}
    policy = {"Version": "2012-10-17", "Statement": [allowed]}
    aws.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def release(publisher: Publisher, finch: Consumer, run: str) -> None:
    """Take run all the way to Finch, and check each step from the other side."""
    publisher.publish_builds(run, "--repository", publisher.repository)
    consumer.check_files(finch, run)
    assert not finch.has("manifest.json")

    written = publisher.write_deps(run)
    assert written.returncode == 0, written.stderr
    golden = consumer.expected_confs(finch, run, publisher.out / "amazonlinux")
    consumer.check_confs(finch, publisher.deps, golden)

    # As in CI after the merge, where no builds are at hand.
    compared = publisher.write_deps(run, "--check")
    assert compared.returncode == 0, compared.stderr
    publisher.publish(run, "--latest", "--published", "--repository", publisher.repository)
    consumer.check_manifest(finch, publisher.deps)
    consumer.check_forgery(finch)


def clean(publisher: Publisher, finch: Consumer, run: str) -> None:
    """Clean the registry of an older release, and check that nothing else has gone."""
    older = int(run) - 1
    tags = consumer.image_tags(finch, run)
    gone = {f"2025.1.2-build-{older}-{machine}-with-kernel" for machine in tags}
    for machine, tag in tags.items():
        assert finch.digest(f"latest-{machine}") == finch.digest(tag)
        finch.push_variant(tag, f"2025.1.2-build-{older}-{machine}-with-kernel")
        finch.push_variant(tag, f"{machine}-with-kernel-{older}")
    before = finch.tags()
    cleaned = publisher.run(
        "clean_registry", "--repository", publisher.repository, "--deps", publisher.deps,
        "--work", publisher.work, "--keep", 1,
    )  # fmt: skip
    assert cleaned.returncode == 0, cleaned.stderr
    assert finch.tags() == {tag: digest for tag, digest in before.items() if tag not in gone}
