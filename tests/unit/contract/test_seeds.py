"""The seed that is like Lima's: what it tells, and what its scripts do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scripts.contract import seeds
from scripts.contract.seeds import ExtraDisk, Lima, Mount, Occasion
from scripts.system.errors import HarnessError

KEY = "ssh-ed25519 AAAA contract"
CARDS = ("52:54:00:12:34:56", "52:54:00:12:34:57")
BLANK = Mount("virtiofs", "virtiofs-0", "/Volumes/With a blank & more")


def told(**settings: Any) -> Lima:
    return Lima(**{"instance": "iid-1", "public_key": KEY, "mac_addresses": CARDS} | settings)


def user_data(lima: Lima) -> dict[str, Any]:
    header, config = lima.user_data().split("\n", 1)
    assert header == "#cloud-config"
    loaded: dict[str, Any] = json.loads(config)
    return loaded


@pytest.mark.parametrize("whom", [(), ("system",), ("user",), ("system", "user")])
def test_containerd_is_for_whom_the_scenario_says(whom: tuple[str, ...]) -> None:
    variables = told(containerd=whom).variables()
    said = {one: variables[f"LIMA_CIDATA_CONTAINERD_{one.upper()}"] for one in ("system", "user")}
    assert said == {one: "1" if one in whom else "" for one in said}


def occasion(settings: Mapping[str, object], start: int = 1, **environment: str) -> Occasion:
    return Occasion("lima-vz", start, KEY, CARDS, settings, environment)


@pytest.mark.parametrize("uid", [501, 1000])
def test_the_user_has_the_number_of_the_host_s_user(uid: int) -> None:
    [user] = user_data(told(uid=uid))["users"]

    assert user["uid"] == str(uid)
    assert user["homedir"] == "/home/finch.guest"
    assert user["ssh-authorized-keys"] == [KEY]
    assert "NOPASSWD" in user["sudo"]


def test_cloud_init_mounts_what_the_kernel_serves_and_nothing_by_ssh() -> None:
    nine = Mount("9p", "9p-0", "/mnt/nine", writable=False)
    sshfs = Mount("reverse-sshfs", "sftp-0", "/mnt/plain")

    mounts = user_data(told(mounts=[BLANK, nine, sshfs]))["mounts"]
    assert [entry[:3] for entry in mounts] == [
        ["virtiofs-0", BLANK.point, "virtiofs"],
        ["9p-0", "/mnt/nine", "9p"],
    ]
    assert mounts[0][3] == "rw,nofail"
    assert mounts[1][3].startswith("ro,trans=virtio,")
    assert "mounts" not in user_data(told(mounts=[sshfs]))


def test_every_card_is_known_by_its_address_and_only_the_first_has_a_resolver() -> None:
    cards = json.loads(told().network_config())["ethernets"]

    assert [card["match"]["macaddress"] for card in cards.values()] == list(CARDS)
    assert {card["dhcp-identifier"] for card in cards.values()} == {"mac"}
    assert [name for name, card in cards.items() if "nameservers" in card] == ["eth0"]
    refusing = [name for name, card in cards.items() if "use-dns" in card["dhcp4-overrides"]]
    assert refusing == ["lima0"]


def test_every_start_is_a_new_instance_for_cloud_init() -> None:
    first, second = (
        seeds.lima(occasion({"kind": "lima"}, start)).files["meta-data"] for start in (1, 2)
    )
    assert first.startswith("instance-id: iid-lima-vz-1\n")
    assert second.startswith("instance-id: iid-lima-vz-2\n")


def test_a_scenario_gives_mounts_and_disks_as_tables() -> None:
    files = seeds.lima(
        occasion(
            {
                "kind": "lima",
                "mounts": [{"kind": "virtiofs", "tag": "virtiofs-0", "point": "/mnt/a b"}],
                "disks": [{"name": "more", "fstype": "xfs"}],
                "params": {"colour": "green"},
            },
            DNS_PORT="5353",
        )
    ).files

    assert "LIMA_CIDATA_MOUNTS_0_MOUNTPOINT=/mnt/a b\n" in files["lima.env"]
    assert "LIMA_CIDATA_DISK_0_DEVICE=disk/by-id/virtio-more\n" in files["lima.env"]
    assert "LIMA_CIDATA_UDP_DNS_LOCAL_PORT=5353\n" in files["lima.env"]
    assert files["param.env"] == "PARAM_colour=green\n"


@pytest.mark.parametrize("wrong", [{"colour": "red"}, {"mounts": [{"kind": "virtiofs"}]}])
def test_a_setting_that_the_seed_does_not_know_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(HarnessError, match=r"the seed of lima-vz .*: .*(colour|tag)"):
        seeds.lima(occasion({"kind": "lima", **wrong}))


def test_the_seed_has_every_script_and_a_shell_can_read_each() -> None:
    scripts = seeds.scripts()

    assert {"boot.sh", "boot/05-disks.sh", "provision.user/00000001"} <= scripts.keys()
    assert told().files().keys() >= scripts.keys()
    for name, text in scripts.items():
        assert text.startswith("#!/bin/sh\n"), name
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


class Machine:
    """A folder that stands for the guest's root, in which scripts of the seed run.

    Their absolute paths are those of the folder; programs that would change the machine do nothing.
    """

    def __init__(self, root: Path, lima: Lima) -> None:
        self.root = root
        for folder in ("etc", "run", "cidata", "bin", "home/finch.guest"):
            (root / folder).mkdir(parents=True)
        for name, text in lima.files().items():
            path = root / "cidata" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(self.moved(text))
            path.chmod(0o755)
        self.variables = lima.variables()
        for program in ("systemctl", "mount", "loginctl", "sudo"):
            self.replace(program, "exit 0")

    def moved(self, text: str) -> str:
        for folder in ("etc", "run", "home", "Volumes"):
            text = text.replace(f"/{folder}/", f"{self.root}/{folder}/")
        return text

    def replace(self, program: str, text: str) -> None:
        (self.root / "bin" / program).write_text(f"#!/bin/sh\n{text}\n")
        (self.root / "bin" / program).chmod(0o755)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        moved = {name: self.moved(value) for name, value in self.variables.items()}
        return subprocess.run(
            [self.root / "cidata" / script],
            env={
                "PATH": f"{self.root}/bin:{os.environ['PATH']}",
                "LIMA_CIDATA_MNT": f"{self.root}/cidata",
                **moved,
            },
            text=True,
            capture_output=True,
            check=False,
        )


def test_a_blank_in_a_mount_point_is_escaped_in_fstab_at_every_boot(tmp_path: Path) -> None:
    machine = Machine(tmp_path, told(mounts=[BLANK]))
    fstab = tmp_path / "etc/fstab"
    point = f"{tmp_path}{BLANK.point}"
    fstab.write_text(
        "LABEL=root\t/\text4\tdefaults\t0\t1\n"
        f"virtiofs-0\t{point}\tvirtiofs\trw,nofail,comment=cloudconfig\t0\t0\n"
    )

    for _ in range(2):
        assert machine.run("boot/06-mounts.sh").returncode == 0
        assert fstab.read_text().splitlines() == [
            "LABEL=root\t/\text4\tdefaults\t0\t1",
            f"virtiofs-0\t{tmp_path}/Volumes/With\\040a\\040blank\\040&\\040more\tvirtiofs\t"
            "rw,nofail,comment=cloudconfig\t0\t0",
        ]
    assert Path(point).is_dir()


def test_the_environment_of_the_last_boot_is_replaced(tmp_path: Path) -> None:
    environment = tmp_path / "etc/environment"
    first = Machine(tmp_path, told(environment={"COLOUR": "light blue"}))
    environment.write_text("LANG=C\n")
    first.replace("loginctl", f'echo "$@" >>{tmp_path}/ended')
    for _ in range(2):
        assert first.run("boot/08-environment.sh").returncode == 0

    assert environment.read_text() == "LANG=C\n#LIMA-START\nCOLOUR=light blue\n#LIMA-END\n"
    assert (tmp_path / "ended").read_text() == "terminate-user finch\n"
    assert (tmp_path / "run/lima-ssh-ready").read_text() == told().meta_data()


def test_host_entries_of_the_last_boot_are_replaced(tmp_path: Path) -> None:
    machine = Machine(tmp_path, told(hosts={"registry.contract.test": "192.0.2.7"}))
    hosts = tmp_path / "etc/hosts"
    hosts.write_text("127.0.0.1\tlocalhost\n")

    for _ in range(2):
        assert machine.run("boot/07-hosts.sh").returncode == 0
    assert hosts.read_text().count("192.0.2.7\tregistry.contract.test\n") == 1
    assert hosts.read_text().startswith("127.0.0.1\tlocalhost\n")


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    sshfs = Mount("reverse-sshfs", "sftp-0", "/mnt/plain")
    machine = Machine(tmp_path, told(mounts=[sshfs]))
    for program in ("curl", "iptables", "resize2fs", "tar", "restorecon", "sshfs"):
        machine.replace(program, "exit 0")
    machine.variables["PATH"] = f"{tmp_path}/bin"

    answer = machine.run("boot/30-needs.sh")
    assert answer.returncode == 1
    assert answer.stdout.endswith("missing: rsync\n")


@pytest.fixture
def booted(tmp_path: Path) -> Machine:
    """A machine whose seed has a script that fails, and one after it."""
    machine = Machine(tmp_path, told(params={"colour": "dark $green"}))
    for script in (tmp_path / "cidata/boot").iterdir():
        script.unlink()
    for name, text in (
        ("10-fails.sh", "exit 3"),
        ("20-runs.sh", f'echo "$PARAM_colour" >{tmp_path}/ran'),
    ):
        script = tmp_path / "cidata/boot" / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    machine.replace("sleep", "exit 0")
    machine.replace("install", 'for last; do :; done; : >"$last"')
    return machine


def test_a_script_that_fails_is_noted_and_the_next_one_runs(booted: Machine) -> None:
    assert booted.run("boot.sh").returncode == 0

    failed = (booted.root / "run/contract-failed").read_text()
    assert failed == f"{booted.root}/cidata/boot/10-fails.sh\n"
    assert (booted.root / "ran").read_text() == "dark $green\n"
    assert (booted.root / "run/lima-boot-done").read_text() == told().meta_data()


def test_the_user_s_scripts_are_given_the_parameters_by_name(booted: Machine) -> None:
    booted.replace("sudo", f'echo "$@" >{booted.root}/asked')
    booted.run("boot.sh")

    asked = (booted.root / "asked").read_text()
    assert "-iu finch --preserve-env=PARAM_colour" in asked
    assert asked.strip().endswith("home/finch.guest/.contract-script")


def test_the_user_s_script_does_without_parameters(tmp_path: Path) -> None:
    machine = Machine(tmp_path, told())
    machine.variables["HOME"] = str(tmp_path)

    assert machine.run("provision.user/00000001").returncode == 0
    assert "PARAM_" not in (tmp_path / ".contract-user").read_text()


def test_a_disk_is_named_by_its_serial_number() -> None:
    assert ExtraDisk("more").device == "disk/by-id/virtio-more"
