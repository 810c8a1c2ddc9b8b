"""What the images' scripts do to a tree, tried on small ones."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

DROP_IN = "etc/ssh/sshd_config.d/10-finch.conf"

# A configuration of sshd that reads it.
INCLUDES = f"Include /{DROP_IN}\n"

# What mkosi calls its trees of files that are copied into an image.
TREES = ("mkosi.extra", "mkosi.debian", "mkosi.amazonlinux")


@pytest.fixture
def finalize(checkout: Path, tmp_path: Path) -> Path:
    """Where the base's script finds a tree whose sshd_config the test writes; run with `run`."""
    (tmp_path / "etc/ssh").mkdir(parents=True)
    return checkout / "mkosi.images/base/mkosi.finalize"


def fails(script: Path, root: Path) -> str:
    """What the script says when it fails for the tree root."""
    environment = {**os.environ, "BUILDROOT": str(root)}
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


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


def test_an_sshd_whose_settings_are_elsewhere_fails_the_build(
    finalize: Path, tmp_path: Path
) -> None:
    """It would accept passwords: sed finds no line of an empty file before which to insert ours."""
    write(tmp_path / "etc/ssh/sshd_config", "")
    assert fails(finalize, tmp_path) == "/etc/ssh/sshd_config does not include our drop-in\n"


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
        "MaxSessions": "200",
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
    run(finalize, tmp_path, INCLUDES)
    assert config.read_text() == (
        "sourcedir /run/chrony.d\nmakestep 1.0 3\ninclude /etc/chrony.d/10-finch.conf\n"
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("", "there is no /etc/chrony.conf that could include /etc/chrony.d/10-finch.conf"),
        ("leapsectz right/UTC", "/etc/chrony.conf does not include /etc/chrony.d/10-finch.conf"),
    ],
    ids=["none", "last line without an end"],
)
def test_a_chronyd_that_would_not_read_our_drop_in_fails_the_build(
    finalize: Path, tmp_path: Path, config: str, reason: str
) -> None:
    write(tmp_path / "etc/ssh/sshd_config", INCLUDES)
    write(tmp_path / "etc/chrony.conf", config)
    write(tmp_path / "etc/chrony.d/10-finch.conf", "makestep 1 -1\n")
    assert fails(finalize, tmp_path) == f"{reason}\n"


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
    run(finalize, tmp_path, INCLUDES)
    text = sources.read_text()
    assert re.findall(r"^Types: (.*)", text, re.MULTILINE) == ["deb"] * 3
    assert re.findall(r"^Suites: (.*)", text, re.MULTILINE) == [suites[0], *suites[2:]]
    assert [stanza.count("\n") for stanza in text.strip().split("\n\n")] == [4, 4, 4]


def test_apt_s_sources_may_have_further_fields_in_any_order(finalize: Path, tmp_path: Path) -> None:
    release = "Suites: trixie\nTypes: deb deb-src\nArchitectures: amd64\nURIs: http://a.invalid\n"
    debug = STANZA.format("trixie-debug").replace("Components", "Enabled: yes\nComponents")
    sources = write(
        tmp_path / "etc/apt/sources.list.d/trixie.sources", f"{release}\n{debug}{release}"
    )
    run(finalize, tmp_path, INCLUDES)
    left = release.replace("deb deb-src", "deb")
    assert sources.read_text() == f"{left}\n{left}\n"


@pytest.mark.parametrize(
    ("suites", "reason"),
    [
        ("trixie trixie-debug", "apt would fetch more than packages"),
        ("trixie-debug", "no source of packages is left for apt"),
    ],
)
def test_apt_s_sources_that_cannot_be_reduced_fail_the_build(
    finalize: Path, tmp_path: Path, suites: str, reason: str
) -> None:
    write(tmp_path / "etc/ssh/sshd_config", INCLUDES)
    write(tmp_path / "etc/apt/sources.list.d/trixie.sources", STANZA.format(suites))
    assert fails(finalize, tmp_path) == f"{reason}\n"


