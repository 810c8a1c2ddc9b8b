from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest

from scripts.distributions import index
from scripts.distributions.index import Listed
from scripts.system.errors import HarnessError

SHA256 = "ab" * 32

BASH = f"""\
Package: bash
Source: bash (5.2)
Version: 1:5.2-2+b1
Installed-Size: 7000
Architecture: amd64
Description: shell
 SHA256: {"0" * 64}
 .
 Package: something else
Filename: pool/main/b/bash/bash_5.2-2+b1_amd64.deb
Size: 1234
MD5sum: 00
SHA256: {SHA256}
"""

INRELEASE = """\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Origin: Debian
Suite: stable
Codename: trixie
Date: Sat, 21 Nov 2026 09:15:44 UTC
SHA256:
 00 1 main/binary-amd64/Packages
-----BEGIN PGP SIGNATURE-----

Date: Sat, 21 Nov 2099 09:15:44 UTC
-----END PGP SIGNATURE-----
"""

REPOMD = """\
<repomd xmlns="http://linux.duke.edu/metadata/repo">
  <revision>{revision}</revision>
  <data type="filelists"><location href="repodata/1-filelists.xml.gz"/></data>
  <data type="primary">
    <location href="repodata/1-primary.xml{suffix}"/><timestamp>1795252544</timestamp>
  </data>
</repomd>
"""

PRIMARY = """\
<metadata xmlns="http://linux.duke.edu/metadata/common" packages="2">
  <package type="rpm">
    <name>bash</name><arch>x86_64</arch><version epoch="{epoch}" ver="5.2" rel="1.amzn2023"/>
    <checksum type="{type}" pkgid="YES">{digest}</checksum>
    <size package="1234" installed="7000"/>
    <location href="../../blobstore/00ff/bash-5.2-1.amzn2023.x86_64.rpm"/>
  </package>
</metadata>
"""

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


def unneeded(path: Path) -> NoReturn:
    pytest.fail(f"Python unpacks {path} itself")


def apt(folder: Path, **lists: str) -> Path:
    """Write lists as apt has them, of the suite trixie unless they are named otherwise."""
    home = folder / index.APT_LISTS
    home.mkdir(parents=True, exist_ok=True)
    for name, text in lists.items():
        (home / f"mirror.example_debian_dists_{name}").write_text(text)
    return folder


def dnf(
    folder: Path,
    *,
    suffix: str = ".gz",
    revision: str = "1795252545",
    primary: str = PRIMARY,
    repository: str = "amazonlinux-0123abc",
    **fields: str,
) -> Path:
    """Write a repository as dnf keeps it."""
    home = folder / "cache/dnf" / repository / "repodata"
    home.mkdir(parents=True, exist_ok=True)
    (home / "repomd.xml").write_text(REPOMD.format(revision=revision, suffix=suffix))
    values = {"epoch": "0", "type": "sha256", "digest": SHA256} | fields
    text = primary.format(**values).encode()
    (home / f"1-primary.xml{suffix}").write_bytes(PACKED.get(suffix, bytes)(text))
    return folder


def read(folder: Path) -> index.Index:
    return index.read(folder, "2023.12.20260930", unneeded)


def test_apts_lists_say_what_a_deb_is_and_what_apt_calls_its_file(tmp_path: Path) -> None:
    found = read(apt(tmp_path, trixie_InRelease=INRELEASE, trixie_main_Packages=BASH))

    path = "cache/apt/archives/bash_1%3a5.2-2+b1_amd64.deb"
    assert found.packages == {path: Listed("bash", "1:5.2-2+b1", "amd64", 1234, SHA256, path)}
    assert found.digests == {("bash", "1:5.2-2+b1", "amd64"): SHA256}
    assert found.folders == {".", "cache", "cache/apt", "cache/apt/archives"}


def test_only_what_is_signed_says_when_an_index_was_made(tmp_path: Path) -> None:
    unsigned = f"Date: Sat, 21 Nov 2098 09:15:44 UTC\n{INRELEASE}"
    found = read(apt(tmp_path, trixie_InRelease=unsigned, trixie_main_Packages=BASH))

    assert found.dates == {"trixie": datetime(2026, 11, 21, 9, 15, 44, tzinfo=UTC)}


def test_a_suite_is_known_by_the_name_that_it_was_asked_for_whatever_the_mirror(
    tmp_path: Path,
) -> None:
    lists = {"sid_InRelease": INRELEASE, "sid_main_Packages": BASH}

    assert list(read(apt(tmp_path, **lists)).dates) == ["sid"]


