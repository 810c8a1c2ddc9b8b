"""The validator of tests/wsl.py accepts what is right and names what is not."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from scripts import arch
from scripts.emulation import elf
from scripts.formats import archives
from tests import wsl

IMAGE = Path(__file__).resolve().parents[3] / "mkosi.images/wsl-rootfs"

# Units that only a package which no image has would bring.
FOREIGN = ("NetworkManager", "NetworkManager-wait-online", "networking", "hypervkvpd")
OURS = [unit for unit in wsl.UNITS if not unit.startswith(FOREIGN)]
OF_USERS = [unit for unit in OURS if "tmpfiles-setup.s" in unit or "tmpfiles-clean" in unit]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system in little, with the files that our own image adds."""
    tree = tmp_path / "tree"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "boot").mkdir()
    subprocess.run(
        ["cp", "-a", "--no-preserve=ownership", f"{IMAGE}/mkosi.extra/.", tree], check=True
    )
    (tree / "etc/systemd/system/systemd-networkd-wait-online.service").symlink_to("/dev/null")
    for manager in wsl.MANAGERS:
        units = tree / "usr/lib/systemd" / manager
        units.mkdir(parents=True)
        for unit in OURS if manager == "system" else OF_USERS:
            (units / unit).write_text("[Unit]\nDescription=Wanted by what Windows does\n")
    for name in ("bash", "dash", "systemd"):
        (tree / "usr/bin" / name).write_bytes(elf.says(arch.X86_64, ""))
        (tree / "usr/bin" / name).chmod(0o755)
    (tree / "usr/bin/sh").symlink_to("dash")
    (tree / "usr/bin/init").symlink_to("../lib/systemd/systemd")
    (tree / "usr/lib/systemd/systemd").symlink_to("/usr/bin/systemd")
    for name in ("bin", "sbin"):
        (tree / name).symlink_to("usr/bin")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nd:x:1:1:d:/:/bin/sh\n")
    (tree / "etc/shadow").write_text("root:!*:1::::::\ndaemon:*:1::::::\n")
    (tree / "etc/shadow").chmod(0o640)
    (tree / "etc/nsswitch.conf").write_text("hosts: files myhostname dns  # no resolve\n")
    return tree


def complaints(tree: Path) -> list[str]:
    tar = tree.with_suffix(".tar")
    subprocess.run(
        ["tar", "-C", tree, "--owner=0", "--group=0", "--format=pax", "-cf", tar, "."], check=True
    )
    return wsl.complaints(archives.pack_rootfs(tar, ["gzip", "--no-name"]))


def test_our_configuration_keeps_to_the_rules(tree: Path) -> None:
    assert complaints(tree) == []


@pytest.mark.parametrize("name", wsl.FORBIDDEN)
def test_what_windows_brings_itself_is_named(tree: Path, name: str) -> None:
    (tree / name).symlink_to("somewhere")
    assert complaints(tree) == [f"/{name} is there"]


def test_a_kernel_is_named(tree: Path) -> None:
    (tree / "boot/vmlinuz-6.18").touch()
    assert complaints(tree) == ["/boot/vmlinuz-6.18 is a kernel or an initramfs"]


def test_a_password_is_named(tree: Path) -> None:
    (tree / "etc/shadow").write_text("root:$y$j9T$abc:1::::::\n")
    assert complaints(tree) == ["/etc/shadow has a password of root"]


@pytest.mark.parametrize("unit", OURS)
def test_a_unit_that_would_run_is_named(tree: Path, unit: str) -> None:
    (tree / "etc/systemd/system" / unit).unlink()
    assert complaints(tree) == [f"{unit} is neither disabled nor masked"]


@pytest.mark.parametrize("unit", sorted({*wsl.UNITS} - {*OURS}))
def test_a_unit_that_a_package_would_bring_is_named(tree: Path, unit: str) -> None:
    (tree / "usr/lib/systemd/system" / unit).write_text("[Service]\nExecStart=/bin/true\n")
    assert complaints(tree) == [f"{unit} is neither disabled nor masked"]


