"""Checks of how the guest started: by UEFI, from the built UKI."""

from __future__ import annotations

from scripts.boot.checks.rule import check, failed_if
from scripts.boot.checks.text import assignments
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers


@check("first-boot", "the first boot completes", needs=["boots.first"])
def first_boot(_facts: Facts, boot: Verdict) -> Verdict:
    """It reaches sshd, answers the probes and powers off."""
    return boot


@check("uefi", "UEFI booted the UKI on the ESP", needs=["first"], probes=["efi"])
def uefi(facts: Facts, first: Answers) -> Verdict:
    """systemd-stub, the UKI's loader, leaves EFI variables that say where it was loaded from."""
    text = first["efi"].text
    variables = assignments(text)
    image = variables.get("StubImageIdentifier") or variables.get("LoaderImageIdentifier", "")
    esp = facts.esp_partition
    partition = variables.get("LoaderDevicePartUUID", "").lower()
    problems = {
        "no EFI variable mentions systemd-stub": "systemd-stub"
        not in variables.get("StubInfo", ""),
        "the stub was not loaded from the ESP": not esp or partition != esp.uuid,
        f"the stub was loaded from {image or 'an unknown file'}": (
            image.replace("\\", "/").strip("/").lower() != facts.arch.boot_file.lower()
        ),
    }
    return failed_if(problems, text)


@check("uki-in-guest", "the guest's ESP holds the built UKI", needs=["first"], probes=["uki"])
def uki_in_guest(facts: Facts, first: Answers) -> Verdict:
    """The ESP that the guest mounts is the one that it was booted from."""
    text = first["uki"].text
    differs = text.split(" ")[0] != facts.uki.sha256
    return failed_if({"the UKI that the guest sees on its ESP is not the built one": differs}, text)


@check(
    "kernel-command-line",
    "the kernel command line is the UKI's",
    needs=["first"],
    probes=["cmdline"],
)
def kernel_command_line(facts: Facts, first: Answers) -> Verdict:
    """Nothing between the UKI and the kernel added or dropped an option."""
    return _same("the kernel command line", first["cmdline"].text, facts.uki.cmdline)


@check("kernel-release", "the running kernel is the UKI's", needs=["first"], probes=["kernel"])
def kernel_release(facts: Facts, first: Answers) -> Verdict:
    """The release that the UKI announces is the one that runs."""
    return _same("the running kernel", first["kernel"].text, facts.uki.uname)


def _same(what: str, seen: str, wanted: str) -> Verdict:
    return failed_if({f"{what} is not the UKI's": seen != wanted}, f"{seen}\nUKI: {wanted}")
