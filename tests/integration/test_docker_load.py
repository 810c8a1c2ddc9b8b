"""Loads the container image's tar into a real Docker engine with either of its stores."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from scripts.catalog import ROOT
from scripts.formats import oci_layout
from tests import builds
from tests.lab import engine


@pytest.mark.parametrize("containerd_store", [True, False])
def test_docker_loads_the_tar(tmp_path: Path, containerd_store: bool) -> None:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("etc"))
    builds.write_layout(tmp_path / "image", layer.getvalue())
    packed = oci_layout.pack_oci(tmp_path / "image")

    programs = engine.obtain(ROOT / ".work/lab")
    with engine.engine(programs, containerd_store=containerd_store) as running:
        told = subprocess.run(
            ["docker", "load", "--input", packed],
            env={**os.environ, **running.environment},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert f"Loaded image: {oci_layout.image_name(tmp_path / 'image')}" in told.stdout
