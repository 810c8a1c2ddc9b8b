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
        "MaxStartups": "200",
    }


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_chronyd_that_reads_no_drop_ins_reads_ours_after_its_own_configuration(
    finalize: Path, tmp_path: Path
) -> None:
    config = write(tmp_path / "etc/chrony.conf", "sourcedir /run/chrony.d\nmakestep 1.0 3\n")
    write(tmp_path / "etc/chrony.d/10-finch.conf", "makestep 1 -1\n")
    run(finalize, tmp_path, "")
    assert config.read_text() == (
        "sourcedir /run/chrony.d\nmakestep 1.0 3\ninclude /etc/chrony.d/10-finch.conf\n"
    )


@pytest.mark.parametrize("distribution", ["debian", "amazonlinux"])
def test_a_clock_that_is_wrong_is_set_at_any_time(checkout: Path, distribution: str) -> None:
    tree = checkout / f"mkosi.images/base/mkosi.{distribution}/etc"
    [drop_in] = tree.glob("chrony*/**/10-finch.conf")
    assert re.findall(r"^makestep .*", drop_in.read_text(), re.MULTILINE) == ["makestep 1 -1"]


STANZA = """\
Types: deb deb-src
URIs: http://archive.invalid/debian
Suites: {}
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg


"""


def test_apt_is_left_with_packages_and_without_sources_and_debug_symbols(
    finalize: Path, tmp_path: Path
) -> None:
    """The text is what mkosi writes into Debian's images."""
    suites = ["trixie", "trixie-debug", "trixie-updates", "trixie-security"]
    path = tmp_path / "etc/apt/sources.list.d/trixie.sources"
    sources = write(path, "".join(map(STANZA.format, suites)))
    run(finalize, tmp_path, "")
    text = sources.read_text()
    assert re.findall(r"^Types: (.*)", text, re.MULTILINE) == ["deb"] * 3
    assert re.findall(r"^Suites: (.*)", text, re.MULTILINE) == [suites[0], *suites[2:]]
    assert [stanza.count("\n") for stanza in text.strip().split("\n\n")] == [4, 4, 4]


def test_every_card_that_cloud_init_configured_gives_its_mac_address_to_dhcp_servers(
    checkout: Path, tmp_path: Path
) -> None:
    etc, drop_ins = tmp_path / "etc", tmp_path / "run"
    for name in ("10-cloud-init-eth0", "10-cloud-init-lima0", "50-other"):
        write(etc / f"{name}.network", "[Match]\n")
    script = (checkout / "mkosi.images/base/mkosi.extra/usr/libexec/finch/dhcp-by-mac").read_text()
    script = script.replace("/etc/systemd/network", str(etc))
    script = script.replace("/run/systemd/network", str(drop_ins))
    for _ in range(2):
        subprocess.run(["sh"], input=script, text=True, check=True)
    assert {
        str(path.relative_to(drop_ins)): path.read_text() for path in drop_ins.rglob("*.conf")
    } == {
        f"10-cloud-init-{card}.network.d/10-finch.conf": "[DHCPv4]\nClientIdentifier=mac\n"
        for card in ("eth0", "lima0")
    }


def test_of_chronyds_two_services_the_one_that_can_do_more_is_enabled(checkout: Path) -> None:
    folder = checkout / "mkosi.images/base/mkosi.extra/usr/lib/systemd/system-preset"
    lines = (folder / "10-finch.preset").read_text().splitlines()
    assert {"enable chrony.service", "disable chronyd-restricted.service"} <= {*lines}
