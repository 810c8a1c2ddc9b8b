"""Checks of Amazon Linux images, and of the RPM packages in them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from scripts.boot.checks.needs import LEFT_OUT
from scripts.boot.checks.rule import check, failed_if
from scripts.boot.checks.text import assignments
from scripts.boot.facts import Facts, Verdict
from scripts.boot.probes import Answers

CDN = "cdn.amazonlinux.com"

# Our own cloud-init has this in its release (al2023-package-build/packages.toml).
OURS = ".finch"

# Of the units in our presets, those that every version of their packages has.
OUR_PRESETS = re.compile(r"(cloud-.*|sshd|systemd-(networkd|resolved)(-.*)?)\.service")

# cloud-init's stage after the network; version 24.3 and older use the second name.
CLOUD_INIT_NETWORK = ("cloud-init-network.service", "cloud-init.service")

# sshd.socket would take sshd's port.
NOT_ENABLED = ("sshd.socket",)

# Files of the kernel package in /boot. The UKI replaces them, so the images leave them out
# (mkosi.images/base-with-kernel/mkosi.conf).
NOT_MISSED = re.compile(r"/boot/[^/]*-[^/]*")

UNIT_STATES = {
    "chronyd.service": "enabled",
    "cloud-config.service": "enabled",
    "cloud-final.service": "enabled",
    "cloud-init-local.service": "enabled",
    "sshd.service": "enabled",
    "systemd-networkd.service": "enabled",
    "systemd-networkd-wait-online.service": "masked",
    "systemd-resolved.service": "enabled",
}


@check(
    "os-release",
    "os-release says amzn 2023",
    needs=["first"],
    probes=["os-release"],
    distribution="amazonlinux",
)
def os_release(_facts: Facts, first: Answers) -> Verdict:
    """Programs recognise the distribution by these two fields."""
    text = first["os-release"].text
    fields = assignments(text)
    name, version = (fields.get(field, "").strip('"') for field in ("ID", "VERSION_ID"))
    is_other = (name, version) != ("amzn", "2023")
    return failed_if({f"os-release says {name or 'nothing'} {version}": is_other}, text)


@check(
    "packages",
    "rpm -Va reports no missing file, except the kernel's in /boot",
    needs=["first"],
    probes=["rpm-packages", "rpm-missing"],
    packages="rpm",
)
def packages(_facts: Facts, first: Answers) -> Verdict:
    """The guest's own rpm reads the database that the build's rpm wrote."""
    count = len(first["rpm-packages"].text.splitlines())
    lines = [line for line in first["rpm-missing"].text.splitlines() if line.strip()]
    missing = [line for line in lines if not NOT_MISSED.fullmatch(line.split()[-1])]
    problems = {
        # No image works with fewer; if rpm cannot read its database, it lists none.
        f"rpm lists only {count} packages": count < 50,
        f"rpm -Va: {len(missing)} files are missing": missing,
    }
    evidence = "\n".join(missing) or f"{count} packages, nothing missing but the kernel's in /boot"
    return failed_if(problems, evidence)


@check(
    "rpm-knows",
    "rpm lists every package that we added",
    needs=["first"],
    probes=["rpm-packages"],
    packages="rpm",
)
def rpm_knows(facts: Facts, first: Answers) -> Verdict:
    """What we add is installed as packages, our own cloud-init among them."""
    listed = set(first["rpm-packages"].text.split())
    wanted = sorted(name.removesuffix(".rpm") for name in facts.contents.rpms)
    missing = [name for name in wanted if name not in listed]
    own = [name for name in listed if re.match(r"cloud-init-\d", name) and OURS in name]
    problems = {
        f"rpm does not list {', '.join(missing)}": missing,
        f"rpm lists no cloud-init with {OURS} in its release": facts.must_hold_packages and not own,
    }
    return failed_if(problems, "\n".join(wanted) or f"{LEFT_OUT} any")


@check(
    "repositories",
    "dnf's repositories are on Amazon's CDN",
    needs=["first"],
    probes=["repositories"],
    distribution="amazonlinux",
)
def repositories(_facts: Facts, first: Answers) -> Verdict:
    """No mirror that the image was built from is left in its configuration."""
    text = first["repositories"].text
    lines = text.splitlines()
    urls = [url.strip() for name, mark, url in (line.partition("=") for line in lines) if mark]
    others = [url for url in urls if urlsplit(url).hostname != CDN]
    problems = {
        "dnf repolist does not list amazonlinux": not any(
            line.split()[:1] == ["amazonlinux"] for line in lines
        ),
        "no repository has an address": not urls,
        f"a repository is not on Amazon's CDN: {', '.join(others)}": others,
    }
    return failed_if(problems, text)


@check(
    "selinux-policy",
    "SELinux has a policy",
    needs=["first"],
    probes=["selinux-policy"],
    distribution="amazonlinux",
)
def selinux_policy(_facts: Facts, first: Answers) -> Verdict:
    """The policy and the file contexts are there for anyone who switches SELinux on."""
    answer = first["selinux-policy"]
    problems = {
        "SELinux has no binary policy": "policy/policy." not in answer.text,
        "SELinux has no file contexts": answer.status != 0,
    }
    return failed_if(problems, answer.text)


@check(
    "presets",
    "the presets took effect",
    needs=["first"],
    probes=["unit-files"],
    distribution="amazonlinux",
)
def presets(_facts: Facts, first: Answers) -> Verdict:
    """Each unit that Finch relies on is enabled, and systemd agrees with the presets."""
    rows = [line.split() for line in first["unit-files"].text.splitlines()]
    ours = [row for row in rows if row and OUR_PRESETS.fullmatch(row[0])]
    wrong = [
        *_wrong_states({row[0]: row[1] for row in rows if len(row) > 1}),
        *_against_presets(ours),
    ]
    return failed_if({"; ".join(wrong): wrong}, "\n".join(" ".join(row) for row in ours))


def _wrong_states(units: dict[str, str]) -> list[str]:
    """What is wrong with the states of units, as unit → state."""
    wrong = [
        f"{unit} is {units.get(unit, 'not there')}, not {state}"
        for unit, state in UNIT_STATES.items()
        if units.get(unit) != state
    ]
    wrong += [f"{unit} is enabled" for unit in NOT_ENABLED if units.get(unit) == "enabled"]
    if not any(units.get(unit) == "enabled" for unit in CLOUD_INIT_NETWORK):
        wrong.append(f"neither {' nor '.join(CLOUD_INIT_NETWORK)} is enabled")
    return wrong


def _against_presets(rows: list[list[str]]) -> list[str]:
    """Units whose state contradicts their preset, from rows of unit, state and preset."""
    return [
        f"{row[0]} is {row[1]}, its preset {row[2]}"
        for row in rows
        if len(row) > 2 and {row[1], row[2]} == {"enabled", "disabled"}
    ]


@check(
    "machine-id",
    "the machine ID belongs to the instance, not to the image",
    needs=["first"],
    probes=["machine-id"],
    distribution="amazonlinux",
)
def machine_id(facts: Facts, first: Answers) -> Verdict:
    """The image has an empty /etc/machine-id, which the first boot fills."""
    inside, outside = first["machine-id"].text, facts.machine_id
    problems = {
        "/etc/machine-id of the image cannot be read": outside is None,
        f"the image has the machine ID {(outside or '').strip()!r}, which all would share": outside,
        f"the guest's machine ID is {inside!r}": not re.fullmatch(r"[0-9a-f]{32}", inside),
    }  # fmt: skip
    return failed_if(problems, f"in the image: {outside!r}\nin the guest: {inside!r}")
