"""What configures the guest: the files of its cidata disk, by the kind that a scenario names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.boot import cidata
from scripts.system.errors import HarnessError

# The scripts of a seed in Lima's manner, and where the guest mounts the seed.
SCRIPTS = Path(__file__).with_name("lima")
CIDATA = "/mnt/lima-cidata"

# QEMU's user network: the host's loopback, and the resolver. Lima numbers its own otherwise.
GATEWAY = "10.0.2.2"
RESOLVER = "10.0.2.3"

# How mounts reach the guest, as Lima calls it (`mountType`), and what cloud-init is told of them.
# A kernel may lack 9p, and a mount that fails degrades the system even if it is not needed.
OPTIONS = {
    "virtiofs": "nofail",
    "9p": "trans=virtio,version=9p2000.L,msize=131072,cache=mmap,noauto",
    "reverse-sshfs": "",
}

# Lima's options for the seed: all its files may be run, and only root may read them.
MOUNT_SEED = f"""\
#!/bin/sh
set -eu
export LIMA_CIDATA_MNT={CIDATA}
options=ro,exec,uid=0,mode=0700,dmode=0700,overriderockperm
mkdir -p -m 700 $LIMA_CIDATA_MNT
mount -o $options /dev/disk/by-label/cidata $LIMA_CIDATA_MNT
exec $LIMA_CIDATA_MNT/boot.sh
"""


@dataclass(frozen=True)
class Seed:
    """The files of a NoCloud disk by name, and the user that they create, who may use sudo."""

    files: Mapping[str, str] = field(default_factory=dict)
    user: str = cidata.USER


@dataclass(frozen=True)
class Occasion:
    """The start that a seed is for.

    start counts the machine's starts from 1, and name is that of the scenario. public_key may log
    in. mac_addresses are those of the cards, settings those of the scenario's table `seed`, and
    environment what the host's services have to say.
    """

    name: str
    start: int
    public_key: str
    mac_addresses: Sequence[str]
    settings: Mapping[str, object]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Mount:
    """A folder of the host in the guest: its kind (a key of OPTIONS), its tag, and its path there.

    Scenarios know the tags from services.py.
    """

    kind: str
    tag: str
    point: str
    writable: bool = True


@dataclass(frozen=True)
class ExtraDisk:
    """An empty disk that the guest formats and mounts at /mnt/lima-NAME.

    name is also its serial number, which gives it a name in /dev that needs no counting of disks.
    """

    name: str
    fstype: str = "ext4"

    @property
    def device(self) -> str:
        """The path of the disk below /dev."""
        return f"disk/by-id/virtio-{self.name}"


@dataclass(frozen=True)
class Lima:
    """What Lima (2.1) tells a guest.

    environment goes to /etc/environment, params to the scripts that users add. hosts maps names to
    addresses. containerd names who gets it: "system", "user", both, or nobody. mac_addresses are
    those of the cards, dns_port the port of the host where a resolver of ours listens, or 0.
    """

    instance: str
    public_key: str
    mac_addresses: Sequence[str]
    hostname: str = "lima-finch"
    user: str = "finch"
    uid: int = 1000
    timezone: str = "Etc/UTC"
    mounts: Sequence[Mount] = ()
    disks: Sequence[ExtraDisk] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    containerd: Sequence[str] = ()
    dns_port: int = 0

    @property
    def home(self) -> str:
        """The user's home folder, called so that it is never the one of a mounted host."""
        return f"/home/{self.user}.guest"

    @property
    def mount_type(self) -> str:
        """How mounts reach the guest; Lima has one way for all mounts of an instance."""
        return self.mounts[0].kind if self.mounts else "reverse-sshfs"

    def files(self) -> dict[str, str]:
        """Return the files of the seed."""
        return {
            "user-data": self.user_data(),
            "meta-data": self.meta_data(),
            "network-config": self.network_config(),
            "lima.env": _lines(self.variables()),
            "param.env": _lines(self.parameters()),
            "etc_environment": f"#LIMA-START\n{_lines(self.environment)}#LIMA-END\n",
            "etc_hosts": "".join(f"{address}\t{name}\n" for name, address in self.hosts.items()),
            **scripts(),
        }

    def user_data(self) -> str:
        """Return the user, the mounts, and the script that cloud-init runs at every boot.

        `ssh-authorized-keys` and the uid as text are Lima's spelling, which newer versions of
        cloud-init merely tolerate.
        """
        user = {
            "name": self.user,
            "uid": str(self.uid),
            "gecos": "Finch Contract",
            "homedir": self.home,
            "shell": "/bin/bash",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "lock_passwd": True,
            "ssh-authorized-keys": [self.public_key],
        }
        mounts = [
            [mount.tag, mount.point, mount.kind, _options(mount), "0", "0"]
            for mount in self.mounts
            if OPTIONS[mount.kind]
        ]
        config: dict[str, Any] = {
            "growpart": {"mode": "auto", "devices": ["/"]},
            "timezone": self.timezone,
            "users": [user],
            **({"mounts": mounts} if mounts else {}),
            "write_files": [
                {
                    "path": "/var/lib/cloud/scripts/per-boot/00-lima.boot.sh",
                    "owner": "root:root",
                    "permissions": "0755",
                    "content": MOUNT_SEED,
                }
            ],
            "manage_resolv_conf": True,
            "resolv_conf": {"nameservers": [RESOLVER]},
        }
        return f"#cloud-config\n{json.dumps(config, indent=1)}\n"

    def meta_data(self) -> str:
        """Return the name of this start, which differs from that of the last, and the host name."""
        return f"instance-id: {self.instance}\nlocal-hostname: {self.hostname}\n"

    def network_config(self) -> str:
        """Return DHCP for all cards, each of which is known by its MAC address.

        The first card's route comes first, and only it has a resolver.
        """
        cards: dict[str, Any] = {}
        for number, address in enumerate(self.mac_addresses):
            name = f"lima{number - 1}" if number else "eth0"
            cards[name] = {
                "match": {"macaddress": address},
                "set-name": name,
                "dhcp4": True,
                "dhcp4-overrides": {"route-metric": 100 * (number + 2)},
                "dhcp-identifier": "mac",
            }
            if number:
                # QEMU offers a resolver in each of its networks. This one is cut off from the host,
                # and the guest would wait in vain for what it says of names that do not exist.
                cards[name]["dhcp4-overrides"]["use-dns"] = False
            else:
                cards[name]["nameservers"] = {"addresses": [RESOLVER]}
        return json.dumps({"version": 2, "ethernets": cards}, indent=1) + "\n"

    def variables(self) -> dict[str, str]:
        """Return the variables that the scripts get, under the names that Lima gives them."""
        own = {
            "NAME": self.hostname.removeprefix("lima-"),
            "USER": self.user,
            "UID": str(self.uid),
            "HOME": self.home,
            "IID": self.instance,
            "MOUNTTYPE": self.mount_type,
            "MOUNTS": str(len(self.mounts)),
            "DISKS": str(len(self.disks)),
            "CONTAINERD_SYSTEM": "1" if "system" in self.containerd else "",
            "CONTAINERD_USER": "1" if "user" in self.containerd else "",
            "SLIRP_GATEWAY": GATEWAY,
            "SLIRP_DNS": RESOLVER,
            "UDP_DNS_LOCAL_PORT": str(self.dns_port),
            "TCP_DNS_LOCAL_PORT": str(self.dns_port),
        }
        for number, mount in enumerate(self.mounts):
            own[f"MOUNTS_{number}_TAG"] = mount.tag
            own[f"MOUNTS_{number}_MOUNTPOINT"] = mount.point
        for number, disk in enumerate(self.disks):
            own[f"DISK_{number}_NAME"] = disk.name
            own[f"DISK_{number}_DEVICE"] = disk.device
            own[f"DISK_{number}_FSTYPE"] = disk.fstype
        return {f"LIMA_CIDATA_{name}": value for name, value in own.items()}

    def parameters(self) -> dict[str, str]:
        """Return the variables that the scripts of users get for the parameters."""
        return {f"PARAM_{name}": value for name, value in self.params.items()}


