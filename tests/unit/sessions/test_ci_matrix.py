from __future__ import annotations

import tomllib
from typing import Any

import pytest

from scripts.sessions import ci_matrix
from scripts.system.errors import HarnessError


def session(name: str, **call: str) -> dict[str, Any]:
    values = ", ".join(f"{key}='{value}'" for key, value in call.items())
    return {"name": name, "session": f"{name}({values})", "call_spec": call}


LISTED = [
    session("lint"),
    session("build", arch="x86_64"),
    session("build", arch="aarch64"),
    session("image", arch="x86_64", image="os-image"),
    session("image", arch="x86_64", image="base"),
    session("image", arch="x86_64", image="wsl-rootfs"),
    session("boot-test", arch="x86_64"),
    session("boot-test", arch="aarch64"),
]

RUNNERS = {"x86_64": "intel", "aarch64": "arm"}


def test_a_job_builds_all_images_of_an_architecture_on_its_own_runner() -> None:
    assert ci_matrix.jobs(LISTED, RUNNERS, by_image=False) == [
        {
            "arch": arch,
            "image": "all",
            "session": f"build(arch='{arch}')",
            "boot_test": f"boot-test(arch='{arch}')",
            "runner": runner,
        }
        for arch, runner in RUNNERS.items()
    ]


def test_by_image_each_has_its_job_and_the_disk_is_booted() -> None:
    found = ci_matrix.jobs(LISTED, RUNNERS, by_image=True)

    assert [(job["image"], bool(job["boot_test"])) for job in found] == [
        ("os-image", True),
        ("wsl-rootfs", False),
    ]


def test_an_architecture_without_a_runner_is_named() -> None:
    with pytest.raises(HarnessError, match="no runner for aarch64"):
        ci_matrix.jobs(LISTED, {"x86_64": "intel"}, by_image=False)


PIN = {"name": "registry.example.org/debian", "tag": "trixie-slim", "digest": f"sha256:{'a' * 64}"}


def test_the_container_of_the_jobs_is_named_by_its_digest() -> None:
    image = ci_matrix.container(PIN)

    assert image == f"registry.example.org/debian:trixie-slim@sha256:{'a' * 64}"


@pytest.mark.parametrize(
    "digest", ["", "sha256:", f"sha256:{'a' * 63}", f"sha256:{'A' * 64}", f"sha256:{'a' * 64}\n"]
)
def test_a_container_that_only_a_tag_names_stops_every_job(digest: str) -> None:
    with pytest.raises(HarnessError, match="has no digest of registry") as caught:
        ci_matrix.container({**PIN, "digest": digest})

    assert "`./nox -s update-pins -- ci-container`" in caught.value.hint


def test_the_pin_of_the_container_is_one_that_can_be_read() -> None:
    pin = tomllib.loads(ci_matrix.CONTAINER.read_text())["container"]

    assert set(pin) == set(PIN)
    assert ci_matrix.container({**pin, "digest": PIN["digest"]})