def test_two_digests_for_one_name_leave_neither(tmp_path: Path) -> None:
    other = BASH.replace(SHA256, "cd" * 32)
    found = read(apt(tmp_path, trixie_main_Packages=BASH, b_Packages=other))

    assert found.packages == {}
    assert found.digests == {}


def test_the_same_package_in_two_suites_is_one(tmp_path: Path) -> None:
    found = read(apt(tmp_path, a_Packages=BASH, b_Packages=f"{BASH}\n{BASH}"))

    assert list(found.digests.values()) == [SHA256]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".bz2"])
def test_dnfs_repodata_say_what_an_rpm_is_and_where_mkosi_keeps_it(
    tmp_path: Path, suffix: str
) -> None:
    found = read(dnf(tmp_path, suffix=suffix))

    path = "cache/dnf/packages/amazonlinux/bash-5.2-1.amzn2023.x86_64.rpm"
    assert found.packages == {
        path: Listed("bash", "5.2-1.amzn2023", "x86_64", 1234, SHA256, path, "amazonlinux")
    }
    assert found.dates == {
        "amazonlinux-0123abc 2023.12.20260930": datetime(2026, 11, 21, 9, 15, 45, tzinfo=UTC)
    }


def test_a_package_of_a_further_repository_is_told_from_the_main_ones(tmp_path: Path) -> None:
    dnf(tmp_path)
    dnf(tmp_path, repository="spal-4567def")
    sshfs = PRIMARY.replace("<name>bash", "<name>fuse-sshfs")
    dnf(tmp_path, repository="other-repo-89", primary=sshfs)
    found = read(tmp_path)

    assert found.elsewhere("amazonlinux") == {
        ("fuse-sshfs", "5.2-1.amzn2023", "x86_64"): "other-repo"
    }


def test_what_python_cannot_unpack_is_given_to_a_program(tmp_path: Path) -> None:
    unpacked = tmp_path / "primary.xml"
    unpacked.write_text(PRIMARY.format(epoch="1", type="sha256", digest=SHA256))
    found = index.read(dnf(tmp_path, suffix=".zst"), "1", lambda _: unpacked)

    assert list(found.digests) == [("bash", "1:5.2-1.amzn2023", "x86_64")]


def test_a_revision_that_is_no_time_leaves_that_of_the_files(tmp_path: Path) -> None:
    found = read(dnf(tmp_path, revision="a word"))

    assert list(found.dates.values()) == [datetime(2026, 11, 21, 9, 15, 44, tzinfo=UTC)]


def test_an_rpm_that_has_no_sha256_is_not_in_the_index(tmp_path: Path) -> None:
    assert read(dnf(tmp_path, type="sha")).packages == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: folder,
        lambda folder: apt(folder, trixie_InRelease=INRELEASE),
        lambda folder: apt(folder, trixie_main_Packages=BASH.replace("1234", "many")),
        lambda folder: apt(folder, trixie_main_Packages=BASH.replace("Version", "Other")),
        lambda folder: apt(folder, trixie_InRelease="Date: soon", trixie_main_Packages=BASH),
        lambda folder: dnf(folder, revision="9" * 40),
        lambda folder: dnf(folder, primary="<metadata"),
        lambda folder: dnf(folder, primary=PRIMARY.replace("<size", "<other")),
        lambda folder: dnf(folder, primary=PRIMARY.replace('"1234"', '"many"')),
        lambda folder: dnf(folder, primary='<!DOCTYPE x [<!ENTITY a "b">]><metadata/>'),
    ],
)
def test_an_index_that_is_damaged_or_none_at_all_is_one_clear_error(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    with pytest.raises(HarnessError):
        read(make(tmp_path))


def test_a_packed_list_that_is_cut_short_is_one_clear_error(tmp_path: Path) -> None:
    path = next(dnf(tmp_path).rglob("*primary.xml.gz"))
    path.write_bytes(path.read_bytes()[:-9])

    with pytest.raises(HarnessError, match="cannot be read"):
        read(tmp_path)


def test_a_packed_list_that_is_damaged_inside_is_one_clear_error(tmp_path: Path) -> None:
    path = next(dnf(tmp_path).rglob("*primary.xml.gz"))
    packed = bytearray(path.read_bytes())
    packed[10] = 0xFF  # the first block after gzip's header gets a type that deflate does not have
    path.write_bytes(packed)

    with pytest.raises(HarnessError, match="cannot be read"):
        read(tmp_path)
