"""What clients need of the guest: the data, the probes that are made of it, and its checks."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from scripts import catalog, options
from scripts.arch import X86_64
from scripts.boot import checks, needs, probes
from scripts.boot.checks.needs import why_not_needed
from scripts.boot.needs import Need
from scripts.boot.probes import Answer
from scripts.build.manifest import Contents
from tests.unit.boot import test_checks

CLIENTS = {"CNI", "Finch", "Lima", "SELinux", "containerd", "nerdctl"}
CHECKS = {
    "programs": "programs",
    "modules": "kernel-modules",
    "sysctls": "sysctls",
    "controllers": "cgroup-controllers",
    "delegated": "cgroup-delegation",
}
ALL = [(kind, need) for kind, found in needs.table().items() for need in found]

# What Debian's images may not lack.
FIRM = [(kind, need) for kind, need in ALL if "debian" not in need.optional]


@pytest.mark.parametrize("need", [need for _, need in ALL], ids=lambda need: need.name)
def test_every_need_says_whose_it_is_what_for_and_where_that_stands(need: Need) -> None:
    assert need.client in CLIENTS
    assert len(need.reason) > 15
    assert not need.reason.endswith(".")
    assert re.search(r"/|\([1-8]\)|#\d", need.source)
    assert need.optional.keys() | need.pin.keys() <= catalog.DISTRIBUTIONS.keys()
    assert all(need.optional.values())


def test_no_need_is_named_twice() -> None:
    for found in needs.table().values():
        names = [need.name for need in found]
        assert sorted({*names}) == sorted(names)


def test_each_kind_has_a_probe_and_a_check() -> None:
    assert needs.table().keys() == CHECKS.keys() <= probes.table().keys()
    assert {*CHECKS.values()} <= {rule.name for rule in checks.RULES}


def test_what_issues_and_scripts_of_clients_ask_for_is_among_the_needs() -> None:
    names = {kind: {need.name for need in found} for kind, found in needs.table().items()}
    assert names["programs"] >= {
        "rsync", "sshfs", "fusermount3", "curl", "tar", "sudo", "restorecon", "newuidmap",
        "newgidmap", "mkfs.ext4", "resize2fs", "growpart", "mkfs.xfs",
    }  # fmt: skip
    assert names["modules"] >= {
        "overlay", "br_netfilter", "nf_tables", "ip_tables", "veth", "macvlan", "ipvlan", "vxlan",
        "wireguard", "fuse", "tun", "zram", "vsock", "virtiofs", "9p", "isofs", "ext4", "xfs",
    }  # fmt: skip


def test_a_profile_that_brings_something_is_one_that_users_can_choose(checkout: Path) -> None:
    wanted = {need.profile for _, need in ALL if need.profile}
    assert wanted == {"full-kernel", "xfs"}
    assert not wanted & options.OWN_PROFILES
    assert all((checkout / f"mkosi.profiles/{name}.conf").is_file() for name in wanted)


@pytest.mark.parametrize(("kind", "need"), FIRM, ids=[f"{kind}-{need.name}" for kind, need in FIRM])
def test_a_guest_without_it_fails_the_check_of_its_kind_which_names_client_and_reason(
    kind: str, need: Need
) -> None:
    facts = test_checks.in_first(**{kind: test_checks.have(kind, need.name)})(test_checks.good())
    failed = {check.name: check.reason for check in checks.check_all(facts) if not check.passed}
    assert failed == {CHECKS[kind]: f"{need.name} is not there ({need.client}: {need.reason})"}


def test_what_may_be_missing_is_said_with_its_excuse_in_the_evidence() -> None:
    change = test_checks.in_first(modules=test_checks.have("modules", "9p", "9pnet_virtio"))
    found = {check.name: check for check in checks.check_all(change(test_checks.good()))}
    assert found["kernel-modules"].passed
    assert "9p is not there: the kernel for clouds has none" in (found["kernel-modules"].evidence)
    assert "overlay: is there" in found["kernel-modules"].evidence


def test_an_image_with_the_full_kernel_must_have_9p() -> None:
    change = test_checks.in_first(modules=test_checks.have("modules", "9p"))
    facts = change(test_checks.good())
    facts.contents = Contents(profiles=frozenset({"full-kernel"}))
    found = {check.name: check for check in checks.check_all(facts)}
    assert found["kernel-modules"].reason.startswith("9p is not there (Lima: ")


def test_the_image_delegates_the_controllers_that_users_need(checkout: Path) -> None:
    drop_ins = (checkout / "mkosi.images/base/mkosi.extra").glob("**/user@.service.d/*.conf")
    [setting] = re.findall(
        r"^Delegate=(.*)$", "\n".join(p.read_text() for p in drop_ins), re.MULTILINE
    )
    assert setting.split() == [need.name for need in needs.table()["delegated"]]


def test_a_distribution_that_no_excuse_names_must_have_everything() -> None:
    third = dataclasses.replace(test_checks.DEBIAN, name="third")
    facts = dataclasses.replace(test_checks.good(), distribution=third)
    assert [need.name for _, need in ALL if why_not_needed(need, facts)] == []


def ask(kind: str, monkeypatch: pytest.MonkeyPatch, *asked: Need, before: str = "") -> Answer:
    """The answer of this machine to the probe of a kind, which asks for these needs."""
    monkeypatch.setattr(needs, "table", lambda: {kind: asked})
    script = before + probes.script("mark", X86_64, [kind])
    ran = subprocess.run(
        ["sh", "-s"], input=script, text=True, stdout=subprocess.PIPE, check=True, timeout=60
    )
    return probes.parse("mark", ran.stdout)[kind]


def need(name: str, **more: str | int) -> Need:
    return Need(name, "Lima", "reason", "source", **more)  # type: ignore[arg-type]


def test_a_program_is_found_by_name_or_path_and_runs_if_it_has_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = ask(
        "programs", monkeypatch, need("sh"), need("no-such-program"), need("/bin/sh"),
        need("tar", run="--version"), need("false", run="--x"),
    )  # fmt: skip
    lines = answer.text.splitlines()
    assert re.fullmatch(r"sh 0 (/\S+/)?sh", lines[0])
    assert lines[1] == "/bin/sh 0 /bin/sh"
    assert lines[2].startswith("tar 0 tar (")
    assert lines[3].startswith("false 1")
    assert len(lines) == 4


FAKE_KERNEL = """
modprobe() {
  for name in "$@"; do :; done
  case $name in
    overlay) echo "insmod /lib/modules/6.12/kernel/fs/overlayfs/overlay.ko.xz " ;;
    fuse) echo "builtin fuse" ;;
    bridge) printf '%s\\n' "insmod /a/llc.ko.xz" "insmod /a/bridge.ko.xz" ;;
    *) return 1 ;;
  esac
}
"""


def test_a_module_counts_if_it_can_be_loaded_or_is_built_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [need(name) for name in ("overlay", "fuse", "bridge", "no_such_module")]
    answer = ask("modules", monkeypatch, *asked, before=FAKE_KERNEL)
    assert answer.text.splitlines() == [
        "overlay 0 overlay.ko.xz ",
        "fuse 0 builtin fuse",
        "bridge 0 bridge.ko.xz",
    ]


def test_a_module_of_a_kernel_without_a_folder_of_modules_counts_if_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = next(Path("/sys/module").iterdir()).name
    answer = ask("modules", monkeypatch, need(loaded), before="modprobe() { return 1; }\n")
    assert answer.text == f"{loaded} 0 loaded"


def test_a_sysctl_that_is_large_enough_is_told_from_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 1 << 40
    answer = ask(
        "sysctls", monkeypatch, need("kernel.pid_max", least=2),
        need("kernel.threads-max", least=most), need("no.such.sysctl", least=1),
    )  # fmt: skip
    first, second = answer.text.splitlines()
    assert re.fullmatch(r"kernel\.pid_max 0 is \d+, at least 2 is needed", first)
    assert re.fullmatch(rf"kernel\.threads-max 1 is \d+, at least {most} is needed", second)


def test_a_sysctl_gets_its_value_back_and_one_that_cannot_be_set_fails(tmp_path: Path) -> None:
    """With a folder in place of /proc/sys, since this machine's settings are not the test's."""
    command = probes.table()["sysctls"].command.replace("/proc/sys", str(tmp_path))
    (tmp_path / "net").mkdir()
    (tmp_path / "net/range").write_text("1\t0\n")
    (tmp_path / "net/fixed").symlink_to("/dev/null")
    asked = "\n".join(
        each.question
        for each in (need("net.range", accepts="0 2147483647"), need("net.fixed", accepts="1"))
    )
    ran = subprocess.run(
        ["sh", "-c", f"NEEDS='{asked}'\n{command}"], text=True, capture_output=True, check=True
    )
    assert ran.stdout.splitlines() == [
        "net.range 0 was 1 0, became 0 2147483647",
        "net.fixed 1 was , became ",
    ]
    assert (tmp_path / "net/range").read_text() == "1 0\n"


def test_the_file_of_needs_has_no_field_that_nothing_reads() -> None:
    text = Path(needs.__file__).with_name("needs.toml").read_text()
    fields = {field.name for field in dataclasses.fields(Need)} - {"name"} | {"names"}
    for entries in tomllib.loads(text).values():
        for entry in entries:
            assert entry.keys() <= fields
