"""The mkosi session with the real mkosi: options of ours count, whether mkosi knows them or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MIRROR = "http://127.0.0.1:9/mirror"


def summary(checkout: Path, work: Path, *args: str) -> dict[str, Any]:
    """What mkosi would do for the base image, by the name of the setting."""
    # The mkosi that the checkout has downloaded spares a download.
    if (checkout / ".work/mkosi").is_dir() and not work.exists():
        work.mkdir()
        (work / "mkosi").symlink_to(checkout / ".work/mkosi")
    command = [
        sys.executable, "-m", "scripts.sessions.mkosi",
        "--work", os.fspath(work), "--image", "base", *args, "--json", "summary",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    images = {entry["Image"]: entry for entry in json.loads(done.stdout)["Images"]}
    settings: dict[str, Any] = images["base"]
    return settings


def test_a_mirror_of_amazon_linux_reaches_mkosi(checkout: Path, tmp_path: Path) -> None:
    argv = ["--distribution", "amazonlinux", "--mirror", MIRROR]
    assert summary(checkout, tmp_path / "work", *argv)["Mirror"] == MIRROR


def test_a_mirror_of_debian_reaches_the_sources_that_apt_gets(
    checkout: Path, tmp_path: Path
) -> None:
    summary(checkout, tmp_path / "work", "--distribution", "debian", f"--mirror={MIRROR}")

    [sources] = (tmp_path / "work/debian").rglob("mkosi.sources")
    assert f"URIs: {MIRROR}/debian" in sources.read_text()


def test_a_signing_key_is_put_where_mkosi_looks_for_amazon_s(
    checkout: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key.asc"
    key.write_text("my own key")

    argv = ["--distribution", "amazonlinux", "--signing-key", os.fspath(key)]
    summary(checkout, tmp_path / "work", *argv)

    [copy] = (tmp_path / "work").rglob("RPM-GPG-KEY-amazon-linux-2023")
    assert copy.read_text() == "my own key"


@pytest.mark.parametrize(("argv", "wanted"), [([], "auto"), (["--offline"], "always")])
def test_offline_keeps_mkosi_from_asking_for_metadata(
    checkout: Path, tmp_path: Path, argv: list[str], wanted: str
) -> None:
    if argv and not (checkout / ".work/mkosi").is_dir():
        summary(checkout, tmp_path / "work", "--distribution", "debian")
    given = summary(checkout, tmp_path / "work", "--distribution", "debian", *argv)

    assert given["CacheOnly"] == wanted
