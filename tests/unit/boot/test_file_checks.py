"""Each check of an image's files, on what an attacker or a careless build may leave in one."""

from __future__ import annotations

import dataclasses
import stat

import pytest

from scripts import catalog
from scripts.boot import checks
from scripts.boot.checks import files as under_test
from scripts.boot.checks import logins
from scripts.boot.checks.rule import rules_of
from scripts.boot.facts import Facts
from scripts.boot.inspection import Files
from scripts.boot.probes import Answer
from scripts.boot.results import Check, Status
from scripts.boot.ssh import WITHOUT_KEY
from tests.unit.boot import test_checks, trees
from tests.unit.boot.trees import FILE, FOLDER, LINK, entry, with_entry, with_texts

DEBIAN = trees.good("debian")


def judge(name: str, facts: Facts) -> Check:
    [found] = [check for check in checks.check_all(facts) if check.name == name]
    return found


def of_files(name: str, files: Files, distribution: str = "debian") -> Check:
    facts = {"debian": test_checks.good, "amazonlinux": test_checks.amazon}[distribution]()
    return judge(name, dataclasses.replace(facts, files=files))


@pytest.mark.parametrize("distribution", catalog.DISTRIBUTIONS)
def test_a_good_image_passes_every_check_of_its_files(distribution: str) -> None:
    facts = dataclasses.replace(
        test_checks.good(),
        files=trees.good(distribution),
        distribution=catalog.DISTRIBUTIONS[distribution],
    )
    found = [rule.outcome(facts) for rule in rules_of(under_test)]
    assert [(check.name, check.reason) for check in found if not check.passed] == []


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ({"/etc/shadow": "root:$y$j9T$x$y:1::::::\nnobody:*:1::::::"}, "not locked: root"),
        ({"/etc/shadow": "root::1::::::\nnobody:*:1::::::"}, "not locked: root"),
        ({"/etc/shadow": "root:!$y$j9T$x$y:1::::::\nnobody:*:1::::::"}, "not locked: root"),
        ({"/etc/shadow": "root:!!aB3dE6gH9jK2x:1::::::\nnobody:*:1::::::"}, "not locked: root"),
        ({"/etc/shadow": "root\nnobody:*"}, "not locked: root"),
        ({"/etc/shadow": ""}, "/etc/shadow lists no account"),
        ({"/etc/passwd": "root::0:0::/root:/bin/sh"}, "none is needed: root"),
        ({"/etc/passwd": "+finch:x:1000:1000::/home/finch:/bin/sh", "/etc/shadow": "+finch:!:1:"},
         "there is a personal account: finch"),
        ({"/etc/passwd": "+toor:x:0:0::/root:/bin/sh", "/etc/shadow": "+toor:!:1:"},
         "other than root has UID 0: toor"),
        ({"/etc/passwd": "+ghost:x:200:200::/:/bin/sh"}, "/etc/shadow lacks ghost"),
    ],
)  # fmt: skip
def test_an_account_that_lets_somebody_in_is_named(texts: dict[str, str], reason: str) -> None:
    assert reason in of_files("locked-passwords", with_texts(DEBIAN, texts)).reason


@pytest.mark.parametrize(
    "path",
    [
        "/root/.ssh/authorized_keys",
        "/root/.ssh/authorized_keys2",
        "/etc/ssh/authorized_keys",
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_rsa_key.pub",
        "/home/finch/.ssh/id_ed25519",
    ],
)
def test_a_key_that_is_baked_in_is_named(path: str) -> None:
    assert path in of_files("no-keys", with_entry(DEBIAN, entry(path))).reason


def test_a_private_key_under_any_name_is_named() -> None:
    files = dataclasses.replace(DEBIAN, private_keys=["/usr/share/harmless.txt"])
    assert "/usr/share/harmless.txt" in of_files("no-keys", files).reason


@pytest.mark.parametrize(
    "path",
    [
        "/var/lib/systemd/random-seed",
        "/var/lib/systemd/credential.secret",
        "/var/lib/cloud/instances/i-1/user-data.txt",
        "/var/lib/cloud/data/instance-id",
    ],
)
def test_a_seed_or_an_instance_that_is_baked_in_is_named(path: str) -> None:
    assert path in of_files("no-seeds", with_entry(DEBIAN, entry(path))).reason


