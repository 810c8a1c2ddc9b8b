"""What the root file system for WSL has of its own: its icon, and no programs of masked daemons."""

from __future__ import annotations

import importlib.util
import os
import re
import struct
import subprocess
import zlib
from pathlib import Path
from types import ModuleType

import pytest

from scripts.stages import plan
from tests import wsl

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def image(checkout: Path) -> Path:
    return checkout / "mkosi.images/wsl-rootfs"


@pytest.fixture
def icon(image: Path) -> ModuleType:
    """The program that draws the icon."""
    spec = importlib.util.spec_from_file_location("icon", image / "icon.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(ico: bytes) -> dict[int, bytes]:
    """Return the images of an icon by their width, as its directory tells them."""
    reserved, kind, count = struct.unpack_from("<HHH", ico)
    assert (reserved, kind) == (0, 1)
    found, end = {}, 6 + 16 * count
    for index in range(count):
        wide, high, colours, _, planes, bits, size, offset = struct.unpack_from(
            "<BBBBHHII", ico, 6 + 16 * index
        )
        assert (wide, colours, planes, bits) == (high, 0, 1, 32)
        assert offset == end
        end += size
        found[wide or 256] = ico[offset:end]
    assert end == len(ico)
    return found


def pixels(png: bytes) -> tuple[int, int, bytes]:
    """Return width, height and pixels of a PNG without filters and interlacing."""
    assert png.startswith(PNG)
    chunks, position = {}, len(PNG)
    while position < len(png):
        size, kind = struct.unpack_from(">I4s", png, position)
        data = png[position + 8 : position + 8 + size]
        assert struct.unpack_from(">I", png, position + 8 + size) == (zlib.crc32(kind + data),)
        chunks[kind] = data
        position += 12 + size
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 6, 0, 0, 0]
    raw, step = zlib.decompress(chunks[b"IDAT"]), 4 * width + 1
    rows = [raw[start : start + step] for start in range(0, len(raw), step)]
    assert {row[0] for row in rows} == {0}
    return width, height, b"".join(row[1:] for row in rows)


def test_the_icon_has_the_sizes_that_windows_shows(icon: ModuleType) -> None:
    found = images(icon.TARGET.read_bytes())
    assert tuple(found) == icon.SIZES
    assert {16, 32, 48, 256} <= found.keys()
    for size, png in found.items():
        width, height, shown = pixels(png)
        assert (width, height, len(shown)) == (size, size, 4 * size * size)
        middle = 4 * (size // 2 * size + size // 2)
        assert (shown[3], shown[middle + 3]) == (0, 255), "the corner is clear, the middle is not"


@pytest.mark.parametrize("size", [16, 32, 48])
def test_the_icon_is_what_its_program_draws(
    icon: ModuleType, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes may differ: each version of zlib compresses in its own way."""
    drawn = (size, size, icon.pixels(size))
    assert pixels(images(icon.TARGET.read_bytes())[size]) == drawn
    monkeypatch.setattr(icon, "SIZES", (size,))
    assert pixels(images(icon.ico())[size]) == drawn


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system in little, before the image's script has seen it."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text(f"root:x:0:\nsystemd-journal:x:{os.getgid()}:\n")
    (tmp_path / "etc/nsswitch.conf").write_text("hosts: files resolve [!UNAVAIL=return] dns\n")
    return tmp_path


def finalize(image: Path, root: Path) -> None:
    environment = {**os.environ, "BUILDROOT": str(root)}
    subprocess.run([image / "mkosi.finalize"], check=True, env=environment)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("files resolve [!UNAVAIL=return] dns", "files dns"),
        ("files myhostname resolve [!UNAVAIL=return] dns", "files myhostname dns"),
        ("files  resolve", "files"),
        ("files dns", "files dns"),
        ("files dns [NOTFOUND=return] resolved", "files dns [NOTFOUND=return] resolved"),
    ],
)
def test_glibc_asks_no_masked_daemon_for_addresses(
    image: Path, root: Path, before: str, after: str
) -> None:
    rest = "# resolve\npasswd: files resolve\nnetworks: files\n"
    (root / "etc/nsswitch.conf").write_text(f"hosts:\t{before}\n{rest}")
    for _ in range(2):
        finalize(image, root)
    assert (root / "etc/nsswitch.conf").read_text() == f"hosts:\t{after}\n{rest}"


def test_authselects_file_is_changed_in_its_place(image: Path, root: Path) -> None:
    link = root / "etc/nsswitch.conf"
    link.rename(root / "etc/authselected")
    link.symlink_to("/etc/authselected")
    finalize(image, root)
    assert (root / "etc/authselected").read_text() == "hosts: files dns\n"
    assert link.is_symlink()


def test_the_journal_belongs_to_its_group_without_systemd_tmpfiles(image: Path, root: Path) -> None:
    finalize(image, root)
    status = (root / "var/log/journal").stat()
    assert (status.st_mode & 0o7777, status.st_gid) == (0o2755, os.getgid())


def test_a_journal_that_its_package_has_made_is_left_alone(image: Path, root: Path) -> None:
    (root / "var/log/journal").mkdir(parents=True, mode=0o700)
    finalize(image, root)
    assert (root / "var/log/journal").stat().st_mode & 0o7777 == 0o700


def test_programs_of_masked_daemons_are_removed_and_stay_away_when_packages_are_upgraded(
    image: Path,
) -> None:
    """Lima's scripts fail if one of them comes back: github.com/lima-vm/lima/issues/5490."""
    removed = plan.read_conf(image / "mkosi.conf")["Content"]["RemoveFiles"].split()
    dpkg = (image / "mkosi.debian/etc/dpkg/dpkg.cfg.d/90-finch-wsl").read_text()
    rpm = (image / "mkosi.amazonlinux/etc/rpm/macros.finch-wsl").read_text()
    excluded = re.findall("^path-exclude=(.*)$", dpkg, re.MULTILINE)
    [shared] = re.findall("^%_netsharedpath (.*)$", rpm, re.MULTILINE)
    # No image has NetworkManager.
    programs = {f"/{name}" for names in wsl.CLIENTS.values() for name in names} - {"/usr/bin/nmcli"}
    assert programs <= {*removed}
    assert sorted(programs) == excluded == shared.split(":")


def test_every_unit_that_windows_replaces_is_masked_by_this_image_or_its_base(image: Path) -> None:
    """An upgrade enables a unit that is merely disabled, if its package is installed anew."""
    masked = {
        path.name
        for folder in (image, image.with_name("base"))
        for path in folder.glob("mkosi.extra/etc/systemd/system/*")
        if path.is_symlink() and path.readlink() == Path("/dev/null")
    }
    # Their packages are in no image.
    others = {
        "NetworkManager.service",
        "NetworkManager-wait-online.service",
        "networking.service",
        "hypervkvpd.service",
    }
    assert {*wsl.UNITS} - masked == others
