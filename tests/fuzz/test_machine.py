"""What this machine, its user and its programs say: arguments, configuration, output."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import strategies as st

from scripts import catalog
from scripts.bootstrap import environments
from scripts.catalog import ROOT, Catalog, CatalogError
from scripts.doctor import doctor, machine
from scripts.emulation import entries
from scripts.emulation.emulators import TABLE, EmulationTable
from scripts.emulation.entries import Entry
from scripts.mkosi import failures
from scripts.mkosi.pin import Pin
from scripts.packages import engine, recipes, thirdparty
from scripts.packages.buildx import Cache, Failure, Steps
from scripts.pins import edits
from scripts.sessions import arguments, ci_matrix
from scripts.stages import places, plan
from scripts.system.process import CommandError
from tests.fuzz.conftest import Attack
from tests.fuzz.hostile import NASTY, TEXT, altered, fields_like, put, text_like, toml_like

PINS = "third-party/pins.toml"
PACKAGES = "al2023-package-build/packages.toml"

MKOSI = """\
‣  Installing Debian
Error: Failed to download metadata for repo 'amazonlinux': Cannot download repomd.xml: Curl (28)
E: Failed to fetch http://x.invalid/dists/trixie/InRelease  404  Not Found [IP: 127.0.0.1 80]
E: Unable to locate package nope
No match for argument: nope
qemu: uncaught target signal 11 (Segmentation fault) - core dumped
‣ "/work/src/mkosi.finalize" returned non-zero exit code 3.
No space left on device
"""
BUILDX = """\
#1 [internal] load build definition from Dockerfile
#5 [builder 2/4] RUN dnf install
#5 12.30 Error: no package
#5 ERROR: process "/bin/sh -c dnf install" did not complete successfully: exit code: 1
#6 importing cache manifest from x
#6 ERROR: failed to solve: not found
ERROR: failed to solve: process did not complete successfully
"""
ENTRY = """\
enabled
interpreter /usr/bin/qemu-aarch64-static
flags: OCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
ENVIRON = {
    "ARCH": "x86_64",
    "MKOSI_SOURCE": "/src/mkosi",
    "ECR_CACHE_REPO": "registry.invalid/cache",
    "BUILDX_BUILDER": "default",
    "http_proxy": "http://proxy.invalid:3128",
    "no_proxy": "localhost",
    "GITHUB_ACTIONS": "true",
    "GITHUB_REPOSITORY": "a/b",
    "GITHUB_SERVER_URL": "https://github.com",
}
VALUES = (
    *("debian", "amazonlinux", "x86_64", "native", "os-image", "http://m.invalid/x", "1", "0"),
    *("latest", "2023.8.20250707", "kvm", "host/name:tag", "/tmp", ".", *NASTY),
)


OPTIONS = tomllib.loads((ROOT / "scripts/catalog.toml").read_text())["options"]


def argv() -> st.SearchStrategy[list[str]]:
    options = [catalog.flag(name) for name in OPTIONS]
    word = st.one_of(st.sampled_from(options), st.sampled_from(VALUES), TEXT)
    joined = st.tuples(st.sampled_from(options), st.sampled_from(VALUES)).map("=".join)
    pair = st.tuples(st.sampled_from(options), st.sampled_from(VALUES)).map(list)
    single = st.one_of(word, joined).map(lambda one: [one])
    return st.lists(st.one_of(pair, pair, single), max_size=4).map(lambda parts: [*chain(*parts)])


def test_any_arguments_are_taken_or_refused(attack: Attack) -> None:
    parser = arguments.parser("build", "Builds.")

    def parse(case: tuple[list[str], dict[str, str]]) -> None:
        with contextlib.suppress(SystemExit):  # --help
            arguments.parse(*case, using=parser)

    attack(st.tuples(argv(), fields_like(ENVIRON)), parse)


def test_any_arguments_of_the_noxfile_are_looked_at(attack: Attack, tmp_path: Path) -> None:
    attack(argv(), lambda words: arguments.is_built("x86_64", words, root=tmp_path))


def test_a_catalogue_is_read_or_refused(attack: Attack) -> None:
    attack(
        toml_like(ROOT / "scripts/catalog.toml"),
        lambda data: Catalog.parse(data.decode()),
        (CatalogError, UnicodeDecodeError),
    )


def test_pins_of_packages_are_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        pins = recipes.read(put(tmp_path / "packages.toml", data))
        for name, source in pins.sources.items():
            source.repository(name, check=True)

    attack(toml_like(ROOT / PACKAGES), read)


def test_pins_of_third_party_files_are_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    attack(
        toml_like(ROOT / PINS), lambda data: thirdparty.read_pins(put(tmp_path / "p.toml", data))
    )


def test_the_pin_of_mkosi_is_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    attack(toml_like(ROOT / "mkosi/pin.toml"), lambda data: Pin.read(put(tmp_path / "p", data)))