def test_a_machine_id_that_all_would_share_is_named() -> None:
    shared = with_texts(DEBIAN, {"/etc/machine-id": "8a67b8a2b0d94ba7a1ad1ed35a8d4a5c\n"})
    assert "all machines would share" in of_files("no-seeds", shared).reason
    fresh = with_texts(DEBIAN, {"/etc/machine-id": "uninitialized\n"})
    assert of_files("no-seeds", fresh).passed
    gone = trees.without(DEBIAN, "/etc/machine-id")
    assert "there is no /etc/machine-id" in of_files("no-seeds", gone).reason
    own = with_entry(DEBIAN, entry("/var/lib/dbus/machine-id"))
    assert "a file of its own" in of_files("no-seeds", own).reason


def test_a_random_seed_on_the_esp_is_named() -> None:
    facts = dataclasses.replace(test_checks.good(), esp_files=["EFI/BOOT/X", "loader/random-seed"])
    assert "loader/random-seed on the ESP" in judge("no-seeds", facts).reason


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (entry("/usr/bin/bash", FILE | 0o4755), "not expected: /usr/bin/bash (setuid root)"),
        (entry("/usr/bin/bash", FILE | 0o2755, gid=42), "/usr/bin/bash (setgid shadow)"),
        (entry("/usr/bin/ping", capabilities=1 << 13), "/usr/bin/ping (capabilities 0x2000)"),
        (entry("/usr/bin/x", FILE | 0o4755, uid=7), "/usr/bin/x (setuid 7)"),
        (
            entry("/usr/bin/su", FILE | 0o6755),
            "/usr/bin/su is setuid root, setgid root, not setuid",
        ),
        (entry("/usr/bin/sudo", FILE | 0o755), "without its privilege, or missing: /usr/bin/sudo"),
    ],
)
def test_a_privilege_that_is_not_expected_or_is_gone_is_named(one: object, reason: str) -> None:
    files = with_entry(DEBIAN, one)  # type: ignore[arg-type]
    assert reason in of_files("privileged-files", files).reason


def test_a_privileged_program_that_is_gone_is_named() -> None:
    files = trees.without(DEBIAN, "/usr/bin/fusermount3")
    assert "missing: /usr/bin/fusermount3" in of_files("privileged-files", files).reason


def test_folders_may_hand_on_their_group() -> None:
    files = with_entry(DEBIAN, entry("/var/mail", FOLDER | 0o2775, gid=8))
    assert of_files("privileged-files", files).passed


def test_what_only_some_releases_have_is_not_missed() -> None:
    files = trees.good("amazonlinux")
    optional = [
        path for path, one in under_test.expected("privileged", "rpm").items() if one.optional
    ]
    for path in optional:
        files = trees.without(files, path)
    assert optional
    assert of_files("privileged-files", files, "amazonlinux").passed


def test_every_exception_has_a_reason_and_is_for_packages_that_there_are() -> None:
    formats = {one.package_format for one in catalog.DISTRIBUTIONS.values()}
    for kind in ("privileged", "writable"):
        for packages in formats:
            assert all(one.why for one in under_test.expected(kind, packages).values())
    assert under_test.kinds() == {
        "privileged": {under_test.EVERY, *formats}, "writable": {under_test.EVERY},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (entry("/usr/bin/sudo.conf", FILE | 0o666), "/usr/bin/sudo.conf (0666)"),
        (entry("/srv", FOLDER | 0o777), "/srv (0777)"),
        (entry("/srv", FOLDER | 0o1777), "/srv (1777)"),
        (entry("/run/odd", stat.S_IFIFO | 0o622), "/run/odd (0622)"),
        (entry("/tmp", FOLDER | 0o777), "not a sticky folder: /tmp"),
        (entry("/tmp", FILE | 0o1777), "not a sticky folder: /tmp"),
    ],
)
def test_what_everyone_may_write_to_is_named(one: object, reason: str) -> None:
    files = with_entry(DEBIAN, one)  # type: ignore[arg-type]
    assert reason in of_files("world-writable", files).reason


