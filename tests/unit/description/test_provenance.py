from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts import arch
from scripts.build.manifest import Added, BuiltImage, Given, Manifest, UsedMkosi
from scripts.description import provenance
from scripts.mkosi.source import UPSTREAM
from scripts.origin import LOCAL, Builder, Checkout
from scripts.stages.artifacts import Artifact
from tests import builds

MKOSI = UsedMkosi("27.1", UPSTREAM, "of the patched package", {"0001-Add.patch": "bb"})

MANIFEST = Manifest(
    distribution="debian",
    release="trixie",
    arch=arch.X86_64,
    options=Given(mirror="https://mirror.example/"),
    pins={},
    mkosi=MKOSI,
    additions=Added(),
    images={"base": BuiltImage("k1", (), 1, ()), "os-image": BuiltImage("k2", (), 1, ())},
    artifacts=(),
)

CI = Builder(
    "https://github.com/owner/finch/.github/workflows/build-os.yaml@refs/heads/main",
    "https://github.com/owner/finch/actions/runs/42/attempts/1",
    "git+https://github.com/owner/finch",
)


def statement(source: Checkout, builder: Builder, manifest: Manifest = MANIFEST) -> dict[str, Any]:
    text = provenance.to_json(
        [Artifact("os-image.raw", 1, 0, "ff")], manifest, {"file /usr/bin/x": "dd"},
        {"pkg:deb/debian/bash@5.2": "ee"}, builds.PIN, source, builder, made=0,
    )  # fmt: skip
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_the_statement_is_about_the_artifacts_by_digest() -> None:
    made = statement(Checkout("c0ffee"), Builder())

    assert made["_type"] == "https://in-toto.io/Statement/v1"
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"
    assert made["subject"] == [{"name": "os-image.raw", "digest": {"sha512": "ff"}}]


def test_it_names_commit_mkosi_added_files_and_stage_keys() -> None:
    definition = statement(Checkout("c0ffee", ("noxfile.py",)), Builder())["predicate"][
        "buildDefinition"
    ]

    digests = [material["digest"] for material in definition["resolvedDependencies"]]
    assert digests == [
        {"gitCommit": "c0ffee"},
        {"sha256": builds.PIN.sha256},
        {"sha256": "bb"},
        {"sha256": "dd"},
        {"sha256": "ee"},
    ]
    assert definition["resolvedDependencies"][-1]["uri"] == "pkg:deb/debian/bash@5.2"
    assert definition["internalParameters"] == {
        "mkosi": {"version": "27.1", "source": UPSTREAM, "digest": "of the patched package"},
        "stage_keys": {"base": "k1", "os-image": "k2"},
        "modified": ["noxfile.py"],
    }
    assert definition["externalParameters"] == {
        "distribution": "debian",
        "release": "trixie",
        "arch": "x86_64",
        "options": {"mirror": "https://mirror.example/"},
    }


def test_upstream_s_mkosi_is_named_by_its_tarball_as_anybody_can_fetch_it() -> None:
    made = statement(Checkout("c0ffee"), Builder())
    materials = made["predicate"]["buildDefinition"]["resolvedDependencies"]

    assert {"name": "mkosi", "uri": builds.PIN.url, "digest": {"sha256": builds.PIN.sha256}} in (
        materials
    )
    assert {"name": "mkosi/0001-Add.patch", "digest": {"sha256": "bb"}} in materials


def test_a_mkosi_from_elsewhere_is_not_said_to_be_the_pinned_tarball() -> None:
    elsewhere = replace(MKOSI, source="the Debian archive (mkosi.deb)")
    made = statement(Checkout("c0ffee"), Builder(), replace(MANIFEST, mkosi=elsewhere))
    definition = made["predicate"]["buildDefinition"]

    assert builds.PIN.sha256 not in json.dumps(definition["resolvedDependencies"])
    assert definition["internalParameters"]["mkosi"]["source"] == "the Debian archive (mkosi.deb)"


def test_github_s_runner_is_named_by_workflow_and_run() -> None:
    predicate = statement(Checkout("c0ffee"), CI)["predicate"]

    assert predicate["runDetails"]["builder"]["id"] == CI.id
    assert predicate["runDetails"]["metadata"]["invocationId"] == CI.invocation
    assert predicate["buildDefinition"]["resolvedDependencies"][0]["uri"] == CI.repository


def test_a_person_s_machine_says_so_and_no_more() -> None:
    details = statement(Checkout(""), Builder.of({}))["predicate"]["runDetails"]

    assert details["builder"]["id"] == LOCAL
    assert "invocationId" not in details["metadata"]


def test_git_tells_the_commit_and_what_differs_from_it(tmp_path: Path) -> None:
    assert Checkout.of(tmp_path).reason == "it is not a git checkout"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    (tmp_path / "file ä").write_text("1")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)

    clean = Checkout.of(tmp_path)
    (tmp_path / "file ä").write_text("2")

    assert len(clean.commit) == 40
    assert clean.modified == ()
    assert Checkout.of(tmp_path) == Checkout(clean.commit, ("file ä",))