@pytest.mark.parametrize("unit", OF_USERS)
def test_a_unit_that_would_run_for_each_user_is_named(tree: Path, unit: str) -> None:
    (tree / "etc/systemd/user" / unit).unlink()
    assert complaints(tree) == [f"{unit} is neither disabled nor masked for users"]


def test_a_getty_that_a_generator_starts_cannot_be_disabled(tree: Path) -> None:
    unit = "console-getty.service"
    (tree / "etc/systemd/system" / unit).unlink()
    (tree / "usr/lib/systemd/system" / unit).write_text("[Install]\nWantedBy=getty.target\n")
    assert complaints(tree) == [f"{unit} is neither disabled nor masked"]


def test_a_getty_that_its_template_enables_is_named(tree: Path) -> None:
    units, unit = tree / "usr/lib/systemd/system", "getty@tty1.service"
    (tree / "etc/systemd/system" / unit).unlink()
    (units / unit).rename(units / "getty@.service")
    (units / "getty@.service").write_text("[Install]\nDefaultInstance=tty1\n")
    assert complaints(tree) == []
    wants = tree / "etc/systemd/system/getty.target.wants"
    wants.mkdir()
    (wants / unit).symlink_to("/usr/lib/systemd/system/getty@.service")
    assert complaints(tree) == [f"{unit} is neither disabled nor masked"]


RESOLVED = "systemd-resolved.service"


@pytest.fixture
def disabled(tree: Path) -> Path:
    """The tree, in which a unit is disabled instead of masked."""
    (tree / "etc/systemd/system" / RESOLVED).unlink()
    text = "[Install]\nWantedBy=sysinit.target\nAlias=dbus-org.freedesktop.resolve1.service\n"
    (tree / "usr/lib/systemd/system" / RESOLVED).write_text(text)
    return tree


def test_a_disabled_unit_does_not_run(disabled: Path) -> None:
    assert complaints(disabled) == []


def test_a_unit_that_is_not_there_does_not_run(disabled: Path) -> None:
    (disabled / "usr/lib/systemd/system" / RESOLVED).unlink()
    assert complaints(disabled) == []


@pytest.mark.parametrize(
    "link", [f"sysinit.target.wants/{RESOLVED}", "dbus-org.freedesktop.resolve1.service"]
)
def test_an_enabled_unit_is_named(disabled: Path, link: str) -> None:
    path = disabled / "etc/systemd/system" / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(f"/usr/lib/systemd/system/{RESOLVED}")
    assert complaints(disabled) == [f"{RESOLVED} is neither disabled nor masked"]


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("[None]", "[NoCloud]", "cloud-init looks for another datasource than None"),
        ("users: []", "users: [default]", "cloud-init makes users"),
        ("users: []", "", "cloud-init makes users"),
        ("disabled", "{version: 2}", "cloud-init configures the network"),
    ],
)
def test_a_cloud_init_that_configures_what_lima_does_is_named(
    tree: Path, before: str, after: str, complaint: str
) -> None:
    path = tree / "etc/cloud/cloud.cfg.d/99-wsl.cfg"
    path.write_text(path.read_text().replace(before, after))
    assert complaints(tree) == [complaint]


def test_of_cloud_init_s_files_the_last_one_decides(tree: Path) -> None:
    (tree / "etc/cloud/cloud.cfg").write_text("users: [default]\n")
    (tree / "etc/cloud/cloud.cfg.d/90-dpkg.cfg").write_text("datasource_list: [Ec2]\n")
    assert complaints(tree) == []
    (tree / "etc/cloud/cloud.cfg.d/99-zzz.cfg").write_text("datasource_list: [Ec2]\n")
    assert complaints(tree) == ["cloud-init looks for another datasource than None"]


@pytest.mark.parametrize("name", wsl.CONFIGURATION)
def test_a_configuration_that_others_may_write_is_named(tree: Path, name: str) -> None:
    (tree / name).chmod(0o666)
    assert complaints(tree) == [f"/{name} is not of root with mode 0644"]


@pytest.mark.parametrize(
    ("unit", "program"),
    [(unit, program) for unit, programs in wsl.CLIENTS.items() for program in programs],
)
def test_a_program_whose_daemon_never_runs_is_named(tree: Path, unit: str, program: str) -> None:
    (tree / program).parent.mkdir(exist_ok=True)
    (tree / program).touch()
    assert complaints(tree) == [f"/{program} expects {unit}, which never runs"]