def test_a_link_has_no_mode_of_its_own() -> None:
    assert of_files("world-writable", with_entry(DEBIAN, entry("/l", LINK | 0o777))).passed


def test_what_tells_of_the_builder_is_named_with_the_file() -> None:
    files = dataclasses.replace(DEBIAN, traces={"/etc/x": "/home/ann/finch"})
    assert of_files("no-builder-traces", files).reason == "/etc/x has /home/ann/finch"
    named = with_entry(DEBIAN, entry("/etc/hostname"))
    assert "already has a name: /etc/hostname" in of_files("no-builder-traces", named).reason


@pytest.mark.parametrize("line", ["127.0.1.1 anns-laptop", "192.0.2.1 mirror.internal"])
def test_a_host_of_the_builders_network_is_named(line: str) -> None:
    files = with_texts(DEBIAN, {"/etc/hosts": f"+{line}"})
    assert f"/etc/hosts names {line.split()[1]}" in of_files("no-builder-traces", files).reason


@pytest.mark.parametrize(
    "path",
    [
        "/var/log/dpkg.log",
        "/var/log/apt/history.log",
        "/var/log/journal/8a67/system.journal",
        "/var/cache/apt/pkgcache.bin",
        "/var/cache/ldconfig/aux-cache",
        "/var/cache/dnf/x.solv",
        "/var/lib/apt/lists/deb_InRelease",
        "/var/lib/dpkg/status-old",
        "/etc/shadow-",
        "/root/.bash_history",
        "/root/.cache/x",
        "/tmp/x",
        "/var/tmp/x",
    ],
)
def test_what_a_build_left_behind_is_named(path: str) -> None:
    assert path in of_files("no-leftovers", with_entry(DEBIAN, entry(path))).reason
    assert of_files("no-leftovers", with_entry(DEBIAN, entry(path, size=0))).passed


def test_a_root_that_cannot_be_read_to_its_end_is_a_failure() -> None:
    files = dataclasses.replace(DEBIAN, complaint="the folder /usr contains itself")
    assert of_files("root-files", files).reason == "the folder /usr contains itself"
    assert of_files("root-files", Files()).status is Status.FAILED


def refusals(text: str) -> Facts:
    said = dict.fromkeys(WITHOUT_KEY, text)
    return dataclasses.replace(test_checks.good(), refusals=said)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a@b: Permission denied (publickey,password).", "also accepts logins by password"),
        ("a@b: Permission denied (publickey,keyboard-interactive).", "by keyboard-interactive"),
        ("a@b: Permission denied (gssapi-with-mic,publickey).", "by gssapi-with-mic"),
        ("", "did not refuse a login: password: ''"),
        ("Connection closed by 127.0.0.1", "did not refuse a login"),
    ],
)
def test_an_sshd_that_offers_more_than_keys_fails(text: str, reason: str) -> None:
    assert reason in judge("ssh-needs-a-key", refusals(text)).reason


def test_every_way_to_log_in_without_a_key_must_have_been_tried() -> None:
    facts = dataclasses.replace(
        test_checks.good(), refusals={"password": "Permission denied (publickey)."}
    )
    assert "keyboard-interactive: None" in judge("ssh-needs-a-key", facts).reason


@pytest.mark.parametrize("name", logins.CONFIGURATION)
def test_each_setting_of_sshd_counts(name: str) -> None:
    lines = test_checks.FIRST["sshd-configuration"].splitlines()
    for changed in ([], [f"{name} other"]):
        text = "\n".join([*(line for line in lines if not line.startswith(name)), *changed])
        facts = test_checks.good()
        facts.first = {**(facts.first or {}), "sshd-configuration": Answer(text)}
        assert f"{name} is " in judge("sshd-configuration", facts).reason


@pytest.mark.parametrize("mark", ["!", "!!", "*", "!*", "*LOCK*", "!locked"])
def test_every_mark_of_a_locked_account_is_known(mark: str) -> None:
    texts = {"/etc/shadow": f"root:{mark}:1::::::\nnobody:*:1::::::"}
    assert "not locked" not in of_files("locked-passwords", with_texts(DEBIAN, texts)).reason
