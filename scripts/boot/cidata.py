"""The NoCloud seed, which tells cloud-init in the guest what the test needs.

Lima configures its guests in the same way. The seed is an ISO 9660 file system labelled `cidata`
with the files user-data, meta-data and network-config (https://docs.cloud-init.io, NoCloud).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pycdlib

USER = "finch-test"

# A locally administered address from QEMU's range.
MAC_ADDRESS = "52:54:00:12:34:56"

# The guest's report on the units of sshd, on jobs that have not ended, and on failed units with
# their last lines. cloud-init prints it on the console at its end, so that the cause is known if
# sshd does not answer. If sshd answers and the boot fails all the same, the test asks for it over
# SSH. Other messages may come between its lines. A unit without a program, such as a device, has
# written no lines, so systemd's lines about it are reported.
REPORT_MARK = "boot-test-report:"
REPORT = rf"""
say() {{ printf '{REPORT_MARK} %s\n' "$*"; }}
for unit in ssh.service ssh.socket sshd.service sshd.socket; do
  test "$(systemctl show -P LoadState "$unit")" = not-found && continue
  say ssh "$unit" "$(systemctl is-enabled "$unit")" "$(systemctl is-active "$unit")"
  for other in $(systemctl show -P Requires "$unit"); do
    test "$(systemctl show -P LoadState "$other")" = masked && say masked "$unit" "$other"
  done
done
systemctl list-jobs --plain --no-legend | while read -r _ unit _ state _; do
  test "$state" = running && test "$unit" != cloud-final.service && say starting "$unit"
done
systemctl --failed --plain --no-legend | head -n 5 | while read -r unit _; do
  status=$(systemctl show -P ExecMainStatus "$unit")
  test "${{status:-0}}" = 0 && status= || status=" $status"
  say failed "$unit" "$(systemctl show -P Result "$unit")$status"
  lines=$(journalctl -b -q -o cat --no-pager -n 3 _SYSTEMD_UNIT="$unit")
  echo "${{lines:-$(journalctl -b -q -o cat --no-pager -n 3 -u "$unit")}}" | tail -n 3 |
  while read -r line; do say said "$unit" "$line"; done
done
say end
"""

# The machine offers a folder of the host by 9p, as Lima does, and the guest is told where to mount
# it. `noauto`, because the unit would fail in a guest whose kernel has no 9p.
SHARE_TAG = "finch-share"
MOUNT = [SHARE_TAG, "/mnt/finch-share", "9p", "ro,trans=virtio,version=9p2000.L,noauto", "0", "0"]

# The text of the file `said` in that folder.
SHARED = "the host says so"


def user_data(public_key: str) -> str:
    """Return user-data that creates the test's user, mounts the share and reports on sshd."""
    config: dict[str, Any] = {
        "users": [
            {
                "name": USER,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "shell": "/bin/bash",
                "lock_passwd": True,
                "ssh_authorized_keys": [public_key],
            }
        ],
        "mounts": [MOUNT],
        "runcmd": [["sh", "-c", f"({REPORT}) > /dev/console 2>/dev/null"]],
    }
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"


def meta_data(instance: str) -> str:
    """Return meta-data that calls the guest instance; cloud-init runs anew for each name."""
    return json.dumps({"instance-id": instance, "local-hostname": instance}) + "\n"


def network_config() -> str:
    """Return network-config for DHCP on the machine's only card, matched by its address as in Lima.

    A pattern would not do: for systemd-networkd, cloud-init 25.1.4 takes `match: name` as the name
    of the entry.
    """
    card = {"match": {"macaddress": MAC_ADDRESS}, "set-name": "eth0", "dhcp4": True}
    return json.dumps({"version": 2, "ethernets": {"eth0": card}}) + "\n"


def files(instance: str, public_key: str) -> dict[str, str]:
    """Return the files of the seed of the instance."""
    return {
        "user-data": user_data(public_key),
        "meta-data": meta_data(instance),
        "network-config": network_config(),
    }


def write_seed(path: Path, files: Mapping[str, str]) -> None:
    """Write a seed with files, a mapping of names to texts, to path.

    A file may be in a folder, which its name tells; folders have none in them.
    """
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    folders = {"": ""}
    for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
        folders[folder] = f"/FOLDER{len(folders)}"
        iso.add_directory(folders[folder], rr_name=folder, joliet_path=f"/{folder}")
    for number, (name, text) in enumerate(files.items()):
        data = text.encode()
        folder, _, base = name.rpartition("/")
        iso.add_fp(
            io.BytesIO(data),
            len(data),
            f"{folders[folder]}/FILE{number}.;1",
            rr_name=base,
            joliet_path=f"/{name}",
        )
    iso.write(str(path))
    iso.close()
