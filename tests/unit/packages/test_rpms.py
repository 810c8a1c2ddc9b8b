"""Packages of our own: their build context, and when they are built."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from scripts import options
from scripts.catalog import ROOT
from scripts.options import Options
from scripts.packages import recipes, rpms
from scripts.packages.rpms import RpmPlan
from scripts.system.errors import HarnessError, UsageError
from tests.unit.packages.given import RELEASE, opts, place


def planned(folder: Path, *argv: str) -> RpmPlan:
    plan = rpms.plan(opts(folder, *argv), place(folder))
    assert plan
    return plan


OTHER = """
[package.other]
source = "amazonlinux"
nevra = "other"
patches = []
suffix = "own1"
rpms = ["other"]
"""


def other_pins(folder: Path, text: str) -> Options:
    """Options that name the project's pins, copied with their files, but for text."""
    copy = folder / recipes.FOLDER
    shutil.copytree(ROOT / recipes.FOLDER, copy)
    (copy / "packages.toml").write_text(text)
    return opts(folder, "--packages", f"{copy}/packages.toml")


def test_each_stage_of_the_dockerfile_takes_its_package_and_each_package_its_stage(
    tmp_path: Path,
) -> None:
    own = (ROOT / options.PACKAGES).read_text()
    more = f"{own}\n{OTHER}"
    given = other_pins(tmp_path / "more", more)
    with pytest.raises(
        UsageError,
        match=r"cloud-init, fuse-sshfs, other, but .*/Dockerfile builds cloud-init, fuse",
    ) as caught:
        rpms.plan(given, place(tmp_path))
    assert "a stage of its name" in caught.value.hint
    given = other_pins(tmp_path / "fewer", own[: own.index("[package.cloud-init]")] + "[package]")
    with pytest.raises(UsageError, match=r"the packages \(none\), but .*/Dockerfile builds"):
        rpms.plan(given, place(tmp_path))


def test_an_image_without_its_digest_is_refused_with_the_file_to_mend(tmp_path: Path) -> None:
    own = (ROOT / options.PACKAGES).read_text()
    given = other_pins(tmp_path, re.sub(r'digest = ".*"', 'digest = ""', own))
    with pytest.raises(UsageError, match=r"amazonlinux:2023, .* not pinned by its digest") as said:
        rpms.plan(given, place(tmp_path))
    assert f"into [base-image] of {given.packages.recipes}" in said.value.hint
    assert rpms.plan(opts(tmp_path, "--without-packages"), place(tmp_path)) is None


