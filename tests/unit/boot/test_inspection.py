"""What the inspection of a disk finds in a file system that the real mke2fs makes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.boot import inspection
from scripts.boot.inspection import Files
from scripts.formats.disk import Partition

PART = Partition(1, "", "", "root", 0, 8 << 20)
MARKS = ("/home/ann/finch", "/src", "mirror.internal:8080")

Inspect = Callable[..., Files]


@pytest.fixture
def inspect(tmp_path: Path) -> Inspect:
    """Inspects a file system with files, given as texts by path; "-> x" makes a link to x."""

    def inspect(files: dict[str, str | bytes], *marks: str) -> Files:
        tree = tmp_path / "tree"
        tree.mkdir()
        for path, text in files.items():
            target = tree / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(text, str) and text.startswith("-> "):
                target.symlink_to(text.removeprefix("-> "))
            else:
                target.write_bytes(text.encode() if isinstance(text, str) else text)
        image = tmp_path / "image"
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-O", "^orphan_file", "-d", tree, image, "8M"],
            check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        )  # fmt: skip
        return inspection.inspect(image, PART, marks or MARKS)

    return inspect


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("/usr/bin/tool", b"\0/home/ann/finch/out\0", "/home/ann/finch"),
        ("/usr/lib/x.pyc", b"\xe3/home/ann/finch", "/home/ann/finch"),
        ("/opt/link", "-> /home/ann/finch/.work/x", "/home/ann/finch"),
        ("/usr/share/x", b"file:///home/ann/finch", "/home/ann/finch"),
        ("/etc/x", "root=/src/x", "/src"),
        ("/var/lib/x/history", b"\0--installroot=/buildroot\0", "/buildroot"),
        ("/etc/yum.repos.d/x.repo", "url=http://mirror.internal:8080/x", "mirror.internal:8080"),
        ("/usr/share/doc/x", "http://mirror.internal:8080", "mirror.internal:8080"),
        ("/etc/apt/x.sources", "URIs: http://127.0.0.1:3142/debian\n", "http://127.0.0.1:3142/debian"),
        ("/etc/apt/x.sources", "URIs: http://ann@10.1.2.3/debian", "http://ann@10.1.2.3/debian"),
        ("/etc/x", "proxy=http://[::1]:3128", "http://[::1]:3128"),
        ("/etc/x", "proxy = http://172.20.0.1:3128", "http://172.20.0.1:3128"),
        ("/etc/apt/auth", "https://ann:secret@deb.example/x", "https://ann:secret@deb.example"),
        ("/var/log/x.log", "127.0.0.1 http://localhost:80/", "http://localhost:80/"),
    ],
)  # fmt: skip
def test_what_tells_of_the_builder_is_found(
    inspect: Inspect, path: str, text: str | bytes, found: str
) -> None:
    assert inspect({path: text}).traces == {path: found}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/usr/bin/tool", b"/src/x"),  # of a program that was compiled elsewhere
        ("/usr/bin/tool", b"/home/ann/finches"),
        ("/usr/bin/tool", b"/mnt/home/ann/finch"),
        ("/etc/x", "/usr/src/linux"),
        ("/etc/ssl/openssl.cnf", "# proxy = http://192.168.1.1:8080\n  ; http://localhost/\n"),
        ("/usr/share/doc/x", "http://localhost:80"),
        ("/etc/x", "http://172.32.0.1 http://11.1.1.1 http://1270.example"),
        ("/etc/apt/x.sources", "URIs: http://deb.example/debian"),
    ],
)
def test_what_everybody_has_tells_of_nobody(inspect: Inspect, path: str, text: str | bytes) -> None:
    assert inspect({path: text}).traces == {}


def test_a_mark_is_found_wherever_it_stands_in_a_large_file(inspect: Inspect) -> None:
    data = b"x" * 3_000_000 + b" /home/ann/finch " + b"x" * 1_000_000
    assert inspect({"/usr/lib/large": data}).traces == {"/usr/lib/large": "/home/ann/finch"}


def test_private_keys_are_found_by_what_they_hold(inspect: Inspect) -> None:
    begin = "-----BEGIN {}PRIVATE KEY-----\nMC4CAQ"
    files = inspect({
        "/usr/share/x": begin.format("OPENSSH "),
        "/opt/y": begin.format("RSA "),
        "/opt/z": begin.format(""),
        "/usr/bin/openssl": b"\x7fELF" + begin.format("RSA ").encode(),
        "/etc/ssl/cert.pem": "-----BEGIN CERTIFICATE-----",
    })  # fmt: skip
    assert sorted(files.private_keys) == ["/opt/y", "/opt/z", "/usr/share/x"]


def test_the_files_that_checks_read_come_with_their_text(inspect: Inspect) -> None:
    files = inspect({"/etc/shadow": "root:*:1", "/etc/machine-id": "", "/etc/other": "x"})
    assert files.texts == {"/etc/shadow": "root:*:1", "/etc/machine-id": ""}
    assert "/etc/other" in files.paths()
    assert not files.complaint


def test_a_root_that_is_damaged_is_a_complaint_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(8 << 20))
    files = inspection.inspect(tmp_path / "image", PART, MARKS)
    assert files == Files(complaint="the root partition holds no ext4 file system")


def test_a_private_key_behind_a_certificate_is_found_among_settings(inspect: Inspect) -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMC4CAQ"
    files = inspect({
        "/etc/ssl/both.pem": f"-----BEGIN CERTIFICATE-----\nMII\n{key}",
        "/srv/late": f"\n\n{key}",
        "/usr/lib/libssl.so": b"\x7fELF\n" + key.encode(),
    })  # fmt: skip
    assert sorted(files.private_keys) == ["/etc/ssl/both.pem", "/srv/late"]


def test_an_account_behind_a_megabyte_of_others_is_not_overlooked(inspect: Inspect) -> None:
    files = inspect({"/etc/shadow": "x:*:1\n" * 200_000 + "root::1\n"})
    assert files.complaint == "/etc/shadow has more than 1 MiB"
