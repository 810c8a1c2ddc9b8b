"""Whether the patches apply to the newest mkosi, which a server on loopback has."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from scripts.distributions import debian
from scripts.mkosi import source, upstream
from scripts.mkosi.pin import Pin
from scripts.mkosi.source import Mkosi
from scripts.mkosi.upstream import Tool
from scripts.options import Options
from scripts.sessions import arguments, patch_check
from scripts.system.errors import HarnessError, MachineError
from scripts.system.progress import Progress
from tests.unit.mkosi.test_source import PATCH, make_package
from tests.unit.server import Server

PIN = """\
version = "27.1"

[upstream]
url = "{url}/27.1.tar.gz"
sha256 = "{digest}"
newest = "{url}/main.tar.gz"
patched = "{digest}"

[debian]
package = "mkosi"
suites = ["unstable"]
patched = "{digest}"
"""


@pytest.fixture
def checkout_of_patches(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Options:
    """A checkout that is nothing but a pin and a patch, on a machine without Debian's archive."""

    def lacks(*_: object, **__: object) -> NoReturn:
        raise MachineError("this machine has no Debian archive")

    monkeypatch.setattr(debian, "download", lacks)
    folder = tmp_path / "checkout/mkosi"
    folder.mkdir(parents=True)
    (folder / "pin.toml").write_text(PIN.format(url=server.url, digest="0" * 64))
    (folder / "0001-Know.patch").write_text(PATCH)
    return arguments.parse([], {}, root=folder.parent)


def packed(tree: Path) -> bytes:
    """A tarball of tree, as upstream has it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(tree, "mkosi-main")
    return file.getvalue()


def test_a_source_that_answers_is_patched_and_one_that_does_not_is_named(
    checkout_of_patches: Options,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.files["/main.tar.gz"] = packed(make_package(tmp_path / "main", "28~devel"))

    patch_check.check_newest(checkout_of_patches, Progress(live=False))

    said = capsys.readouterr().err
    assert (
        "the newest mkosi of the Debian archive cannot be downloaded: this machine has no" in said
    )
    assert "0001-Know.patch applies to mkosi 28~devel, the newest one of upstream's main" in said


def test_a_patch_that_the_newest_does_not_take_is_an_error(
    checkout_of_patches: Options, server: Server, tmp_path: Path
) -> None:
    tree = make_package(tmp_path / "main", "28~devel")
    (tree / "mkosi/config.py").write_text("something else\n")
    server.files["/main.tar.gz"] = packed(tree)

    with pytest.raises(HarnessError, match=r"0001-Know\.patch does not apply to mkosi 28~devel"):
        patch_check.check_newest(checkout_of_patches, Progress(live=False))


def test_offline_nobody_is_asked(checkout_of_patches: Options, server: Server) -> None:
    offline = replace(checkout_of_patches.sources, offline=True)

    patch_check.check_newest(replace(checkout_of_patches, sources=offline), Progress(live=False))

    assert server.asked == []


def test_the_sandbox_tree_of_a_running_build_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = tmp_path / "work/amazonlinux/x86_64/sandbox/etc"
    sandbox.mkdir(parents=True)
    (sandbox / "marker").touch()
    using = Mkosi(tmp_path, "27.1", "nowhere", "digest")
    monkeypatch.setattr(patch_check, "obtain_mkosi", lambda *_: using)
    monkeypatch.setattr(patch_check, "check_configuration", lambda *_: None)
    monkeypatch.setattr(patch_check, "check_upstream", lambda *_: None)

    patch_check.main(["--offline", "--work", str(tmp_path / "work")])

    assert (sandbox / "marker").exists()
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["amazonlinux"]


def test_a_tool_that_is_not_run_is_not_said_to_pass_and_what_patches_add_is_an_error(
    checkout_of_patches: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = make_package(tmp_path / "given")
    (tree / "linter.py").write_text(
        "import pathlib\n"
        "lines = pathlib.Path('mkosi/config.py').read_text().splitlines()\n"
        "print(*(f'mkosi/config.py:{n}: {line}' for n, line in enumerate(lines) if 'two' in line))"
    )
    tools = [
        Tool("lint", ("linter",), r"\S+:\d+: .+"),
        Tool("none", ("linter",), r"no match"),
        Tool("reuse", ("reuse",), "", needs_full_tree=True),
    ]
    monkeypatch.setattr(upstream, "TOOLS", tools)
    sources = replace(checkout_of_patches.sources, mkosi_source=tree)
    opts = replace(checkout_of_patches, sources=sources)
    with pytest.raises(HarnessError, match=r"add findings to the checks of mkosi's CI: lint$"):
        patch_check.check_upstream(
            Mkosi(tree, "27.1", "given", "digest"), opts, Progress(live=False)
        )

    said = capsys.readouterr().err
    assert "lint: our patches add mkosi/config.py: line two" in said
    assert "none: passes" in said
    assert "reuse: not run: it needs upstream's whole source tree" in said
    assert "upstream's own tests: not run, as there is no full tree" in said


@pytest.fixture
def served(checkout_of_patches: Options, server: Server, tmp_path: Path) -> Path:
    """The folder mkosi/ of that checkout, whose server has the pinned tarball as well."""
    folder = checkout_of_patches.folders.root / "mkosi"
    archive = packed(make_package(tmp_path / "27.1"))
    server.files["/27.1.tar.gz"] = archive
    text = PIN.format(url=server.url, digest="0" * 64)
    digest = hashlib.sha256(archive).hexdigest()
    (folder / "pin.toml").write_text(text.replace("0" * 64, digest, 1))
    return folder


def test_the_digest_is_pinned_for_each_source_that_answers(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patch_check.pin_digests(served, Progress(live=False))
    said = capsys.readouterr().err

    assert "mkosi 27.1 from upstream's tarball is pinned: " in said
    assert "not pinned: debian: this machine has no Debian archive" in said
    made = source.obtain(served, tmp_path / "work", Progress(live=False))
    assert Pin.read(served / "pin.toml").digests == {made.digest, "0" * 64}


def test_a_mkosi_that_the_patches_do_not_fit_is_not_pinned(
    served: Path,
) -> None:
    (served / "0001-Know.patch").write_text(PATCH.replace("line 38", "line XXXVIII"))
    before = (served / "pin.toml").read_text()
    with pytest.raises(HarnessError, match="no digest was pinned"):
        patch_check.pin_digests(served, Progress(live=False))

    assert (served / "pin.toml").read_text() == before


def test_a_tarball_that_is_not_the_pinned_one_is_not_pinned(served: Path, server: Server) -> None:
    server.files["/27.1.tar.gz"] += b"x"
    before = (served / "pin.toml").read_text()
    with pytest.raises(HarnessError, match="no digest was pinned"):
        patch_check.pin_digests(served, Progress(live=False))

    assert (served / "pin.toml").read_text() == before
