"""Builds our own packages with a real engine from the lab's sources. This takes three minutes."""

from __future__ import annotations

import base64
import gzip
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tomlkit

from scripts import arch
from scripts.packages import engine as engines
from scripts.system.digests import describe_tree
from tests import services
from tests.e2e.checkout import Arg, amazonlinux, environ
from tests.lab import engine
from tests.lab.repository import World
from tests.lab.server import Fault, Kind, LabServer
from tests.lab.workshop import Workshop

ARCH = arch.X86_64
CLOUD_INIT, SSHFS = "cloud-init", "fuse-sshfs"

pytestmark = pytest.mark.skipif(not ARCH.is_native, reason="tried on x86_64 machines only")


@dataclass
class Place:
    """The folder, options and environment of package builds."""

    checkout: Path
    folder: Path
    options: list[Arg]
    environment: Mapping[str, str]

    def run(
        self, *args: Arg, options: list[Arg] | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the packages session without Nox."""
        return subprocess.run(
            [
                sys.executable, "-m", "scripts.sessions.packages", "--arch", ARCH.name,
                "--work", self.folder / "work", "--out", self.folder / "out",
                *(self.options if options is None else options), *args,
            ],
            cwd=self.checkout, env=environ() | dict(self.environment) | variables,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def build(self) -> Path:
        return self.folder / f"work/amazonlinux/{ARCH}/package-build"

    @property
    def rpms(self) -> dict[str, str]:
        return describe_tree(self.build / "rpms")

    def forget(self) -> None:
        """Remove everything that earlier builds have left on this machine."""
        shutil.rmtree(self.build)
        subprocess.run(
            ["docker", "builder", "prune", "--all", "--force"],
            env=environ() | dict(self.environment), check=True, capture_output=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def place(
    checkout: Path, made: World, lab: LabServer, shop: Workshop,
    tmp_path_factory: pytest.TempPathFactory,
) -> Place:  # fmt: skip
    folder = tmp_path_factory.mktemp("packages") / "my ä work"
    options = [*amazonlinux(lab, made), "--packages", shop.pins]
    return Place(checkout, folder, options, shop.environment)


@pytest.fixture
def built(place: Place) -> Place:
    """The place with its finished packages."""
    done = place.run()
    assert done.returncode == 0, done.stderr
    return place


def cache(shop: Workshop, name: str) -> str:
    return f"{shop.registry.host}/finch/{name}"


def failed(done: subprocess.CompletedProcess[str], status: int) -> str:
    """Check that a run failed cleanly, and return its error and hint."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    [at] = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    return "\n".join(lines[at:])


def test_cold_warm_and_from_the_registry(place: Place, shop: Workshop) -> None:
    where = cache(shop, "layers")
    began = time.monotonic()
    cold = place.run(ECR_CACHE_REPO=where)
    cold_seconds = time.monotonic() - began
    assert cold.returncode == 0, cold.stderr
    names = {name.split("-[0-9]")[0] for name in place.rpms if name.endswith(".rpm")}
    assert any(re.match(r"cloud-init-[0-9].*\.finch1\.", name) for name in names)
    assert any(name.startswith("fuse-sshfs-3.7.3-") and ".finch1." in name for name in names)
    first = place.rpms

    began = time.monotonic()
    again = place.run(ECR_CACHE_REPO=where)
    assert again.returncode == 0
    assert time.monotonic() - began < 3
    assert "will be built" not in again.stderr
    assert place.rpms == first

    place.forget()
    began = time.monotonic()
    cached = place.run(ECR_CACHE_REPO=where)
    seconds = time.monotonic() - began
    print(f"cold {cold_seconds:.1f} s, from the registry {seconds:.1f} s")
    assert cached.returncode == 0, cached.stderr
    assert "warning" not in cached.stderr
    assert {n: d for n, d in place.rpms.items() if n.endswith(".rpm")} == {
        n: d for n, d in first.items() if n.endswith(".rpm")
    }
    assert seconds <= 0.35 * cold_seconds


def test_the_rebuilt_cloud_init_wins_and_lacks_amazons_patch(built: Place, tmp_path: Path) -> None:
    [rpm] = (built.build / "rpms").glob(f"{CLOUD_INIT}-[0-9]*.rpm")
    shutil.copy(rpm, tmp_path)
    subprocess.run(["rpm2archive", rpm.name], cwd=tmp_path, check=True)
    with tarfile.open(tmp_path / f"{rpm.name}.tgz") as archive:
        [path] = [name for name in archive.getnames() if name.endswith("config/cc_mounts.py")]
        member = archive.extractfile(path)
        assert member
        source = member.read()
    assert b"def sanitize_devname(" in source
    assert b"not mounted" not in source
    release = rpm.name.split("-")[3]
    assert re.match(r"1\+deb[0-9u]+\.amzn2023\.finch1\.", release)


def test_what_is_built_of_a_source_beside_what_is_wanted_is_there_for_whoever_requires_it(
    built: Place,
) -> None:
    made = [path.name for path in (built.build / "rpms").glob(f"{CLOUD_INIT}-*.rpm")]

    assert len(made) == len((CLOUD_INIT, "cloud-init-cfg-ec2", "cloud-init-cfg-onprem"))
    assert all(".finch1." in name for name in made)


# Writes the command lines of docker beside itself, and runs docker.
RECORDER = """\
#!/bin/sh
echo "$@" >>"$0.argv"
exec {docker} "$@"
"""


def holders(folder: Path, mark: bytes) -> list[Path]:
    """Return the files below folder, unpacked if they are gzipped, that hold mark."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if mark in unpacked(path.read_bytes())]


def unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def test_the_password_of_a_mirror_is_in_no_layer_log_or_command_line(
    checkout: Path, lab: LabServer, made: World, shop: Workshop, tmp_path: Path
) -> None:
    recorder = tmp_path / "bin/docker"
    recorder.parent.mkdir()
    docker = shutil.which("docker", path=shop.environment["PATH"])
    recorder.write_text(RECORDER.format(docker=docker))
    recorder.chmod(0o755)
    variables = {**shop.environment, "PATH": f"{recorder.parent}:{shop.environment['PATH']}"}
    options = [*amazonlinux(lab, made), "--packages", shop.pins, "--layer-cache", tmp_path / "kept"]
    place = Place(checkout, tmp_path / "work", options, variables)
    authorization = f"Basic {base64.b64encode(b'me:MARKED').decode()}"
    with services.guarded(lab.url, authorization) as url:
        mirror = f"{url.replace('//', '//me:MARKED@')}/al2023"
        proxy = "http://you:MARKED@127.0.0.1:1"
        place.options[place.options.index("--mirror") : place.options.index("--mirror") + 2] = []
        done = place.run(FINCH_MIRROR=mirror, https_proxy=proxy, no_proxy="127.0.0.1,localhost")

    assert done.returncode == 0, done.stderr
    assert "MARKED" not in done.stdout + done.stderr
    commands = recorder.with_name("docker.argv").read_text()
    assert "--secret" in commands
    assert "MARKED" not in commands
    assert len(list((tmp_path / "kept").rglob("blobs/sha256/*"))) > 5
    assert holders(tmp_path / "kept", b"MARKED") == []
    found = holders(tmp_path, b"MARKED")
    assert {path.parent.name for path in found} == {"auth.conf.d", "dnf", "secrets"}
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    engine_folder = Path(shop.environment["DOCKER_HOST"].removeprefix("unix://")).parent
    assert holders(engine_folder, b"MARKED") == []


def test_a_folder_serves_as_a_cache_too_and_a_cold_build_makes_the_same(
    place: Place, built: Place, tmp_path: Path
) -> None:
    before = built.rpms
    place.forget()
    kept = tmp_path / "layers, kept"
    assert place.run("--layer-cache", kept).returncode == 0
    assert {name: text for name, text in place.rpms.items() if name.endswith(".rpm")} == {
        name: text for name, text in before.items() if name.endswith(".rpm")
    }
    place.forget()
    again = place.run("--layer-cache", kept)
    assert again.returncode == 0, again.stderr
    assert "warning" not in again.stderr
    log = (place.folder / f"out/amazonlinux/{ARCH}/package-build.log").read_text()
    assert "importing cache manifest from local" in log
    assert "CACHED" in log


def test_the_session_builds_them(checkout: Path, place: Place, built: Place) -> None:
    del built
    done = subprocess.run(
        [
            sys.executable, "nox", "-s", f"packages-3.12(arch='{ARCH}')", "--",
            "--work", place.folder / "work", "--out", place.folder / "out", *place.options,
        ],
        cwd=checkout, env=environ() | dict(place.environment),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fuse-sshfs-3.7.3-" in done.stdout


def changed(shop: Workshop, folder: Path, package: str, key: str, value: object) -> list[Arg]:
    """Return the option for a copy of the pins with one value changed."""
    document = tomlkit.parse(shop.pins.read_text())
    document["package"][package][key] = value
    folder.mkdir(exist_ok=True)
    path = folder / "packages.toml"
    path.write_text(tomlkit.dumps(document))
    return ["--packages", path]


def untouched(place: Place, options: list[Arg]) -> str:
    """Check that a build fails without changing the finished packages, and return its error."""
    before = place.rpms
    done = place.run(*options)
    said = failed(done, 1)
    assert "package-build.log" in said
    assert place.rpms == before
    return said


def test_a_spec_that_no_longer_has_what_is_taken_out_fails_the_build(
    built: Place, shop: Workshop, tmp_path: Path
) -> None:
    patch = tmp_path / "0001-Drop-what-is-not-there.patch"
    patch.write_text(
        "--- a/cloud-init.spec\n+++ b/cloud-init.spec\n@@ -1,1 +0,0 @@\n-Patch99: none.patch\n"
    )
    said = untouched(built, changed(shop, tmp_path, CLOUD_INIT, "patches", [str(patch)]))
    assert "the spec no longer has what it changes" in said


def test_a_source_that_somebody_else_has_signed_is_refused(
    built: Place, shop: Workshop, made: World, tmp_path: Path
) -> None:
    document = tomlkit.parse(shop.pins.read_text())
    document["source"]["fedora"]["key"] = str(made.key_file)
    path = tmp_path / "packages.toml"
    path.write_text(tomlkit.dumps(document))
    said = untouched(built, ["--packages", path])
    assert "signature is not of the given key" in said


def test_a_repository_that_has_moved_is_looked_for_at_its_next_address(
    built: Place, lab: LabServer, shop: Workshop, tmp_path: Path
) -> None:
    document = tomlkit.parse(shop.pins.read_text())
    source = document["source"]["fedora"]
    source["baseurl"] = [f"{lab.url}/gone/", source["baseurl"]]
    path = tmp_path / "packages.toml"
    path.write_text(tomlkit.dumps(document))
    done = built.run("--packages", path)
    assert done.returncode == 0, done.stderr
    assert "will be built" in done.stderr


def test_a_source_of_another_version_is_not_taken(
    built: Place, shop: Workshop, tmp_path: Path
) -> None:
    said = untouched(built, changed(shop, tmp_path, SSHFS, "nevra", "fuse-sshfs-3.7.6-1.fc43"))
    assert "no source RPM fuse-sshfs-3.7.6-1.fc43" in said


def test_a_package_that_the_build_does_not_make_is_missed(
    built: Place, shop: Workshop, tmp_path: Path
) -> None:
    said = untouched(built, changed(shop, tmp_path, SSHFS, "rpms", ["fuse-sshfs", "sshfs-extra"]))
    assert "the build made no RPM called sshfs-extra" in said


def test_the_last_lines_of_the_step_that_failed_are_shown(
    built: Place, shop: Workshop, tmp_path: Path
) -> None:
    done = built.run(*changed(shop, tmp_path, SSHFS, "nevra", "fuse-sshfs-0-0.fc43"))
    shown = [line for line in done.stderr.splitlines() if line.startswith("  ")]
    assert any("fuse-sshfs-0-0.fc43" in line for line in shown)
    assert len(shown) <= 41


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Kind.TRUNCATED, "bytes (missing|remaining)"),  # in the words of curl 8 and 7
        (Kind.WRONG_DIGEST, r"Calculated: [0-9a-f]{64}\(sha256\) +Expected: [0-9a-f]{64}"),
        (Kind.NOT_FOUND, "404"),
        (Kind.UNAVAILABLE, "503"),
    ],
    ids=lambda value: value.value if isinstance(value, Kind) else "",
)
def test_a_source_that_does_not_come_whole_is_not_built(
    built: Place, lab: LabServer, shop: Workshop, tmp_path: Path, kind: Kind, reason: str
) -> None:
    # The new suffix keeps the build from using layers of an earlier one.
    suffix = f"finch.{kind.name.lower().replace('_', '.')}"
    options = changed(shop, tmp_path, SSHFS, "suffix", suffix)
    with lab.broken(Fault(kind, r"fuse-sshfs-.*\.src\.rpm")):
        said = untouched(built, options)
    assert "cannot be downloaded" in said
    assert re.search(reason, said)


def test_a_source_repository_that_is_down_is_not_one_that_lacks_the_package(
    built: Place, lab: LabServer, shop: Workshop, tmp_path: Path
) -> None:
    options = changed(shop, tmp_path, SSHFS, "suffix", "finchdown")
    with lab.broken(Fault(Kind.UNAVAILABLE, r"fedora.*/repodata/repomd\.xml$")):
        said = untouched(built, options)
    assert "cannot be downloaded" in said
    assert "repomd.xml" in said


NO_REGISTRY = "127.0.0.1:1/finch/cache"


def test_a_registry_that_is_down_is_a_warning(place: Place, built: Place) -> None:
    del built
    place.forget()
    done = place.run(ECR_CACHE_REPO=NO_REGISTRY)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "warning: " in line]
    assert any("cannot be read" in line and NO_REGISTRY in line for line in warnings)
    assert any("cannot be written" in line for line in warnings)


def test_wrong_credentials_are_a_warning(place: Place, shop: Workshop, tmp_path: Path) -> None:
    with engine.registry(shop.programs, tmp_path / "registry", protected=True) as protected:
        config = tmp_path / "config"
        shutil.copytree(shop.environment["DOCKER_CONFIG"], config, symlinks=True)
        auth = base64.b64encode(b"finch:wrong").decode()
        (config / "config.json").write_text(json.dumps({"auths": {protected.host: {"auth": auth}}}))
        done = place.run(
            "--force", DOCKER_CONFIG=str(config), ECR_CACHE_REPO=f"{protected.host}/finch/cache"
        )
    assert done.returncode == 0, done.stderr
    assert "cannot be read" in done.stderr
    assert "cannot be written" in done.stderr
    assert "401" in done.stderr or "authoriz" in done.stderr.lower()


def test_a_cache_of_another_architecture_is_a_warning_and_a_cold_build(
    place: Place, built: Place, shop: Workshop, tmp_path: Path
) -> None:
    del built
    where = cache(shop, "foreign")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    subprocess.run(
        [
            "docker", "buildx", "build", "--platform", "linux/arm64", "--output", "type=cacheonly",
            "--cache-to", f"type=registry,ref={where}:package-build-{ARCH},mode=max,"
            "image-manifest=true,oci-mediatypes=true", tmp_path,
        ],
        env=environ() | dict(place.environment), check=True, capture_output=True,
    )  # fmt: skip
    place.forget()
    done = place.run(ECR_CACHE_REPO=where)
    assert done.returncode == 0, done.stderr
    assert "nothing that this build can use" in done.stderr


def test_a_store_that_exports_no_cache_builds_without_writing_one(
    place: Place, shop: Workshop
) -> None:
    with engine.engine(shop.programs, containerd_store=False) as plain:
        there = replace(place, environment=plain.environment)
        for builder in ("", "default"):  # both name the same builder
            where = cache(shop, "plain")
            done = there.run("--force", ECR_CACHE_REPO=where, BUILDX_BUILDER=builder)
            assert done.returncode == 0, done.stderr
            assert "the layer cache is not written" in done.stderr


def test_layers_that_a_registry_has_lost_are_a_warning_and_a_cold_build(
    built: Place, shop: Workshop
) -> None:
    where = cache(shop, "lost")
    assert built.run("--force", ECR_CACHE_REPO=where).returncode == 0
    shop.registry.lose_layers("finch/lost", f"package-build-{ARCH}")
    built.forget()
    done = built.run(ECR_CACHE_REPO=where)
    assert done.returncode == 0, done.stderr
    [warning] = [line for line in done.stderr.splitlines() if "warning: " in line]
    assert f"{where}:package-build-{ARCH} and is repeated without it" in warning
    assert "not found" in warning


def test_a_folder_that_is_no_cache_is_a_warning(built: Place, tmp_path: Path) -> None:
    damaged = tmp_path / f"layers/package-build-{ARCH}"
    damaged.mkdir(parents=True)
    (damaged / "index.json").write_text("nonsense")
    (tmp_path / "file").touch()
    for where, why in ((damaged.parent, "could not unmarshal"), (tmp_path / "file", "mkdir")):
        done = built.run("--force", "--layer-cache", where)
        assert done.returncode == 0, done.stderr
        [warning] = [line for line in done.stderr.splitlines() if "is repeated without it" in line]
        assert str(where) in warning
        assert why in warning


def test_what_a_step_fails_at_is_not_tried_again_without_the_cache(
    built: Place, shop: Workshop, tmp_path: Path
) -> None:
    options = changed(shop, tmp_path, SSHFS, "nevra", "fuse-sshfs-0-0.fc43")
    done = built.run(*options, ECR_CACHE_REPO=cache(shop, "layers"))
    assert "is repeated without it" not in done.stderr
    assert "no source RPM fuse-sshfs-0-0.fc43" in failed(done, 1)


def test_a_proxy_that_alone_knows_the_mirror_serves_the_build_too(
    built: Place, lab: LabServer
) -> None:
    done = built.run(
        "--force", "--mirror", "http://mirror.invalid/al2023",
        http_proxy=lab.url, no_proxy="127.0.0.1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def path_without(folder: Path, *words: str) -> str:
    """Return a PATH to all programs in /usr except those whose names contain one of words."""
    for programs in ("/usr/bin", "/usr/sbin"):
        for program in Path(programs).iterdir():
            is_left_out = any(word in program.name for word in words)
            if not is_left_out and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return os.fspath(folder)


def test_packages_are_built_where_no_image_could_be(
    built: Place, shop: Workshop, tmp_path: Path
) -> None:
    path = [*shop.programs.folders, path_without(tmp_path, "apt-get", "git", "newuidmap")]
    done = built.run("--force", PATH=os.pathsep.join(path))
    assert done.returncode == 0, done.stderr
    assert "fuse-sshfs" in done.stdout


def test_without_docker_one_sentence_says_what_to_install(place: Place, tmp_path: Path) -> None:
    done = place.run("--force", PATH=path_without(tmp_path, "docker"))
    said = failed(done, 3)
    assert "not installed" in said
    assert engines.installation(platform.freedesktop_os_release()) in said
    assert "doctor" in said
    assert "--without-packages" in said


def test_without_buildx_one_sentence_says_what_to_install(place: Place, tmp_path: Path) -> None:
    done = place.run("--force", DOCKER_CONFIG=os.fspath(tmp_path), HOME=os.fspath(tmp_path))
    said = failed(done, 3)
    assert engines.installation(platform.freedesktop_os_release(), only_buildx=True) in said


def test_a_context_that_is_gone_is_one_sentence(place: Place) -> None:
    done = place.run("--force", DOCKER_HOST="", DOCKER_CONTEXT="gone")
    assert "context gone does not exist" in failed(done, 3)


def test_without_an_engine_one_sentence_says_how_to_start_it(place: Place, tmp_path: Path) -> None:
    done = place.run("--force", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert "systemctl start docker" in failed(done, 3)


def test_a_builder_that_nobody_made_is_named(built: Place) -> None:
    before = built.rpms
    said = failed(built.run("--force", BUILDX_BUILDER="nobodys"), 1)
    assert "nobodys" in said
    assert built.rpms == before


def test_an_engine_that_does_not_run_is_to_be_started(place: Place) -> None:
    path = Path("/tmp") / f"dead-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    try:
        said = failed(place.run("--force", DOCKER_HOST=f"unix://{path}"), 3)
    finally:
        path.unlink()
    assert "is not running" in said


def test_pins_without_a_digest_are_refused(place: Place, shop: Workshop, tmp_path: Path) -> None:
    document = tomlkit.parse(shop.pins.read_text())
    document["base-image"]["digest"] = ""
    path = tmp_path / "packages.toml"
    path.write_text(tomlkit.dumps(document))
    said = failed(place.run("--packages", path), 2)
    assert "not pinned by its digest" in said
    assert f"into [base-image] of {path}" in said


def test_without_packages_no_engine_is_asked_for(place: Place, tmp_path: Path) -> None:
    done = place.run("--without-packages", PATH=path_without(tmp_path, "docker"))
    assert done.returncode == 0, done.stderr
    assert "cosign" in done.stdout
    assert "fuse-sshfs" not in done.stdout
    assert "fuse-sshfs-3.7.3-2.5.spal2023 comes from SPAL" in done.stderr


def test_a_package_that_comes_from_spal_is_not_built(
    place: Place, shop: Workshop, tmp_path: Path
) -> None:
    other = replace(place, folder=tmp_path / "other")
    done = other.run(*changed(shop, tmp_path, SSHFS, "source", "spal"))
    assert done.returncode == 0, done.stderr
    made = [name for name in other.rpms if name.endswith(".rpm")]
    assert made
    assert all(name.startswith("cloud-init-") for name in made)
    assert "fuse-sshfs-3.7.3-2.5.spal2023 comes from SPAL" in done.stderr


def test_debian_has_them_in_its_archive(place: Place) -> None:
    done = place.run(options=["--distribution", "debian"], DOCKER_HOST="unix:///nowhere")
    assert done.returncode == 0, done.stderr
    assert "debian has every wanted package in its own archive" in done.stdout
