"""Checks how the pinned and patched mkosi reads our configuration."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts import arch, catalog
from scripts.distributions import amazonlinux
from scripts.mkosi import installation, source
from scripts.stages import configuration, places, plan
from scripts.stages.additions import NONE, Additions
from scripts.system.errors import HarnessError
from scripts.system.progress import Progress

ARCHES = list(arch.NAMES)
DISTRIBUTIONS = list(catalog.DISTRIBUTIONS)
TARGETS = [
    (distribution, name, image)
    for distribution in DISTRIBUTIONS
    for name in ARCHES
    for image in catalog.images(name)
]

# Maps each image to its settings.
Summary = dict[str, dict[str, Any]]
Summarize = Callable[..., Summary]


@pytest.fixture(scope="session")
def site(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with mkosi, which each checkout downloads once."""
    site = tmp_path_factory.mktemp("site")
    try:
        installation.install(
            source.obtain(checkout / "mkosi", checkout / ".work", Progress(live=False)), site
        )
    except HarnessError as error:
        pytest.fail(f"mkosi cannot be obtained: {error.message}")
    return site


def summarize(
    root: Path, site: Path, distribution: str, arch_name: str, image: str, *args: str
) -> Summary:
    additions = root / "additions"
    if not additions.exists():
        NONE.lay_out(additions)
    result = subprocess.run(
        [
            sys.executable, "-m", "mkosi",
            "--distribution", distribution,
            "--architecture", arch.parse(arch_name).mkosi,
            "--image-id", image,
            "--output-directory", root / "output",
            *args,
            "--json", "summary",
        ],
        cwd=root,
        env={
            "PYTHONPATH": os.fspath(site),
            "PATH": os.environ["PATH"],
            places.OUTPUT: os.fspath(root / "output"),
            places.ADDITIONS: os.fspath(additions),
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return {entry["Image"]: entry for entry in json.loads(result.stdout)["Images"]}


@pytest.fixture(scope="session")
def root(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the configuration, in a folder with an awkward name."""
    root = tmp_path_factory.mktemp("root") / "finch ä images"
    root.mkdir()
    for path in checkout.glob("mkosi.*"):
        if path.is_dir():
            shutil.copytree(path, root / path.name, symlinks=True)
        else:
            shutil.copy(path, root)
    return root


@pytest.mark.parametrize(("distribution", "arch_name", "image"), TARGETS)
def test_mkosi_reads_a_stage_without_complaint_and_without_the_others(
    root: Path, site: Path, distribution: str, arch_name: str, image: str
) -> None:
    summary = summarize(root, site, distribution, arch_name, image, "--profile", "staged")

    assert set(summary) == {image, "main"}
    assert summary[image]["Dependencies"] == []
    assert summary[image]["Architecture"] == arch.parse(arch_name).mkosi


@pytest.mark.parametrize(("distribution", "arch_name", "image"), TARGETS)
def test_no_image_gets_a_door_for_logins_from_mkosi(
    root: Path, site: Path, distribution: str, arch_name: str, image: str
) -> None:
    """For systemd before 256 mkosi adds a socket that takes logins over VSOCK."""
    summary = summarize(root, site, distribution, arch_name, image, "--profile", "staged")
    assert summary[image]["Ssh"] == "never"


@pytest.mark.parametrize(("distribution", "arch_name", "image"), TARGETS)
def test_plain_mkosi_builds_what_the_image_stands_on_too(
    root: Path, site: Path, distribution: str, arch_name: str, image: str
) -> None:
    target = plan.StageTarget(distribution, arch.parse(arch_name), {})
    planned = plan.plan(root, [image], target)
    summary = summarize(root, site, distribution, arch_name, image)

    assert set(summary) == {stage.name for stage in planned} | {"main"}
    for stage in planned:
        assert summary[stage.name]["Dependencies"] == list(stage.needs)


def test_mkosi_reads_the_tools_tree_as_a_stage(root: Path, site: Path) -> None:
    name = catalog.TOOLS_TREE
    summary = summarize(root, site, "debian", arch.native().name, name, "--profile", "staged")

    assert summary[name]["Dependencies"] == []
    assert summary[name]["Packages"]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("arch_name", ARCHES)
def test_what_an_image_stands_on_is_one_path_even_with_spaces(
    root: Path, site: Path, distribution: str, arch_name: str
) -> None:
    summary = summarize(root, site, distribution, arch_name, "os-image", "--profile", "staged")
    os_image = summary["os-image"]

    assert os_image["BaseTrees"] == [str(root / "output/base-with-kernel")]
    assert os_image["Initrds"] == [str(root / "output/initrd")]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("arch_name", ARCHES)
def test_the_kernel_of_an_os_image_talks_to_a_uart_or_else_to_a_virtio_console(
    root: Path, site: Path, distribution: str, arch_name: str
) -> None:
    summary = summarize(root, site, distribution, arch_name, "os-image", "--profile", "staged")
    os_image = summary["os-image"]
    uart = {"x86_64": "console=ttyS0", "aarch64": "console=ttyAMA0"}[arch_name]
    words = os_image["KernelCommandLine"]

    assert [word for word in words if word.startswith("console=")] == ["console=hvc0", uart]
    assert "virtio_console" in str(os_image["KernelInitrdModules"])


@pytest.mark.parametrize("arch_name", ARCHES)
@pytest.mark.parametrize(
    ("profiles", "kernel"),
    [("staged", "linux-image-cloud-"), ("staged,full-kernel", "linux-image-")],
)
def test_debian_s_images_have_one_kernel_which_the_profile_chooses(
    root: Path, site: Path, arch_name: str, profiles: str, kernel: str
) -> None:
    name = "base-with-kernel"
    summary = summarize(root, site, "debian", arch_name, name, "--profile", profiles)
    assert [one for one in summary[name]["Packages"] if one.startswith("linux-")] == [
        f"{kernel}{arch.parse(arch_name).debian}"
    ]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("profiles", "has_it"), [("staged", False), ("staged,xfs", True)])
def test_the_base_has_xfsprogs_with_the_profile_only(
    root: Path, site: Path, distribution: str, profiles: str, has_it: bool
) -> None:
    summary = summarize(root, site, distribution, "x86_64", "base", "--profile", profiles)
    assert ("xfsprogs" in summary["base"]["Packages"]) == has_it


@pytest.mark.parametrize(
    ("distribution", "packages"),
    [
        ("debian", {"dbus-user-session", "fuse3", "sshfs", "uidmap"}),
        ("amazonlinux", {"fuse3", "policycoreutils", "shadow-utils"}),
    ],
)
def test_the_base_has_the_packages_that_lima_would_install_at_boot(
    root: Path, site: Path, distribution: str, packages: set[str]
) -> None:
    base = summarize(root, site, distribution, "x86_64", "base", "--profile", "staged")["base"]
    both = {"curl", "e2fsprogs", "iptables", "rsync", "sudo", "tar"}

    assert both | packages <= set(base["Packages"])
    assert os.fspath(root / f"mkosi.images/base/mkosi.{distribution}") in str(base["ExtraTrees"])


def test_mkosi_knows_nothing_of_an_image_that_is_not_there(root: Path, site: Path) -> None:
    with pytest.raises(AssertionError, match="no-such-image"):
        summarize(root, site, "debian", "x86_64", "no-such-image")


def test_the_tools_tree_has_dnf_where_rpms_are_to_be_installed(root: Path, site: Path) -> None:
    name = catalog.TOOLS_TREE
    plain = summarize(root, site, "debian", "x86_64", name, "--profile", "staged")[name]
    rpm = summarize(root, site, "debian", "x86_64", name, "--profile", "staged,rpm")[name]

    assert set(rpm["Packages"]) - set(plain["Packages"]) >= {"dnf", "distribution-gpg-keys"}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_programs_for_xfs_are_in_the_base_for_those_who_ask(
    root: Path, site: Path, distribution: str
) -> None:
    def packages(profiles: str) -> list[str]:
        summary = summarize(root, site, distribution, "x86_64", "base", "--profile", profiles)
        return list(summary["base"]["Packages"])

    assert "xfsprogs" not in packages("staged")
    assert "xfsprogs" in packages("staged,xfs")


@pytest.mark.parametrize("arch_name", ARCHES)
def test_debian_has_one_kernel_that_of_clouds_unless_the_full_one_is_asked_for(
    root: Path, site: Path, arch_name: str
) -> None:
    name, debian = catalog.KERNEL, arch.parse(arch_name).debian
    for profiles, kernel in (
        ("staged", "linux-image-cloud"),
        ("staged,full-kernel", "linux-image"),
    ):
        summary = summarize(root, site, "debian", arch_name, name, "--profile", profiles)
        assert summary[name]["Packages"] == [f"{kernel}-{debian}"]


@pytest.mark.parametrize("arch_name", ARCHES)
def test_amazon_linux_comes_from_a_dated_release(root: Path, site: Path, arch_name: str) -> None:
    summary = summarize(root, site, "amazonlinux", arch_name, "base", "--profile", "staged")

    assert summary["base"]["Release"] == "2023"
    assert summary["base"]["Snapshot"] in amazonlinux.known()


@pytest.mark.parametrize("arch_name", ARCHES)
def test_the_kernels_scriptlets_make_no_initrd_that_nothing_uses(
    root: Path, site: Path, arch_name: str
) -> None:
    name = "base-with-kernel"
    for distribution, told in (
        ("amazonlinux", {"KERNEL_INSTALL_BYPASS": "1"}),
        ("debian", {"INITRD": "No"}),
    ):
        summary = summarize(root, site, distribution, arch_name, name, "--profile", "staged")

        assert told.items() <= summary[name]["Environment"].items()


@pytest.mark.parametrize("arch_name", ["riscv64", "s390x"])
def test_mkosi_builds_amazon_linux_for_no_other_architecture(site: Path, arch_name: str) -> None:
    code = (
        "from mkosi.config import Architecture\n"
        "from mkosi.distribution.amazonlinux import Installer\n"
        f"Installer.architecture(Architecture.{arch_name})\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": os.fspath(site)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert result.returncode == 1
    assert f"{arch_name} is not supported by Amazon Linux" in result.stderr


def test_mkosi_reads_what_is_added_to_the_base(root: Path, site: Path, tmp_path: Path) -> None:
    program, rpm = tmp_path / "program", tmp_path / "own-1-1.x86_64.rpm"
    program.touch()
    rpm.touch()
    Additions((rpm,), ("own",), {"/usr/bin/own": program}).lay_out(root / "additions")
    try:
        summary = summarize(
            root, site, "amazonlinux", "x86_64", "base",
            "--profile", "staged", "--package-directory", places.RPMS,
        )  # fmt: skip
    finally:
        NONE.lay_out(root / "additions")

    base = summary["base"]
    assert {"bash", "own"} <= set(base["Packages"])
    assert base["PackageDirectories"] == [os.fspath(root / "additions/rpms")]
    assert os.fspath(root / "additions/mkosi.extra") in str(base["ExtraTrees"])


def test_mkosi_says_which_archive_it_takes_debian_from(checkout: Path) -> None:
    archive = source.obtain(checkout / "mkosi", checkout / ".work", Progress(live=False)).archive()

    assert archive.main.bare.startswith(("http://", "https://"))
    assert archive.main.bare.endswith("/debian")


# Prints what mkosi calls the files and folders that it finds without being told of them.
NAMES = """
from mkosi.config import SETTINGS
for setting in SETTINGS:
    for suffix in (*setting.path_suffixes, *setting.recursive_path_suffixes):
        print(f"mkosi.{suffix.partition('/')[0]}")
"""


def test_all_that_mkosi_finds_by_its_name_is_in_the_stage_keys(site: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", NAMES], env={"PYTHONPATH": os.fspath(site)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = {*result.stdout.split(), "mkosi.conf", "mkosi.local.conf", "mkosi.tools.conf"}
    assert len(names) > 30
    outputs = names & configuration.WRITTEN
    for name in names:
        (tmp_path / name).write_text(name)

    assert {file.name for file in configuration.read(tmp_path)} == names - outputs
    assert outputs < {"mkosi.builddir", "mkosi.cache", "mkosi.output", "mkosi.pkgcache"} | {
        "mkosi.tools", "mkosi.workspace",
    }  # fmt: skip


@pytest.mark.parametrize(("distribution", "arch_name", "image"), TARGETS)
def test_every_file_of_configuration_that_mkosi_reads_is_in_the_stages_key(
    root: Path, site: Path, distribution: str, arch_name: str, image: str
) -> None:
    summary = summarize(root, site, distribution, arch_name, image, "--profile", "staged")
    target = plan.StageTarget(distribution, arch.parse(arch_name), {})
    stage = plan.plan(root, [image], target)[-1]
    inputs = {one.name for one in plan.of_checkout(stage.inputs)}

    read = {Path(file) for entry in summary.values() for file in entry["Files"]}
    added = {file for file in read if (root / "additions") in file.parents}
    assert {file.relative_to(root).as_posix() for file in read - added} <= inputs


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mkosi.local.conf", "[Content]\nKernelCommandLine=planted\n"),
        ("mkosi.version", "42\n"),
        ("mkosi.rootpw", "planted"),
        ("mkosi.crt", "planted"),
        ("mkosi.sandbox/etc/planted", "planted"),
        ("mkosi.pkgmngr/etc/planted", "planted"),
        ("mkosi.packages/planted.deb", "planted"),
        ("mkosi.images/base/mkosi.local.conf", "[Content]\nPackages=planted\n"),
    ],
)
def test_what_changes_mkosis_summary_changes_the_stages_key(
    root: Path, site: Path, tmp_path: Path, name: str, text: str
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(root, checkout, symlinks=True)
    target = plan.StageTarget("debian", arch.X86_64, {})

    def look() -> tuple[Summary, str]:
        [stage] = plan.plan(checkout, ["base"], target)
        return summarize(checkout, site, "debian", "x86_64", "base", "--profile", "staged"), (
            stage.key
        )

    summary, key = look()
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).touch(0o600)
    (checkout / name).write_text(text)
    after, new_key = look()

    assert after != summary
    assert new_key != key