def scripts() -> dict[str, str]:
    """Return the scripts of a seed in Lima's manner, by their path on it."""
    return {
        path.relative_to(SCRIPTS).as_posix(): path.read_text()
        for path in sorted(SCRIPTS.rglob("*"))
        if path.is_file() and path.suffix != ".md"
    }


def _options(mount: Mount) -> str:
    return f"{'rw' if mount.writable else 'ro'},{OPTIONS[mount.kind]}"


def _lines(variables: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def plain(occasion: Occasion) -> Seed:
    """Return a seed that creates a user, and configures nothing else."""
    return Seed(cidata.files(f"finch-{occasion.name}", occasion.public_key))


def lima(occasion: Occasion) -> Seed:
    """Return a seed like Lima's; settings are fields of `Lima`. Raises HarnessError for others."""
    settings: dict[str, Any] = {key: one for key, one in occasion.settings.items() if key != "kind"}
    kinds: dict[str, type[Mount | ExtraDisk]] = {"mounts": Mount, "disks": ExtraDisk}
    try:
        for key, kind in kinds.items():
            settings[key] = [kind(**entry) for entry in settings.get(key, [])]
        told = Lima(
            instance=settings.pop("instance", f"iid-{occasion.name}-{occasion.start}"),
            public_key=occasion.public_key,
            mac_addresses=occasion.mac_addresses,
            dns_port=int(occasion.environment.get("DNS_PORT", "0")),
            **settings,
        )
        return Seed(told.files(), told.user)
    except (KeyError, TypeError) as error:
        raise HarnessError(f"the seed of {occasion.name} cannot be written: {error}") from None


KINDS: Mapping[str, Callable[[Occasion], Seed]] = {"plain": plain, "lima": lima}
