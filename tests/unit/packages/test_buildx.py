"""buildx's command line, its layer cache, and what is made of its output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scripts.packages import buildx, recipes
from scripts.packages.buildx import Cache, Failure, Steps
from scripts.packages.engine import Engine
from scripts.system.process import CommandError
from scripts.system.progress import Progress
from scripts.system.url import Url
from tests.unit.packages.given import opts

ENGINE = Engine("Docker", "26.1.5", "1.45", "unix:///run/docker.sock", "default", True, True)


def command(folder: Path, *argv: str, engine: Engine = ENGINE, **environ: str) -> list[str]:
    given = opts(folder, *argv, **environ)
    pins = recipes.read(given.packages.recipes)
    cache = Cache.of(given, engine, "package-build")
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    return buildx.build_command(given, pins, folder / "c", folder / "a, b", engine, cache, secrets)


def value(line: list[str], option: str) -> str:
    return line[line.index(option) + 1]


def test_the_platform_is_exactly_the_targets(tmp_path: Path) -> None:
    assert value(command(tmp_path), "--platform") == "linux/amd64"
    assert value(command(tmp_path, "--arch", "aarch64"), "--platform") == "linux/arm64"


def test_the_engines_own_buildkit_is_used_unless_a_builder_is_named(tmp_path: Path) -> None:
    assert value(command(tmp_path), "--builder") == "default"
    assert value(command(tmp_path, BUILDX_BUILDER="mine"), "--builder") == "mine"


def test_rpms_come_out_as_files_wherever_that_is(tmp_path: Path) -> None:
    assert value(command(tmp_path), "--output") == f'type=local,"dest={tmp_path}/a, b"'


def test_the_network_is_the_machines_where_a_mirror_is_on_it(tmp_path: Path) -> None:
    assert "--network" not in command(tmp_path)
    line = command(tmp_path, "--mirror", "http://127.0.0.1:8023/al2023")
    assert value(line, "--network") == "host"
    assert value(command(tmp_path, https_proxy="localhost:3128"), "--network") == "host"
    assert "--network" not in command(tmp_path, https_proxy="proxy:3128", no_proxy="localhost")


def test_proxies_reach_the_build_without_their_passwords(tmp_path: Path) -> None:
    line = command(tmp_path, http_proxy="http://me:MARK@proxy", NO_PROXY="localhost")
    given = [line[at + 1] for at, word in enumerate(line) if word == "--build-arg"]
    assert given[1:] == ["http_proxy=http://proxy", "NO_PROXY=localhost"]
    assert "MARK" not in " ".join(line)


def test_the_cache_in_a_registry_has_the_form_that_ecr_takes(tmp_path: Path) -> None:
    line = command(tmp_path, ECR_CACHE_REPO="1.dkr.ecr.us-west-2.amazonaws.com/finch")
    reference = "ref=1.dkr.ecr.us-west-2.amazonaws.com/finch:package-build-x86_64"
    assert value(line, "--cache-from") == f"type=registry,{reference}"
    assert value(line, "--cache-to") == (
        f"type=registry,{reference},mode=max,image-manifest=true,oci-mediatypes=true,"
        "ignore-error=true"
    )


def test_no_cache_is_written_that_the_store_cannot_export(tmp_path: Path) -> None:
    overlay = replace(ENGINE, exports_cache=False)
    line = command(tmp_path, ECR_CACHE_REPO="localhost/finch", engine=overlay)
    assert "--cache-from" in line
    assert "--cache-to" not in line
    line = command(tmp_path, ECR_CACHE_REPO="a/b", BUILDX_BUILDER="mine", engine=overlay)
    assert "--cache-to" in line
    for own, builder in (("default", "default"), ("remote", "default"), ("remote", "remote")):
        there = replace(overlay, builder=own)
        line = command(tmp_path, ECR_CACHE_REPO="a/b", BUILDX_BUILDER=builder, engine=there)
        assert "--cache-to" not in line


def test_a_folder_that_cannot_be_looked_into_is_not_read(tmp_path: Path) -> None:
    too_long = tmp_path / ("x" * 300)
    assert "--cache-from" not in command(tmp_path, "--layer-cache", str(too_long))


def test_a_folder_is_read_once_it_holds_a_cache(tmp_path: Path) -> None:
    kept = tmp_path / "layers"
    assert "--cache-from" not in command(tmp_path, "--layer-cache", str(kept))
    (kept / "package-build-x86_64").mkdir(parents=True)
    (kept / "package-build-x86_64/index.json").touch()
    line = command(tmp_path, "--layer-cache", str(kept))
    assert value(line, "--cache-from") == f"type=local,src={kept}/package-build-x86_64"


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        ("http://127.0.0.1:8023/al2023", True),
        ("http://localhost/x", True),
        ("http://[::1]:80/", True),
        ("http://127.0.0.1:3128", True),
        ("http://localhost:3128", True),
        ("http://proxy:3128", False),
        ("https://cdn.amazonlinux.com/al2023", False),
        ("file:///srv/mirror", False),
    ],
)
def test_loopback_is_known_in_all_its_forms(url: str, is_one: bool) -> None:
    assert buildx.is_loopback(Url(url)) is is_one


OUTPUT = """\
#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s
#4 importing cache manifest from localhost/finch:package-build-x86_64
#4 ERROR: no such host
#5 [builder 2/4] RUN dnf install
#5 CACHED
#11 [cloud-init 2/2] RUN /build/build-package build
#11 0.064 something
#12 [fuse-sshfs 2/2] RUN /build/build-package build
#12 0.065 another thing
#11 0.070 build-package: it is not signed
#11 ERROR: process did not complete successfully: exit code: 1
#12 CANCELED
#13 exporting cache to registry
#13 ERROR: denied
"""


def read(output: str) -> Steps:
    steps = Steps()
    for line in output.splitlines():
        steps.read(line)
    return steps


def test_the_step_that_failed_is_told_from_the_others() -> None:
    failed = read(OUTPUT).failed
    assert failed
    name, why, tail = failed
    assert name == "[cloud-init 2/2] RUN /build/build-package build"
    assert why.startswith("process did not complete")
    assert tail == ["something", "build-package: it is not signed"]


def failure(output: str, printed: str = "") -> Failure:
    return Failure.of(read(output), CommandError(["docker"], 1, printed))


NO_LAYER = """\
#5 [builder 2/4] RUN dnf install
#5 CACHED
#16 exporting to client directory
#16 ERROR: failed to copy: not found
"""


def test_a_program_that_failed_is_told_from_layers_that_are_not_to_be_had() -> None:
    assert not failure(OUTPUT.replace("process did", 'process "/bin/sh" did')).may_be_the_caches
    lacking = failure(NO_LAYER)
    assert (lacking.step, lacking.reason) == (
        "exporting to client directory",
        "failed to copy: not found",
    )
    assert lacking.may_be_the_caches
    run = OUTPUT.replace("process did not complete successfully: exit code: 1", "not found")
    assert failure(run).may_be_the_caches


NO_IMAGE = """\
#2 [internal] load metadata for public.ecr.aws/amazonlinux/amazonlinux:2023
#2 ERROR: failed to do request: lookup public.ecr.aws: no such host
"""


def test_what_no_cache_is_to_blame_for_is_not_tried_again_without_one() -> None:
    full = NO_LAYER.replace("failed to copy: not found", "write: No space left on device")
    assert not failure(full).may_be_the_caches
    assert not failure(NO_IMAGE).may_be_the_caches


def test_buildx_s_error_is_told_and_not_what_to_read_about_it() -> None:
    printed = "#1 DONE\nERROR: it is not supported\nTry again.\nLearn more at https://x/"
    assert failure("", printed).reason == "it is not supported"
    assert failure("", "no such builder").reason == "no such builder"
    assert failure("").reason == "docker ended with status 1"


@pytest.mark.parametrize(("output", "is_shown"), [("", False), (OUTPUT, True)])
def test_a_step_is_pointed_to_only_where_one_failed(
    tmp_path: Path, output: str, is_shown: bool
) -> None:
    found = failure(output, "ERROR: no")
    error = found.error("build", "all is untouched", tmp_path, Progress())
    assert ("lines of the step" in error.hint) == is_shown
    assert "untouched" in error.hint


def test_a_cache_that_is_not_to_be_had_is_a_warning_each_time() -> None:
    said = list(read(OUTPUT).warnings(Cache("localhost/finch:package-build-x86_64")))
    where = "the layer cache localhost/finch:package-build-x86_64"
    assert said == [
        f"{where} cannot be read: no such host",
        f"{where} cannot be written: denied",
    ]


def test_a_cache_that_fits_nothing_is_a_warning() -> None:
    output = OUTPUT.replace("#4 ERROR: no such host\n", "").replace("#5 CACHED\n", "")
    said = list(read(output).warnings(Cache("here")))
    assert said[-1] == "the layer cache here has nothing that this build can use"


def test_only_the_last_lines_of_a_step_are_kept() -> None:
    lines = "".join(f"#3 1.0 line {number}\n" for number in range(1000))
    failed = read(f"#3 [a 1/1] RUN x\n{lines}#3 ERROR: it failed\n").failed
    assert failed
    assert len(failed[2]) == buildx.TAIL_LINES
    assert failed[2][-1] == "line 999"


def test_secrets_are_mounted_from_files_and_stand_in_no_argument(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/binary").write_text("password=MARK\n")
    line = command(tmp_path, FINCH_MIRROR="http://me:MARK@mirror.test")
    assert value(line, "--secret") == f"id=binary,src={tmp_path}/secrets/binary"
    assert "MARK" not in " ".join(line)
