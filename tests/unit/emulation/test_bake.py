"""The command line that bakes emulators, and the errors before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.build.manifest import Given
from scripts.catalog import ROOT
from scripts.doctor import doctor, machine
from scripts.emulation import bake
from scripts.emulation.emulators import TABLE, EmulationTable
from scripts.packages.buildx import Cache
from scripts.packages.engine import Engine
from scripts.system.errors import HarnessError, MachineError, UsageError
from scripts.system.progress import Progress
from tests.unit.packages.given import opts

ENGINE = Engine("Docker", "26.1.5", "1.45", "unix:///run/docker.sock", "default", True, True)

COMMIT = "e29e7d72c9672c8c8bf846655ab149b50e1a62bd"


def command(folder: Path, *argv: str, **environ: str) -> list[str]:
    given = opts(folder, "--emulators", "bake", *argv, **environ)
    cache = Cache.of(given, ENGINE, bake.NAME)
    return bake.command(EmulationTable.read(ROOT / TABLE).bake, given, ENGINE, cache)


def settings(line: list[str]) -> dict[str, str]:
    """What the options --set have, by name."""
    found = [line[at + 1] for at, word in enumerate(line) if word == "--set"]
    assert all(text.startswith("*.") for text in found)
    return dict(text.removeprefix("*.").split("=", 1) for text in found)


def test_finch_s_target_is_baked_from_its_repository_at_its_commit(tmp_path: Path) -> None:
    line = command(tmp_path)
    assert line[:5] == ["docker", "buildx", "bake", "--builder", "default"]
    assert line[-2:] == [f"https://github.com/tonistiigi/binfmt.git#{COMMIT}", "desktop"]


def test_the_builder_is_the_one_that_the_environment_names(tmp_path: Path) -> None:
    line = command(tmp_path, BUILDX_BUILDER="mine")
    assert line[line.index("--builder") + 1] == "mine"


def test_files_for_the_target_come_out_and_the_bake_file_s_caches_are_not_asked(
    tmp_path: Path,
) -> None:
    assert settings(command(tmp_path, "--arch", "aarch64")) == {
        "platform": "linux/arm64",
        "output": "type=local,dest=tree",
        "cache-from": "",
        "cache-to": "",
    }


def test_layers_are_kept_in_the_registry_of_package_builds_under_finch_s_name(
    tmp_path: Path,
) -> None:
    given = settings(command(tmp_path, "--arch", "aarch64", ECR_CACHE_REPO="ecr.test/finch/cache"))
    where = "type=registry,ref=ecr.test/finch/cache:qemu-build-aarch64"
    assert given["cache-from"] == where
    assert given["cache-to"] == (
        f"{where},mode=max,image-manifest=true,oci-mediatypes=true,ignore-error=true"
    )


def test_a_layer_cache_in_a_folder_may_be_written_there(tmp_path: Path) -> None:
    line = command(tmp_path, "--layer-cache", f"{tmp_path}/layers")
    assert line[:3] == ["env", "BUILDX_BAKE_ENTITLEMENTS_FS=0", "docker"]
    assert f"dest={tmp_path}/layers/qemu-build-x86_64" in settings(line)["cache-to"]
    assert "env" not in command(tmp_path, "--layer-cache", "ecr.test/finch/cache")


def test_proxies_reach_the_build_without_their_passwords(tmp_path: Path) -> None:
    line = command(tmp_path, https_proxy="http://me:MARK@proxy", NO_PROXY="a,b")
    assert settings(line)["args.https_proxy"] == "http://proxy"
    assert settings(line)["args.NO_PROXY"] == "a,b"
    assert "MARK" not in " ".join(line)


def test_offline_says_that_they_have_not_been_built(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="for x86_64 have not been built yet, and --offline"):
        bake.build(opts(tmp_path, "--emulators", "bake", "--offline"), Progress(live=False))


def test_without_an_engine_one_is_told_how_to_start_it_or_to_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho buildx\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    with pytest.raises(MachineError, match="the emulators cannot be built: no Docker") as caught:
        bake.build(opts(tmp_path, "--emulators", "bake"), Progress(live=False))

    assert "systemctl start docker" in caught.value.hint
    assert "--emulators debian" in caught.value.hint
    here = machine.look_closely(tmp_path, {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    for check in (doctor.docker, doctor.buildx):
        assert "--emulators bake needs it" in check(here).helps


def test_a_source_of_emulators_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--emulators: invalid choice"):
        opts(tmp_path, "--emulators", "ubuntu")


def test_the_manifest_names_the_source_unless_it_is_the_default(tmp_path: Path) -> None:
    assert Given.of(opts(tmp_path, "--emulators", "bake")).to_json()["emulators"] == "bake"
    assert "emulators" not in Given.of(opts(tmp_path, "--emulators", "debian")).to_json()
