"""The facts that a boot test collects about an image and its guest, for the checks to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scripts.arch import Arch
from scripts.boot.inspection import Files
from scripts.boot.probes import Answers
from scripts.build.manifest import PACKAGES, THIRD_PARTY, Contents
from scripts.catalog import Distribution
from scripts.formats.disk import ESP_TYPE, FileSystem, Partition, of_type
from scripts.formats.ext4 import Entry
from scripts.formats.uki import Uki

__all__ = ["Contents", "Facts", "Verdict"]

CLOUD_INIT_OFF = "/etc/cloud/cloud-init.disabled"

# Without these units the test's user is not made. cloud-init.service is cloud-init-network.service
# since cloud-init 24.3.
CLOUD_INIT_UNITS = (
    "cloud-init.target",
    "cloud-init-local.service",
    "cloud-init-main.service",
    "cloud-init.service",
    "cloud-init-network.service",
)


@dataclass(frozen=True)
class Verdict:
    """The judgement of a check: why it failed ("" if it passed), and the evidence."""

    reason: str
    evidence: str


@dataclass
class Facts:
    """Everything that the test has collected so far. A fact is None until it has been collected.

    Facts about the image, collected on the host: the UKI as built, the SHA-512 of the disk before
    and after the test, the partition table, the root file system and the machine ID in it, the
    SHA-256 of the UKI on the ESP ("" if there is none, with mtools' complaint), the paths of all
    files on the ESP, the files of the root file system, what the manifest says of the contents, and
    the architectures that the image carries emulators for.

    Facts about the guest: the answers to the probes of the first and the second boot. boots,
    host_keys and power_offs map a boot ("first", "second", "other") to its verdict, to the SSH host
    key that sshd presented, and to the reason that QEMU gave for its end. refusals maps a way to
    log in without a key, such as "password", to what ssh says of the attempt.
    """

    arch: Arch
    distribution: Distribution
    uki: Uki
    disk_before: str
    contents: Contents = field(default_factory=Contents)
    emulated: Sequence[str] = ()
    partitions: Sequence[Partition] | None = None
    root: FileSystem | None = None
    machine_id: str | None = None
    esp_uki: str | None = None
    esp_complaint: str = ""
    esp_files: Sequence[str] | None = None
    files: Files | None = None
    boots: dict[str, Verdict] = field(default_factory=dict)
    first: Answers | None = None
    second: Answers | None = None
    refusals: Mapping[str, str] | None = None
    host_keys: dict[str, str] = field(default_factory=dict)
    power_offs: dict[str, str] = field(default_factory=dict)
    disk_after: str | None = None

    def get(self, name: str) -> object:
        """Return the fact called name, such as "root" or "host_keys.other", or None."""
        attribute, _, boot = name.partition(".")
        value = getattr(self, attribute)
        return value.get(boot) if boot else value

    def forget_boots(self) -> None:
        """Drop all facts about the guest, so that it can be booted afresh."""
        self.first = self.second = self.refusals = None
        for collected in (self.boots, self.host_keys, self.power_offs):
            collected.clear()

    @property
    def esp_partition(self) -> Partition | None:
        """The EFI system partition, if the disk has one."""
        return of_type(self.partitions or (), ESP_TYPE)

    @property
    def root_partition(self) -> Partition | None:
        """The root partition of the image's architecture, if the disk has one."""
        return of_type(self.partitions or (), self.arch.root_type)

    @property
    def cloud_init_off(self) -> str:
        """What in the image switches cloud-init off, or "" if nothing does.

        These are the kernel's option and the file that cloud-init's generator looks for, and links
        that mask its units (https://docs.cloud-init.io, "Disable cloud-init"; systemctl(1), mask).
        """
        if "cloud-init=disabled" in self.uki.cmdline.split():
            return "cloud-init=disabled on the kernel command line"
        entries = self.files.entries if self.files else ()
        found = (entry.path for entry in entries if entry.path == CLOUD_INIT_OFF or _masks(entry))
        return next(found, "")

    @property
    def has_other_packages(self) -> bool:
        """Whether the image was built with someone else's packages in place of ours."""
        return PACKAGES in self.contents.other_pins

    def must_hold_package(self, name: str) -> bool:
        """Return whether the image must hold a package of ours, which only RPM images do."""
        return self.distribution.has_rpms and self._must_hold(name, PACKAGES)

    def must_hold_third_party(self, name: str) -> bool:
        """Return whether the image must hold what the third-party pin called name brings."""
        return self._must_hold(name, THIRD_PARTY)

    @property
    def must_hold_packages(self) -> bool:
        """Whether the image was built with our packages: neither without them nor with others."""
        return PACKAGES not in self.contents.left_out | self.contents.other_pins

    def _must_hold(self, name: str, pins: str) -> bool:
        if name in self.contents.supplementary:
            return True
        # If a user replaced our pins, we know only what was added, not what should have been.
        if pins in self.contents.other_pins:
            return name in self.contents.held
        return not {name, pins} & self.contents.left_out


def _masks(entry: Entry) -> bool:
    """Return whether entry masks a unit of cloud-init."""
    folder, _, name = entry.path.rpartition("/")
    return (
        folder == "/etc/systemd/system" and name in CLOUD_INIT_UNITS and entry.target == "/dev/null"
    )
