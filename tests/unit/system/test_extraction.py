"""Archives that try to write outside the folder they are unpacked to, and those that may not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.system import extraction
from scripts.system.extraction import ArchiveError, extract, extract_packages

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"x", **fields: object) -> Member:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def other(name: str, kind: bytes, target: str = "") -> Member:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, target, 0o755
    return member, b""


def link(name: str, target: str) -> Member:
    return other(name, tarfile.SYMTYPE, target)


def folder(name: str) -> Member:
    return other(name, tarfile.DIRTYPE)


def tarball(path: Path, *members: Member) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content) if content else None)
    return path


def package(path: Path, *members: Member) -> Path:
    """A .deb with any members at all, which dpkg-deb itself would not make."""
    control = io.BytesIO()
    text = b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n"
    with tarfile.open(fileobj=control, mode="w:gz") as archive:
        member, _ = file("./control", text)
        archive.addfile(member, io.BytesIO(text))
    data = tarball(path.with_suffix(".data"), *members).read_bytes()
    parts = {"debian-binary": b"2.0\n", "control.tar.gz": control.getvalue(), "data.tar.gz": data}
    packed = b"!<arch>\n"
    for name, content in parts.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        packed += content + b"\n" * (len(content) % 2)
    path.write_bytes(packed)
    return path


MAKERS = {"tarball": (tarball, "evil.tar.gz"), "package": (package, "evil.deb")}

needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not installed")


@pytest.fixture(params=["tarball", pytest.param("package", marks=needs_dpkg)])
def unpacked(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Unpacks an archive of members, beside a file that it must not touch."""
    make, name = MAKERS[request.param]

    def unpack(*members: Member) -> Path:
        (tmp_path / "victim").write_text("untouched")
        into = tmp_path / "into"
        try:
            extract(make(tmp_path / name, *members), into)
        finally:
            assert (tmp_path / "victim").read_text() == "untouched"
            assert {path.name for path in tmp_path.iterdir()} <= {
                *("victim", "into", name, "evil.data"),
            }
        return into

    return unpack


DEEP = "d" * 240


def realpath_escape() -> list[Member]:
    """CVE-2025-4517: a path so long that realpath stops resolving it, then up and out."""
    members, here = [], ""
    for letter in "abcdefghijklmnop":
        members += [folder(f"{here}{DEEP}"), link(f"{here}{letter}", DEEP)]
        here += f"{DEEP}/"
    short = "/".join("abcdefghijklmnop")
    members.append(link(f"{short}/{'l' * 254}", "../" * 16))
    members += [link("escape", f"{short}/{'l' * 254}/../victim"), file("escape", b"overwritten")]
    return members


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([file("../victim")], id="a name that goes up"),
        pytest.param([file("a/../../victim")], id="a name that goes down and up"),
        pytest.param([link("out", ".."), file("out/victim")], id="a file through a link"),
        pytest.param([link("out", "../victim"), file("out")], id="a file over a link"),
        pytest.param([link("out", "../victim")], id="a link that goes up"),
        pytest.param([folder("a"), link("a/out", "../../victim")], id="a link from a folder"),
        pytest.param(
            [folder("a/b"), link("a/b/up", "../.."), link("out", "a/b/up/../victim")],
            id="a link through a link, which looks as if it stayed inside",
        ),
        pytest.param(
            [folder("a/b"), link("s", "a/b"), link("out", "s/../../victim")],
            id="a link that goes down and up",
        ),
        pytest.param([link("a", "b"), link("a/out", "../victim")], id="a link below a link"),
        pytest.param([other("out", tarfile.LNKTYPE, "../victim")], id="a hard link out"),
        pytest.param(
            [link("in", "x"), other("out", tarfile.LNKTYPE, "in")], id="a hard link to a link"
        ),
        pytest.param([other("out", tarfile.LNKTYPE, "later")], id="a hard link to nothing"),
        pytest.param([other("null", tarfile.CHRTYPE)], id="a device"),
        pytest.param([other("disk", tarfile.BLKTYPE)], id="a block device"),
        pytest.param([other("pipe", tarfile.FIFOTYPE)], id="a pipe"),
        pytest.param([other("odd", b"Z")], id="a member of an unknown type, over a folder"),
        pytest.param([file("a"), file("a/b")], id="a file below a file"),
        pytest.param([file("a"), file("a")], id="a file twice"),
        pytest.param([file("a/b"), file("a")], id="a file over a folder"),
        pytest.param([folder("a"), link("a", ".")], id="a link over a folder"),
        pytest.param([link("a", "."), folder("a")], id="a folder over a link"),
        pytest.param([file("n" * 256)], id="a component that is too long"),
        pytest.param([file("/".join(["n" * 200] * 6))], id="a path that is too long"),
        pytest.param([file(".")], id="a file in place of the folder"),
        pytest.param(realpath_escape(), id="CVE-2025-4517"),
    ],
)
def test_a_member_that_could_leave_the_folder_is_refused(
    unpacked: Callable[..., Path], members: list[Member]
) -> None:
    if members[0][0].type == b"Z":
        members = [folder("odd"), *members]
    with pytest.raises(ArchiveError, match="may not be unpacked"):
        unpacked(*members)


