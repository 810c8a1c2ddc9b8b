"""Checks our patches on mkosi: which files they touch, and whether the tests they add pass."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import arch, catalog
from scripts.mkosi import patches, source
from scripts.mkosi.pin import Pin
from scripts.sessions import patch_check
from scripts.system.errors import HarnessError
from scripts.system.progress import Progress


@pytest.fixture
def pin(checkout: Path) -> Pin:
    return Pin.read(checkout / "mkosi/pin.toml")


@pytest.fixture
def patched(checkout: Path, tmp_path: Path) -> Path:
    """A copy of the patched mkosi as it is packaged, with only the folder mkosi/."""
    using = source.obtain(checkout / "mkosi", checkout / ".work", Progress(live=False))
    shutil.copytree(using.folder / "mkosi", tmp_path / "tree/mkosi")
    return tmp_path / "tree"


def paths(patch: Path) -> list[str]:
    return re.findall(r"^diff --git a/(\S+) b/", patch.read_text(), re.MULTILINE)


def test_a_patch_of_the_package_touches_nothing_else(checkout: Path, pin: Pin) -> None:
    for patch in (checkout / "mkosi").glob("*.patch"):
        is_package = all(path.startswith("mkosi/") for path in paths(patch))
        assert is_package == (patch.name not in pin.full_tree), patch.name


def test_every_patch_that_the_pin_names_is_there(checkout: Path, pin: Pin) -> None:
    names = [*pin.full_tree, *pin.proposed]
    assert all((checkout / "mkosi" / name).exists() for name in names)


@pytest.fixture
def unpatched(checkout: Path, tmp_path: Path) -> Path:
    """The package mkosi/ that a build uses, before our patches."""
    using = source.obtain(checkout / "mkosi", checkout / ".work", Progress(live=False))
    tree, _ = source.unpatched(using, checkout / "mkosi", tmp_path, given=None, offline=True)
    return tree


def test_each_patch_but_the_tests_is_a_series_of_its_own(
    checkout: Path, pin: Pin, unpatched: Path, tmp_path: Path
) -> None:
    """So each can be proposed to upstream without the others."""
    for patch in (checkout / "mkosi").glob("*.patch"):
        if patch.name not in pin.full_tree:
            alone = tmp_path / patch.stem
            shutil.copytree(unpatched, alone)
            patches.apply_patch(patch, alone)


def test_the_changelog_s_entry_applies_to_the_pinned_mkosi_and_to_no_build(
    checkout: Path, pin: Pin, unpatched: Path, patched: Path
) -> None:
    [name] = pin.proposed
    news = "mkosi/resources/man/mkosi.news.7.md"
    assert paths(checkout / "mkosi" / name) == [news]
    assert (patched / news).read_text() == (unpatched / news).read_text()

    patches.apply_patch(checkout / "mkosi" / name, patched)


def test_patches_name_no_author_as_the_proposer_is_the_author(checkout: Path) -> None:
    for patch in (checkout / "mkosi").rglob("*.patch"):
        header = patch.read_text().partition("\ndiff --git ")[0]
        assert not re.search(r"^(From: |Author|Signed-off-by)|@", header, re.MULTILINE), patch


def test_the_commands_of_hacking_write_the_same_patches_again(
    checkout: Path, unpatched: Path, tmp_path: Path
) -> None:
    text = (checkout / "HACKING.md").read_text().partition("## The patches on mkosi")[2]
    commands = text.partition("```sh\n")[2].partition("```")[0]
    clone, rest = commands.split("\n", 1)
    tag = clone.removeprefix("git clone --branch ").split()[0]
    ours, theirs = tmp_path / "checkout", tmp_path / "mkosi"
    shutil.copytree(checkout / "mkosi", ours / "mkosi")
    shutil.copytree(unpatched, theirs)
    settings = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.fspath(tmp_path / "gitconfig")}
    (tmp_path / "gitconfig").write_text("[user]\nname = A\nemail = a@b.c\n")
    for script, folder in {
        f"git init -q && git add --all && git commit -qm mkosi && git tag {tag}": theirs,
        rest.partition("./nox")[0]: ours,
    }.items():
        subprocess.run(["bash", "-euc", script], cwd=folder, env=settings, check=True)

    for patch in (checkout / "mkosi").glob("*.patch"):
        assert (ours / "mkosi" / patch.name).read_bytes() == patch.read_bytes(), patch.name


def test_every_file_that_a_patch_adds_names_its_licence(checkout: Path) -> None:
    """As `reuse lint` of upstream's CI asks."""
    added = [
        (name, first)
        for patch in (checkout / "mkosi").rglob("*.patch")
        for name, first in re.findall(
            r"^--- /dev/null\n\+\+\+ b/(\S+)\n@@.*\n\+(.*)", patch.read_text(), re.MULTILINE
        )
    ]
    assert len(added) > 8
    for name, first in added:
        assert first == "# SPDX-License-Identifier: LGPL-2.1-or-later", name