def write_drop_ins(checkout: Path, etc: Path, drop_ins: Path) -> None:
    """Run what the image runs before networkd, for files of cloud-init in the folder etc."""
    script = (checkout / "mkosi.images/base/mkosi.extra/usr/libexec/finch/dhcp-by-mac").read_text()
    script = script.replace("/etc/systemd/network", str(etc))
    script = script.replace("/run/systemd/network", str(drop_ins))
    subprocess.run(["sh"], input=script, text=True, check=True)


def test_every_card_that_cloud_init_configured_gives_its_mac_address_to_dhcp_servers(
    checkout: Path, tmp_path: Path
) -> None:
    etc, drop_ins = tmp_path / "etc", tmp_path / "run"
    for name in ("10-cloud-init-eth0", "10-cloud-init-lima0", "50-other"):
        write(etc / f"{name}.network", f"[Match]\nName={name}\n")
    for _ in range(2):
        write_drop_ins(checkout, etc, drop_ins)
    assert {
        str(path.relative_to(drop_ins)): path.read_text() for path in drop_ins.rglob("*.conf")
    } == {
        f"10-cloud-init-{card}.network.d/10-finch.conf": "[DHCPv4]\nClientIdentifier=mac\n"
        for card in ("eth0", "lima0")
    }


def test_a_card_keeps_its_network_without_the_name_that_cloud_init_gives_it(
    checkout: Path, tmp_path: Path
) -> None:
    etc, drop_ins = tmp_path / "etc", tmp_path / "run"
    match = "[Match]\nMACAddress=52:54:00:12:34:56\nName=eth0\n"
    write(etc / "10-cloud-init-eth0.network", match)
    write_drop_ins(checkout, etc, drop_ins)
    [drop_in] = drop_ins.rglob("*.conf")
    lines = drop_in.read_text().splitlines()
    assert lines[lines.index("[Match]") :] == ["[Match]", "Name=", "Type=ether", "Kind=!*"]


def test_of_chronyds_two_services_the_one_that_can_do_more_is_enabled(checkout: Path) -> None:
    folder = checkout / "mkosi.images/base/mkosi.extra/usr/lib/systemd/system-preset"
    lines = (folder / "10-finch.preset").read_text().splitlines()
    assert {"enable chrony.service", "disable chronyd-restricted.service"} <= {*lines}


def of_trees(checkout: Path, pattern: str) -> list[Path]:
    """The files of all images' trees that match pattern."""
    found = [path for tree in TREES for path in checkout.glob(f"mkosi.images/*/{tree}/{pattern}")]
    assert found
    return sorted(found)


def test_every_program_that_a_unit_of_ours_starts_is_there_and_can_be_run(checkout: Path) -> None:
    """The minus of a unit's command hides one that is missing."""
    called = {
        name
        for path in of_trees(checkout, "usr/lib/systemd/system/*.d/*.conf")
        for name in re.findall(r"^Exec\w+=\W*(/usr/libexec/\S+)", path.read_text(), re.MULTILINE)
    }
    assert called == {
        f"/{path.relative_to(path.parents[3])}" for path in of_trees(checkout, "usr/libexec/*/*")
    }
    assert all(os.access(path, os.X_OK) for path in of_trees(checkout, "usr/libexec/*/*"))


def test_whatever_of_systemd_s_is_in_etc_masks_a_unit(checkout: Path) -> None:
    """Units, drop-ins and presets belong in /usr/lib, where users can override them."""
    of_systemd = of_trees(checkout, "etc/systemd/**/*")
    units = [path for path in of_systemd if path.is_symlink() or not path.is_dir()]
    assert {path.readlink() for path in units} == {Path("/dev/null")}


def test_host_keys_are_made_whichever_boot_it_is_once_cloud_init_is_done(checkout: Path) -> None:
    """An empty condition clears all those that came before it (systemd.unit(5))."""
    [drop_in] = of_trees(checkout, "usr/lib/systemd/system/sshd-keygen.service.d/*.conf")
    lines = drop_in.read_text().splitlines()
    conditions = [line for line in lines if line.startswith("Condition")]
    assert conditions == [
        "ConditionFirstBoot=",
        "ConditionPathIsReadWrite=/etc/ssh",
        "ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key",
    ]
    assert "After=cloud-init.service cloud-init-network.service" in lines