@pytest.mark.parametrize("member", [file("/etc/victim"), link("out", "/etc/passwd")])
def test_a_tarball_has_no_absolute_paths(tmp_path: Path, member: Member) -> None:
    with pytest.raises(ArchiveError, match="may not be unpacked"):
        extract(tarball(tmp_path / "evil.tar.gz", member), tmp_path / "into")


@needs_dpkg
def test_an_absolute_link_of_a_package_stays_in_the_folder(tmp_path: Path) -> None:
    members = [file("./etc/passwd", b"of the package"), link("./usr/bin/tool", "/etc/passwd")]
    extract(package(tmp_path / "x.deb", *members), tmp_path / "into")

    assert (tmp_path / "into/usr/bin/tool").read_text() == "of the package"


@needs_dpkg
def test_a_package_does_not_write_through_the_link_of_another(tmp_path: Path) -> None:
    first = package(tmp_path / "first.deb", link("./out", "in"), folder("./in"))
    second = package(tmp_path / "second.deb", file("./out/file"))

    with pytest.raises(ArchiveError, match=r"second\.deb may not be unpacked: .* below 'out'"):
        extract_packages([first, second], tmp_path / "into")


def test_names_in_messages_cannot_command_the_terminal(tmp_path: Path) -> None:
    evil = tarball(tmp_path / "evil.tar.gz", file("../\x1b]0;owned\x07\nerror: all is well"))
    with pytest.raises(ArchiveError) as caught:
        extract(evil, tmp_path / "into")

    assert caught.value.message.isprintable()


def test_what_decompresses_to_too_much_is_refused_before_it_is_there(tmp_path: Path) -> None:
    bomb = tarball(tmp_path / "bomb.tar.gz", file("zeros", bytes(8 << 20)))
    assert bomb.stat().st_size < 1 << 14
    with pytest.raises(ArchiveError, match="too large once it is decompressed"):
        extract(bomb, tmp_path / "into", limit=1 << 20)

    assert sum(path.stat().st_size for path in (tmp_path / "into").rglob("*")) <= 1 << 20


def test_a_header_of_gigabytes_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x")
    member.pax_headers = {"comment": "c" * (4 << 20)}
    with pytest.raises(ArchiveError, match="too large"):
        extract(tarball(tmp_path / "x.tar.gz", (member, b"")), tmp_path / "into", limit=1 << 20)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "MEMBERS", 10)
    many = tarball(tmp_path / "many.tar.gz", *(folder(str(number)) for number in range(11)))
    with pytest.raises(ArchiveError, match="more than 10 members"):
        extract(many, tmp_path / "into")


def test_a_program_is_unpacked_without_privileges(tmp_path: Path) -> None:
    extract(tarball(tmp_path / "x.tar.gz", file("su", mode=0o6777, uid=0)), tmp_path / "into")

    assert (tmp_path / "into/su").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_files_folders_and_links_that_stay_inside_are_unpacked(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    members = [
        folder("tree"),
        file("tree/a/program", b"program", mode=0o755),
        link("tree/a/link", "../b/file"),
        file("tree/b/file", b"content"),
        other("tree/b/hard", tarfile.LNKTYPE, "tree/b/file"),
        folder("tree"),
    ]
    plain = gzip.decompress(tarball(tmp_path / "x.tar.gz", *members).read_bytes())
    archive = tmp_path / "x.tar"
    archive.write_bytes(compress(plain))
    extract(archive, tmp_path / "into")

    into = tmp_path / "into/tree"
    assert (into / "a/program").stat().st_mode & 0o777 == 0o755
    assert (into / "a/link").read_bytes() == b"content"
    assert (into / "b/hard").stat().st_ino == (into / "b/file").stat().st_ino


def test_what_the_caller_skips_is_not_unpacked(tmp_path: Path) -> None:
    archive = tarball(tmp_path / "x.tar.gz", file("x/.git/config"), file("x/file"))
    extract(archive, tmp_path / "into", skip=lambda name: ".git" in name.split("/"))

    assert [path.name for path in (tmp_path / "into/x").iterdir()] == ["file"]


@needs_dpkg
def test_a_package_is_unpacked_as_dpkg_does(tmp_path: Path) -> None:
    members = [folder("./usr"), file("./usr/lib/x", b"y"), link("./usr/lib/z", "x")]
    deb = package(tmp_path / "x.deb", *members)
    extract(deb, tmp_path / "ours")
    subprocess.run(["dpkg-deb", "--extract", deb, tmp_path / "theirs"], check=True)

    subprocess.run(["diff", "-r", tmp_path / "ours", tmp_path / "theirs"], check=True)
    assert (tmp_path / "ours/usr/lib/x").read_text() == "y"


@pytest.mark.parametrize("name", ["x.tar.gz", pytest.param("x.deb", marks=needs_dpkg)])
def test_what_is_no_archive_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"<html>" * 1000)
    with pytest.raises(ArchiveError, match=f"{name} cannot be unpacked: "):
        extract(tmp_path / name, tmp_path / "into")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_that_breaks_off_is_named(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    plain = gzip.decompress(tarball(tmp_path / "x.tar.gz", file("x", bytes(200_000))).read_bytes())
    packed = compress(plain)
    for count in (1, 5, len(packed) // 2, len(packed) - 9):
        broken = tmp_path / f"{count}.tar"
        broken.write_bytes(packed[:count])
        with pytest.raises(ArchiveError, match="cannot be unpacked"):
            extract(broken, tmp_path / f"into-{count}")