def test_a_name_service_whose_daemon_never_runs_is_named(tree: Path) -> None:
    file = tree / "etc/nsswitch.conf"
    expects = f"resolve in /etc/nsswitch.conf expects {RESOLVED}, which never runs"
    file.write_text("hosts: files resolve [!UNAVAIL=return] dns\n")
    assert complaints(tree) == [expects]
    file.rename(tree / "etc/authselected")
    file.symlink_to("/etc/authselected")
    assert complaints(tree) == [expects]


def test_a_pam_module_whose_daemon_never_runs_is_named(tree: Path) -> None:
    (tree / "etc/pam.d").mkdir()
    (tree / "etc/pam.d/login").write_text("session\toptional\tpam_systemd.so\n")
    unit = "systemd-logind.service"
    expects = f"pam_systemd.so in /etc/pam.d expects {unit}, which never runs"
    assert complaints(tree) == [expects]
    (tree / "usr/lib/systemd/system" / unit).write_text("[Service]\nExecStart=/bin/true\n")
    assert complaints(tree) == []
    (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
    assert complaints(tree) == [expects]


def change(tree: Path, name: str, before: str, after: str) -> None:
    """Replace text in a configuration of the tree, which has it."""
    text = (tree / name).read_text()
    assert before in text
    (tree / name).write_text(text.replace(before, after))


WSL, DISTRIBUTION = wsl.CONFIGURATION
ICON = "/usr/lib/wsl/finch.ico"


@pytest.mark.parametrize(
    ("name", "before", "after", "complaint"),
    [
        (WSL, "systemd=true", "systemd=false", f"/{WSL} does not start systemd"),
        (WSL, "[boot]", "[user]\ndefault=me\n[boot]", f"/{WSL} names a default user"),
        (WSL, "[boot]", "[boot]\nlogo=x", f"/{WSL} has the unknown setting boot.logo"),
        (WSL, "[boot]", "[Boots]\na=x\n[boot]", f"/{WSL} has the unknown setting Boots.a"),
        (DISTRIBUTION, "defaultName", "name", f"/{DISTRIBUTION} has no oobe.defaultName"),
        (DISTRIBUTION, f"icon={ICON}", "", f"/{DISTRIBUTION} has no shortcut.icon"),
        (DISTRIBUTION, ICON, "/usr/lib/wsl/none.ico", "/usr/lib/wsl/none.ico is not there"),
        (DISTRIBUTION, ICON, "/etc/wsl.conf", "shortcut.icon is not below /usr/lib/wsl or "
         "/usr/share/wsl"),
    ],
)  # fmt: skip
def test_a_setting_that_wsl_does_not_accept_is_named(
    tree: Path, name: str, before: str, after: str, complaint: str
) -> None:
    change(tree, name, before, after)
    assert complaint in complaints(tree)


def test_settings_may_have_any_case(tree: Path) -> None:
    change(tree, WSL, "[boot]", "[Network]\nGenerateResolvConf=true\n[boot]")
    assert complaints(tree) == []


def test_an_icon_that_is_too_large_is_named(tree: Path) -> None:
    with (tree / ICON.lstrip("/")).open("ab") as file:
        file.truncate(wsl.LARGEST + 1)
    assert complaints(tree) == [f"{ICON} has more than {wsl.LARGEST} bytes"]


@pytest.mark.parametrize(
    ("setting", "path", "complaint"),
    [
        ("oobe]\ncommand", "usr/lib/wsl/first", "is not of root with mode 0755 or 0775"),
        ("oobe]\ncommand", "opt/first", "oobe.command is not below /usr/lib/wsl or "
         "/usr/libexec/wsl"),
        ("windowsterminal]\nprofileTemplate", "usr/lib/wsl/a.json", "is not of root with mode 0640 "
         "or 0660"),
        ("windowsterminal]\nprofileTemplate", "usr/share/wsl/a.json",
         "windowsterminal.profileTemplate is not below /usr/lib/wsl"),
    ],
)  # fmt: skip
def test_a_file_for_the_first_start_or_the_terminal_has_its_place_and_mode(
    tree: Path, setting: str, path: str, complaint: str
) -> None:
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).touch(mode=0o600)
    section = f"[{setting}=/{path}\n"
    if "oobe" in setting:
        change(tree, DISTRIBUTION, "[oobe]\n", section)
    else:
        change(tree, DISTRIBUTION, "[shortcut]", f"{section}[shortcut]")
    assert any(complaint in one for one in complaints(tree))


