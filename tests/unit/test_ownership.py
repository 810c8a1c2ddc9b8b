"""The test of bills of materials is itself tested: each fault of one is found."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tests import builds, ownership

Complaints = Callable[..., list[str]]

FILES = {
    "usr/bin/bash": "bash",
    "usr/lib/x/libc.so": "libc",
    "usr/bin/emulator": "qemu",
    "etc/made": "",
    "var/lib/dpkg/info/bash.list": "/.\n/bin\n/bin/bash\n/usr/lib/x/lib.so\n",
    "var/lib/dpkg/info/libc6:amd64.list": "/lib/x/libc.so\n",
    "var/lib/dpkg/info/bash.md5sums": "",
    "var/lib/dpkg/diversions": "/lib/x/libc.so\n/lib/x/libc.so.aside\nother\n",
}
PURLS = ["pkg:deb/debian/bash@5", "pkg:deb/debian/libc6@2?arch=amd64"]


def layer(files: dict[str, str], links: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        for name, target in links.items():
            member = tarfile.TarInfo(f"./{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return packed.getvalue()


@pytest.fixture
def complaints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Complaints:
    excuses = ["/etc/made", "/var/lib/dpkg/.*", "/(bin|lib)"]
    monkeypatch.setattr(
        ownership, "exceptions",
        lambda _: tuple(ownership.Excuse(re.compile(one), "why") for one in excuses),
    )  # fmt: skip

    def find(
        files: dict[str, str] | None = None, purls: list[str] | None = None, digest: str = "qemu"
    ) -> list[str]:
        links = {"bin": "usr/bin", "lib": "usr/lib"}
        builds.write_layout(tmp_path, layer(FILES | (files or {}), links))
        content = sha256(digest.encode()).hexdigest()
        parts = [{"type": "library", "purl": purl} for purl in (PURLS if purls is None else purls)]
        single = {"type": "file", "name": "/usr/bin/emulator", "hashes": [{"content": content}]}
        (tmp_path / "bom").write_text(json.dumps({"components": [*parts, single]}))
        return ownership.complaints(tmp_path, tmp_path / "bom", "debian")

    return find


def test_a_whole_bill_has_no_complaint_with_links_and_diversions(complaints: Complaints) -> None:
    assert complaints() == []
    assert complaints({"usr/lib/x/libc.so.aside": "of libc6"}) == []


def test_a_file_of_nobody_is_named(complaints: Complaints) -> None:
    assert complaints({"usr/bin/planted": "x"}) == ["/usr/bin/planted belongs to no component"]


def test_a_file_of_a_package_that_the_bill_lacks_is_named(complaints: Complaints) -> None:
    found = complaints(purls=PURLS[1:])
    assert "/usr/bin/bash belongs to bash, which is no component" in found


def test_a_component_with_another_digest_is_named(complaints: Complaints) -> None:
    assert complaints(digest="other") == [
        "/usr/bin/emulator is another file than the component of that name"
    ]


def test_every_real_exception_has_a_reason_and_excuses_no_program() -> None:
    for distribution in ("debian", "amazonlinux"):
        for one in ownership.exceptions(distribution):
            assert one.why
            for path in ("/usr/bin/qemu-aarch64-static", "/usr/bin/pass", "/usr/bin/planted",
                         "/usr/sbin/planted", "/usr/lib/planted.so", "/etc/cron.d/planted",
                         "/etc/systemd/system.conf", "/usr/lib/binfmt.d/x.conf"):  # fmt: skip
                assert not one.pattern.fullmatch(path), one