def test_the_table_of_emulators_is_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    attack(toml_like(ROOT / TABLE), lambda data: EmulationTable.read(put(tmp_path / "t", data)))


def test_a_value_of_toml_is_found_or_refused(attack: Attack, tmp_path: Path) -> None:
    def look(data: bytes) -> None:
        edits.value(put(tmp_path / "p.toml", data), "package.cloud-init.nevra")

    attack(toml_like(ROOT / PACKAGES), look)


def test_mkosis_configuration_is_read_or_refused(attack: Attack, tmp_path: Path) -> None:
    path = "mkosi.conf.d/amazonlinux.conf"
    distribution = catalog.DISTRIBUTIONS["amazonlinux"]

    def read(data: bytes) -> None:
        put(tmp_path / path, data)
        places.release_of(tmp_path, distribution)

    attack(text_like((ROOT / path).read_text()), read)


def test_the_images_of_a_checkout_are_found_or_refused(attack: Attack, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "mkosi.images", tmp_path / "mkosi.images")
    path = tmp_path / "mkosi.images/os-image/mkosi.conf"

    def read(data: bytes) -> None:
        put(path, data)
        for need in plan.dependencies(tmp_path, "os-image"):
            plan.dependencies(tmp_path, need)

    attack(text_like((ROOT / "mkosi.images/os-image/mkosi.conf").read_text()), read)


def test_an_entry_of_binfmt_misc_is_read_or_left_out(attack: Attack, tmp_path: Path) -> None:
    wanted = EmulationTable.read(ROOT / TABLE).emulated["aarch64"]

    def read(data: bytes) -> None:
        put(tmp_path / "entries/qemu-aarch64", data)
        entries.find(wanted, tmp_path / "entries")
        Entry.parse("qemu", data.decode(errors="replace"))

    attack(text_like(ENTRY), read, share=3)


def test_any_failure_of_mkosi_is_explained(attack: Attack) -> None:
    def explain(data: bytes) -> None:
        error = CommandError(["mkosi"], 1, data.decode(errors="replace"))
        failures.is_transient(error)
        raise failures.explain(
            "base", error, work=Path("/w"), log=Path("/w/log"), repository="amazonlinux at x"
        )

    attack(text_like(MKOSI), explain, share=2)


def test_any_output_of_buildx_is_read(attack: Attack) -> None:
    def read(data: bytes) -> None:
        output = data.decode(errors="replace")
        steps = Steps()
        for line in output.splitlines():
            steps.read(line)
        Failure.of(steps, CommandError(["docker"], 1, output))
        list(steps.warnings(Cache("x", "y", "z")))

    attack(text_like(BUILDX), read, share=3)


def test_ranges_of_ids_are_read_or_left_out(attack: Attack) -> None:
    sample = "root:100000:65536\nuser:165536:65536\n1000:1:2\n"
    attack(
        text_like(sample),
        lambda data: machine.sub_ids(data.decode(errors="replace"), "user", 1000) >= 0,
        share=5,
    )


def test_a_session_is_known_or_refused(attack: Attack) -> None:
    names = st.one_of(
        TEXT, st.sampled_from(list(catalog.SESSIONS)), text_like("build-3.12(arch='x')")
    )
    attack(names.map(str), doctor.session_name, share=5)


def test_an_os_release_leads_to_a_command(attack: Attack) -> None:
    sample = {"ID": "debian", "VERSION_ID": "12", "NAME": "Debian"}
    attack(fields_like(sample), engine.installation, share=5)


def test_pips_settings_are_read(attack: Attack) -> None:
    sample = (
        "global.index-url='https://x.invalid/simple'\n:env:.proxy='http://y'\ninstall.cert='c'\n"
    )
    attack(
        text_like(sample),
        lambda data: environments.uv_settings(data.decode(errors="replace"), {}),
        share=5,
    )


def test_the_list_of_sessions_becomes_jobs_or_is_refused(attack: Attack) -> None:
    sample = [
        {"session": "build-3.12(arch='x86_64')", "name": "build", "call_spec": {"arch": "x86_64"}},
        {"session": "boot-test", "name": "boot-test", "call_spec": {"arch": "x86_64"}},
    ]
    attack(
        altered(sample),
        lambda listed: json.dumps(ci_matrix.jobs(listed, {"x86_64": "r"}, by_image=False)),
        (TypeError, KeyError, AttributeError),
    )


def test_the_fence_sees_what_leaves_the_folder(tmp_path: Path) -> None:
    from tests.fuzz import fence

    (tmp_path / "in").mkdir()
    with fence.inside(tmp_path / "in"):
        (tmp_path / "in/a").write_text("x")
    with pytest.raises(fence.Breach), fence.inside(tmp_path / "in"):
        (tmp_path / "in/../a").write_text("x")
    with pytest.raises(fence.Breach), fence.inside(tmp_path / "in"):
        subprocess.run(["true"], check=True)
    assert not (tmp_path / "a").exists()
