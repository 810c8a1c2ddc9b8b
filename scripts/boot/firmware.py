"""The UEFI firmware that starts a guest."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from scripts import catalog
from scripts.arch import AARCH64, X86_64, Arch
from scripts.mkosi.sandbox import Tools
from scripts.system.errors import MachineError


@dataclass(frozen=True)
class Firmware:
    """Firmware code and the template of its variables, as absolute paths inside the tools tree."""

    code: Path
    variables: Path


def _firmware(folder: str, code: str, variables: str) -> Firmware:
    return Firmware(Path("/usr/share") / folder / code, Path("/usr/share") / folder / variables)


# The builds without Secure Boot, as packaged by Debian (ovmf, qemu-efi-aarch64) and then by Fedora
# (edk2-ovmf, edk2-aarch64).
FIRMWARE = {
    X86_64: (
        _firmware("OVMF", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
        _firmware("edk2/ovmf", "OVMF_CODE.fd", "OVMF_VARS.fd"),
    ),
    AARCH64: (
        _firmware("AAVMF", "AAVMF_CODE.fd", "AAVMF_VARS.fd"),
        _firmware("edk2/aarch64", "QEMU_EFI-pflash.raw", "vars-template-pflash.raw"),
    ),
}


def find(tools: Tools, arch: Arch) -> Firmware:
    """Return the firmware for arch. Raises MachineError if the tools tree has none."""
    for firmware in FIRMWARE[arch]:
        if tools.has(str(firmware.code)) and tools.has(str(firmware.variables)):
            return firmware
    wanted = " or ".join(str(firmware.code) for firmware in FIRMWARE[arch])
    raise MachineError(
        f"the tools tree {tools.tree} has no UEFI firmware for {arch}, which is {wanted}",
        hint=f"build the tools tree again: {catalog.command('clean')}, then the build",
    )


def copy_variables(tools: Tools, firmware: Firmware, target: Path) -> None:
    """Write a fresh set of firmware variables to target, which one machine may change."""
    shutil.copyfile(tools.tree / firmware.variables.relative_to("/"), target)
