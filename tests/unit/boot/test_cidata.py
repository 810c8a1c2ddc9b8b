"""The NoCloud seed, read back."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pycdlib

from scripts.boot import cidata

KEY = "ssh-ed25519 AAAA boot-test"


def read(seed: Path, name: str) -> str:
    iso = pycdlib.PyCdlib()
    iso.open(str(seed))
    data = io.BytesIO()
    iso.get_file_from_iso_fp(data, rr_path=f"/{name}")
    iso.close()
    return data.getvalue().decode()


def test_the_seed_has_the_label_that_cloud_init_looks_for(tmp_path: Path) -> None:
    cidata.write_seed(tmp_path / "seed.iso", cidata.files("finch-first", KEY))
    iso = pycdlib.PyCdlib()
    iso.open(str(tmp_path / "seed.iso"))
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    iso.close()


def test_the_seed_holds_key_instance_and_network(tmp_path: Path) -> None:
    seed = tmp_path / "seed.iso"
    cidata.write_seed(seed, cidata.files("finch-first", KEY))

    header, config = read(seed, "user-data").split("\n", 1)
    assert header == "#cloud-config"
    [user] = json.loads(config)["users"]
    assert user["name"] == cidata.USER
    assert user["ssh_authorized_keys"] == [KEY]
    assert "NOPASSWD" in user["sudo"]

    assert json.loads(read(seed, "meta-data"))["instance-id"] == "finch-first"

    [card] = json.loads(read(seed, "network-config"))["ethernets"].values()
    assert card["match"] == {"macaddress": cidata.MAC_ADDRESS}
    assert card["dhcp4"]


def test_the_report_of_sshd_is_a_script_that_any_shell_reads() -> None:
    subprocess.run(["sh", "-n"], input=cidata.REPORT, text=True, check=True)


def test_a_file_of_the_seed_may_be_in_a_folder(tmp_path: Path) -> None:
    seed = tmp_path / "seed.iso"
    cidata.write_seed(seed, {"boot.sh": "one", "boot/10-a.sh": "two", "provision.user/1": "three"})

    assert read(seed, "boot.sh") == "one"
    assert read(seed, "boot/10-a.sh") == "two"
    assert read(seed, "provision.user/1") == "three"
