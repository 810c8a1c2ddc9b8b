"""What the images' scripts do to a tree, tried on small ones."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

DROP_IN = "etc/ssh/sshd_config.d/10-finch.conf"


@pytest.fixture
def finalize(checkout: Path, tmp_path: Path) -> Path:
    """Where the base's script finds a tree whose sshd_config the test writes; run with `run`."""
    (tmp_path / "etc/ssh").mkdir(parents=True)
    return checkout / "mkosi.images/base/mkosi.finalize"


def run(script: Path, root: Path, config: str) -> str:
    """sshd_config after the script has seen it twice."""
    file = root / "etc/ssh/sshd_config"
    file.write_text(config)
    file.chmod(0o600)
    for _ in range(2):
        subprocess.run([script], check=True, env={**os.environ, "BUILDROOT": str(root)})
    assert file.stat().st_mode & 0o777 == 0o600
    return file.read_text()


def test_an_sshd_that_reads_no_drop_ins_reads_ours_before_anything_else(
    finalize: Path, tmp_path: Path
) -> None:
    config = "#Include /etc/ssh/sshd_config.d/*.conf\nPasswordAuthentication yes\n"
    assert run(finalize, tmp_path, config) == f"Include /{DROP_IN}\n{config}"


@pytest.mark.parametrize(
    "line", ["Include /etc/ssh/sshd_config.d/*.conf", "  include\t/etc/ssh/sshd_config.d/*"]
)
def test_an_sshd_that_reads_drop_ins_is_left_alone(
    finalize: Path, tmp_path: Path, line: str
) -> None:
    assert run(finalize, tmp_path, f"# Debian\n{line}\nX11Forwarding yes\n").startswith("# Debian")


def test_our_drop_in_comes_before_those_of_the_distribution_and_of_cloud_init(
    checkout: Path,
) -> None:
    name = Path(DROP_IN).name
    assert name == min("50-cloud-init.conf", "50-redhat.conf", name)
    text = (checkout / "mkosi.images/base/mkosi.extra" / DROP_IN).read_text()
    settings = dict(re.findall(r"^(\w+) (\w+)$", text, re.MULTILINE))
    assert settings == {
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "X11Forwarding": "no",
    }
