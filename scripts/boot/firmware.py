"""The UEFI firmware a guest is started with."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from scripts.arch import AARCH64, X86_64, Arch
from scripts.errors import MachineError
from scripts.tools import Tools


@dataclass(frozen=True)
class Firmware:
    """Firmware code, and the template of its variables, as absolute paths inside the tools tree."""

    code: Path
    variables: Path


# Where Debian's ovmf and qemu-efi-aarch64 packages put the builds without Secure Boot.
FIRMWARE = {
    X86_64: Firmware(
        Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
    ),
    AARCH64: Firmware(
        Path("/usr/share/AAVMF/AAVMF_CODE.fd"), Path("/usr/share/AAVMF/AAVMF_VARS.fd")
    ),
}


def find(tools: Tools, arch: Arch) -> Firmware:
    """The firmware for arch. Raises MachineError where the tools tree has none."""
    firmware = FIRMWARE[arch]
    for path in (firmware.code, firmware.variables):
        if not tools.has(str(path)):
            raise MachineError(
                f"the tools tree has no UEFI firmware for {arch}: {path} is not in {tools.tree}",
                hint="build the tools tree again: ./nox -s clean, then the build",
            )
    return firmware


def copy_variables(tools: Tools, firmware: Firmware, target: Path) -> None:
    """Write a fresh set of firmware variables to target, for one machine to change."""
    shutil.copyfile(tools.tree / firmware.variables.relative_to("/"), target)