def test_the_tests_for_upstream_pass(checkout: Path, pin: Pin, patched: Path) -> None:
    for name in pin.full_tree:
        patches.apply_patch(checkout / "mkosi" / name, patched)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=patched,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.fspath(patched)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert result.returncode == 0, result.stdout


# Prints whether the tools tree argv[1] has a gpgme with which librepo refuses valid signatures.
HAS_GPGME_2 = """
import sys
from pathlib import Path
from mkosi.installer.dnf import has_gpgme_2
print(has_gpgme_2(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("library", "found"),
    [
        ("usr/lib/x86_64-linux-gnu/libgpgme.so.11", "False"),
        ("usr/lib64/libgpgme.so.11", "False"),
        ("usr/lib/aarch64-linux-gnu/libgpgme.so.45", "True"),
        ("usr/lib64/libgpgme.so.45", "True"),
    ],
)
def test_only_a_tools_tree_with_gpgme_2_leaves_metadata_unchecked(
    checkout: Path, tmp_path: Path, library: str, found: str
) -> None:
    using = source.obtain(checkout / "mkosi", checkout / ".work", Progress(live=False))
    (tmp_path / library).parent.mkdir(parents=True)
    (tmp_path / library).touch()
    done = subprocess.run(
        [sys.executable, "-c", HAS_GPGME_2, tmp_path],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.fspath(using.folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.strip() == found


def test_every_line_of_a_patch_has_the_style_of_mkosi(checkout: Path) -> None:
    """Upstream's ruff and editorconfig ask for 109 columns, no tabs and no trailing spaces."""
    for patch in (checkout / "mkosi").glob("*.patch"):
        for path, text in re.findall(
            r"^\+\+\+ b/(\S+)\n((?:(?!^diff ).*\n)*)", patch.read_text(), re.MULTILINE
        ):
            added = [line[1:] for line in text.splitlines() if line.startswith("+")]
            assert not [line for line in added if "\t" in line or line != line.rstrip()], path
            if path.endswith((".py", ".md")):
                long = [line for line in added if len(line) > 109 and "https://" not in line]
                assert long == [], path


@pytest.mark.parametrize(
    "drop_in",
    [
        "wsl-rootfs/mkosi.conf.d/dependencies.conf",
        "tools-tree/mkosi.conf.d/debian-aarch64.conf",
        "tools-tree/mkosi.conf.d/debian-x86_64.conf",
        "os-image/mkosi.conf.d/aarch64.conf",
    ],
)
def test_a_setting_that_mkosi_does_not_know_is_found_in_whichever_drop_in(
    checkout: Path, tmp_path: Path, drop_in: str
) -> None:
    for path in checkout.glob("mkosi.*"):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    broken = tmp_path / "mkosi.images" / drop_in
    broken.write_text(f"{broken.read_text()}\n[Content]\nNoSuchSetting=yes\n")
    with pytest.raises(HarnessError, match="NoSuchSetting"):
        read_all(checkout, tmp_path, broken.parent.parent.name)


def read_all(checkout: Path, root: Path, image: str) -> None:
    using = source.obtain(checkout / "mkosi", checkout / ".work", Progress(live=False))
    for distribution, name, profiles in itertools.product(
        catalog.DISTRIBUTIONS, arch.NAMES, patch_check.PROFILES
    ):
        patch_check.read_configuration(using, root, distribution, arch.parse(name), image, profiles)