def test_the_context_names_mirror_release_and_key(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    text = (plan.context / "repositories/amazonlinux.repo").read_text()
    release = f"https://cdn.amazonlinux.com/al2023/core/mirrors/{RELEASE}"
    assert f"mirrorlist={release}/x86_64/mirror.list\n" in text
    assert "\ngpgcheck=1\nrepo_gpgcheck=1\n" in text.replace(
        "gpgkey=file:///build/repositories/key\n", ""
    )
    source = (plan.context / "packages/cloud-init/source/source.repo").read_text()
    assert f"mirrorlist={release}/SRPMS/mirror.list\n" in source
    key = (plan.context / "packages/cloud-init/source/key").read_text()
    assert "BEGIN PGP PUBLIC KEY BLOCK" in key
    for recipe in plan.pins.recipes:
        nevra = plan.context / "packages" / recipe.name / "nevra"
        assert nevra.read_text() == f"{recipe.nevra}\n"


def test_the_metadata_of_a_release_from_before_amazon_signed_it_is_taken_as_it_is(
    tmp_path: Path,
) -> None:
    plan = rpms.plan(opts(tmp_path), place(tmp_path, release="2023.10.20260202"))
    assert plan
    text = (plan.context / "repositories/amazonlinux.repo").read_text()
    assert "\ngpgcheck=1\n" in text
    assert "repo_gpgcheck" not in text


def test_another_release_has_another_version_of_amazons_sources(tmp_path: Path) -> None:
    own = (ROOT / options.PACKAGES).read_text()
    exact = 'nevra = "cloud-init-22.2.2-1.amzn2023.1.16"'
    given = other_pins(tmp_path, re.sub(r'nevra = "cloud-init.*"', exact, own))
    for release, nevra in (
        (RELEASE, "cloud-init-22.2.2-1.amzn2023.1.16\n"),
        ("2023.9.20251208", "cloud-init\n"),
    ):
        plan = rpms.plan(given, place(tmp_path, release=release))
        assert plan
        assert (plan.context / "packages/cloud-init/nevra").read_text() == nevra


def test_a_source_of_the_user_s_replaces_amazon_s_for_its_source_rpms(tmp_path: Path) -> None:
    pins = (ROOT / options.PACKAGES).read_text().replace("[source.fedora]", "[source.amazonlinux]")
    given = other_pins(tmp_path, pins.replace('"fedora"', '"amazonlinux"'))
    plan = rpms.plan(given, place(tmp_path, "http://mirror.invalid/tree"))
    assert plan
    source = (plan.context / "packages/cloud-init/source/source.repo").read_text()
    assert "mirror.invalid" not in source
    text = (plan.context / "repositories/amazonlinux.repo").read_text()
    assert f"mirrorlist=http://mirror.invalid/tree/core/mirrors/{RELEASE}/x86_64" in text


def test_the_key_covers_all_that_a_build_sees(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("another key")
    first = planned(tmp_path).stage.key
    assert planned(tmp_path).stage.key == first
    other = rpms.plan(opts(tmp_path), place(tmp_path, "http://127.0.0.1:1/al2023"))
    assert other
    assert other.stage.key != first
    assert planned(tmp_path, "--signing-key", str(key)).stage.key != first


def test_what_is_built_of_the_same_is_not_built_again(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert plan.reason == "not built yet"
    fresh = plan.finished.with_name("rpms.new")
    fresh.mkdir()
    for name in ("cloud-init-22.2.2-1.amzn2023.finch1.noarch", "fuse-sshfs-3.7.3-12.finch1.x86_64"):
        (fresh / f"{name}.rpm").write_text(name)
    rpms._keep(fresh, plan, 1.0)
    assert planned(tmp_path).reason == ""
    assert planned(tmp_path, "--force").reason == "--force"
    added = rpms.build(planned(tmp_path), None)  # type: ignore[arg-type]
    assert added.packages == ("cloud-init", "fuse-sshfs")
    assert [path.name[:10] for path in added.rpms] == ["cloud-init", "fuse-sshfs"]
    added.rpms[1].write_text("something else")
    assert planned(tmp_path).reason.endswith("is gone or was written to")


def test_a_build_that_comes_without_a_package_leaves_the_earlier_ones(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    plan.finished.mkdir()
    (plan.finished / "old.rpm").touch()
    fresh = plan.finished.with_name("rpms.new")
    fresh.mkdir()
    (fresh / "cloud-init-22.2.2-1.amzn2023.finch1.noarch.rpm").touch()
    with pytest.raises(HarnessError, match="did not produce fuse-sshfs"):
        rpms._keep(fresh, plan, 1.0)
    assert (plan.finished / "old.rpm").exists()


@pytest.mark.parametrize("argv", [("--without-packages",), ("--distribution", "debian")])
def test_some_builds_need_none(tmp_path: Path, argv: tuple[str, ...]) -> None:
    assert rpms.plan(opts(tmp_path, *argv), place(tmp_path)) is None


def test_offline_nothing_is_built(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="needs the network"):
        rpms.with_engine(planned(tmp_path, "--offline"))


MARKED = "http://me:MARK@mirror.test/al2023"


def test_a_password_is_in_the_secrets_of_a_build_and_not_in_its_context(tmp_path: Path) -> None:
    proxy = {"https_proxy": "http://you:PROXYMARK@proxy.test:3128"}
    plan = rpms.plan(opts(tmp_path, **proxy), place(tmp_path, MARKED))
    assert plan
    context = [path.read_text() for path in plan.context.rglob("*") if path.is_file()]
    assert "MARK" not in "".join(context)
    assert "MARK" not in repr(plan)
    secrets = {path.name: path for path in rpms.secrets(plan.context).iterdir()}
    assert {path.stat().st_mode & 0o777 for path in secrets.values()} == {0o600}
    of_mirror, of_proxy = (
        "username=me\npassword=MARK\n",
        "proxy_username=you\nproxy_password=PROXYMARK",
    )
    for name in ("binary", "cloud-init"):
        assert of_mirror in secrets[name].read_text()
        assert of_proxy in secrets[name].read_text()
    # It has a server of its own.
    assert "\npassword=" not in secrets["fuse-sshfs"].read_text()
    assert of_proxy in secrets["fuse-sshfs"].read_text()


def test_a_secret_is_the_file_in_the_context_and_credentials(tmp_path: Path) -> None:
    plan = rpms.plan(opts(tmp_path), place(tmp_path, MARKED))
    assert plan
    for name, public in (
        ("binary", "repositories/amazonlinux.repo"),
        ("cloud-init", "packages/cloud-init/source/source.repo"),
        ("fuse-sshfs", "packages/fuse-sshfs/source/source.repo"),
    ):
        text = (rpms.secrets(plan.context) / name).read_text()
        assert text.startswith((plan.context / public).read_text())


def test_another_password_builds_nothing_again(tmp_path: Path) -> None:
    keys = set()
    for mirror in (MARKED, MARKED.replace("MARK", "OTHER"), MARKED.replace("me:MARK@", "")):
        plan = rpms.plan(opts(tmp_path), place(tmp_path, mirror))
        assert plan
        keys.add(plan.stage.key)
    assert len(keys) == 1


def test_only_lists_that_need_a_password_are_looked_at(tmp_path: Path) -> None:
    plain = rpms.plan(opts(tmp_path), place(tmp_path, MARKED.replace("me:MARK@", "")))
    marked = rpms.plan(opts(tmp_path), place(tmp_path, MARKED))
    assert plain
    assert marked
    assert plain.lists == ()
    assert [str(url).rpartition(f"{RELEASE}/")[2] for url in marked.lists] == [
        "x86_64/mirror.list",
        "SRPMS/mirror.list",
    ]


def test_each_step_that_needs_a_secret_mounts_it_and_no_other_step(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    text = (plan.context / "Dockerfile").read_text().replace("\\\n", " ")
    mounted = set(re.findall(r"--mount=type=secret,id=([\w-]+),target=\S+,required=true", text))
    assert mounted == {path.name for path in rpms.secrets(plan.context).iterdir()}
    building = [line for line in text.splitlines() if line.endswith("build-package build")]
    assert building == ["RUN /build/build-package build"] * 2