def test_a_default_user_is_1000_and_not_there_yet(tree: Path) -> None:
    change(tree, DISTRIBUTION, "[oobe]", "[oobe]\ndefaultUid=1000")
    assert complaints(tree) == []
    with (tree / "etc/passwd").open("a") as file:
        file.write("me:x:1000:1000::/home/me:/bin/sh\n")
    assert complaints(tree) == ["an account has the uid 1000 of oobe.defaultUid"]
    change(tree, DISTRIBUTION, "Uid=1000", "Uid=1001")
    assert complaints(tree) == ["oobe.defaultUid is 1001 instead of 1000"]


@pytest.mark.parametrize("path", ["/bin/bash", "/bin/sh", "/sbin/init"])
def test_a_program_for_another_machine_is_named(tree: Path, path: str) -> None:
    name = {"/bin/bash": "bash", "/bin/sh": "dash", "/sbin/init": "systemd"}[path]
    (tree / "usr/bin" / name).write_bytes(elf.says(arch.AARCH64, ""))
    assert complaints(tree) == [f"{path} is no program for x86-64"]
    (tree / "usr/bin" / name).write_text("#!/bin/busybox sh\n")
    assert complaints(tree) == [f"{path} is no program for x86-64"]
    (tree / "usr/bin" / name).unlink()
    assert complaints(tree) == [f"{path} is not there"]


def test_a_link_that_leads_to_itself_is_no_program(tree: Path) -> None:
    (tree / "usr/bin/sh").unlink()
    (tree / "usr/bin/sh").symlink_to("../bin/sh")
    assert complaints(tree) == ["/bin/sh is not there"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("me:x:1", "/etc/passwd has a line with 3 fields instead of 7"),
        ("toor:x:0:0::/root:/bin/sh", "/etc/passwd has the uid 0 twice"),
    ],
)
def test_an_account_that_wsl_cannot_read_is_named(tree: Path, line: str, complaint: str) -> None:
    with (tree / "etc/passwd").open("a") as file:
        file.write(f"{line}\n")
    assert complaints(tree) == [complaint]


def test_a_system_without_root_is_named(tree: Path) -> None:
    change(tree, "etc/passwd", "root:x", "admin:x")
    assert complaints(tree) == ["/etc/passwd has no root with the uid 0"]


def test_accounts_that_others_may_change_or_read_are_named(tree: Path) -> None:
    (tree / "etc/passwd").chmod(0o666)
    (tree / "etc/shadow").chmod(0o644)
    assert complaints(tree) == [
        "/etc/passwd is not of root with mode 0644 or 0664",
        "/etc/shadow is not of root with mode 0640, 0600 or 0000",
    ]


def test_an_attribute_that_wsl_1_lacks_is_named(tmp_path: Path) -> None:
    tar = tmp_path / "labelled.tar"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as file:
        labelled = tarfile.TarInfo("usr")
        labelled.type, labelled.mode = tarfile.DIRTYPE, 0o755
        labelled.pax_headers = {"SCHILY.xattr.security.selinux": "system_u:object_r:usr_t:s0"}
        file.addfile(labelled)
    found = wsl.complaints(archives.pack_rootfs(tar, ["gzip", "--no-name"]))
    assert "/usr has the attribute security.selinux" in found


def test_a_tarball_of_names_and_disorder_is_named(tree: Path, tmp_path: Path) -> None:
    subprocess.run(
        ["tar", "-C", tree, "-czf", tmp_path / "plain.wsl", "./usr", "./etc", "./boot"], check=True
    )
    found = wsl.complaints(tmp_path / "plain.wsl")

    assert "the members are not in the order of their names" in found
    assert "the root of the file system is not the root of the archive" in found
    assert "owners have names" in found
