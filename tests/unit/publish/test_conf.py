"""finch-core's deps/*.conf: what is renewed, what stays, and that both files change or neither."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts.arch import AARCH64, X86_64
from scripts.publish import conf
from scripts.publish.conf import Entry
from scripts.system.errors import HarnessError

URL = "https://deps.example"
ARM = Entry(AARCH64, "finch-os-arm64-12.qcow2", "a" * 128)
AMD = Entry(X86_64, "finch-os-x86-64-12.qcow2", "b" * 128)
ROOTFS = Entry(X86_64, "common/x86-64/finch-rootfs-12.tar.gz", "c" * 128)

NEW = f"""\
ARTIFACT_BASE_URL={URL}

AARCH64_ARTIFACT=finch-os-arm64-12.qcow2
AARCH64_512_DIGEST={"a" * 128}

X86_64_ARTIFACT=finch-os-x86-64-12.qcow2
X86_64_512_DIGEST={"b" * 128}
"""

OLD = """\
ARTIFACT_BASE_URL=https://old.example

# Built in deps/mkosi
AARCH64_ARTIFACT=old-arm64.qcow2
AARCH64_512_DIGEST=0123

# Built in deps/mkosi
X86_64_ARTIFACT=old-x86-64.qcow2
X86_64_512_DIGEST=4567

# Cosign
COSIGN_VERSION=3.0.5-1
COSIGN_X86_64_RPM_SHA256_DIGEST=89ab
"""


def test_a_new_file_has_one_block_for_each_architecture() -> None:
    assert conf.edited("", URL, [ARM, AMD]) == NEW


def test_a_file_in_a_folder_of_the_bucket_has_a_pathing() -> None:
    assert conf.edited("", URL, [ROOTFS]) == (
        f"ARTIFACT_BASE_URL={URL}\n\n"
        "X86_64_ARTIFACT_PATHING=common/x86-64\n"
        "X86_64_ARTIFACT=finch-rootfs-12.tar.gz\n"
        f"X86_64_512_DIGEST={'c' * 128}\n"
    )


def test_other_lines_of_a_file_stay_where_they_are() -> None:
    text = conf.edited(OLD, URL, [ARM, AMD])

    kept = [line for line in OLD.splitlines() if "COSIGN" in line or "#" in line]
    assert [line for line in text.splitlines() if "COSIGN" in line or "#" in line] == kept
    assert [line.partition("=")[0] for line in text.splitlines()] == [
        line.partition("=")[0] for line in OLD.splitlines()
    ]
    assert conf.values(text) == {**conf.values(OLD), **conf.values(NEW)}


def test_a_second_edit_changes_nothing() -> None:
    once = conf.edited(OLD, URL, [ARM, AMD])
    assert conf.edited(once, URL, [ARM, AMD]) == once


def test_a_missing_line_and_a_folder_that_is_no_more_are_set_right() -> None:
    odd = "X86_64_ARTIFACT_PATHING=somewhere\nAARCH64_ARTIFACT=x\nAARCH64_512_DIGEST=y"
    assert conf.values(conf.edited(odd, URL, [ARM, AMD])) == conf.values(NEW)


@pytest.mark.parametrize(
    "odd",
    ["X86_64_512_DIGEST=first\nX86_64_512_DIGEST=last\n", "  export X86_64_512_DIGEST='last'\n"],
    ids=["twice", "exported"],
)
def test_a_shell_reads_the_new_values_whatever_was_there(tmp_path: Path, odd: str) -> None:
    (tmp_path / "it.conf").write_text(conf.edited(odd, URL, [AMD]))
    script = 'set -eu; . ./it.conf; printf "%s " "$ARTIFACT_BASE_URL" "$X86_64_512_DIGEST"'
    told = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [URL, "b" * 128]


def test_the_artifacts_of_a_file_are_listed_without_their_folders() -> None:
    assert conf.artifacts(OLD) == ["old-x86-64.qcow2", "old-arm64.qcow2"]
    assert conf.artifacts("") == []


def test_all_files_are_written(tmp_path: Path) -> None:
    conf.write_all({tmp_path / "deps/a.conf": "a", tmp_path / "deps/b.conf": "b"})

    assert {path.name: path.read_text() for path in (tmp_path / "deps").iterdir()} == {
        "a.conf": "a",
        "b.conf": "b",
    }
    assert (tmp_path / "deps/a.conf").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("first_is_new", [True, False])
def test_if_one_file_cannot_be_written_none_is(tmp_path: Path, first_is_new: bool) -> None:
    if not first_is_new:
        (tmp_path / "a.conf").write_text("before")
    # A folder with something in it cannot be replaced by a file.
    (tmp_path / "b.conf/inside").mkdir(parents=True)
    was = sorted(tmp_path.rglob("*"))

    with pytest.raises(HarnessError, match=r"b\.conf cannot be written"):
        conf.write_all({tmp_path / "a.conf": "a", tmp_path / "b.conf": "b"})

    assert sorted(tmp_path.rglob("*")) == was
    assert first_is_new or (tmp_path / "a.conf").read_text() == "before"


def test_an_interrupt_between_two_files_leaves_both_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.conf").write_text("before")
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if target.name == "b.conf":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        conf.write_all({tmp_path / "a.conf": "a", tmp_path / "b.conf": "b"})

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.conf": "before"}


def test_a_file_that_is_not_text_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_bytes(b"\xff")
    with pytest.raises(HarnessError, match=r"a\.conf cannot be read"):
        conf.read(tmp_path / "a.conf")
    assert conf.read(tmp_path / "b.conf") == ""


@pytest.mark.parametrize(
    "value",
    [
        "finch-12.qcow2 # of Monday", "finch-12.qcow2; export X86_64_ARTIFACT", "'finch'-12.qcow2",
        "finch-12.qcow2\t", "  # nothing", "", "finch\\-12.qcow2|:", "#finch", "finch#12 #",
    ],
)  # fmt: skip
def test_a_value_is_what_a_shell_reads(tmp_path: Path, value: str) -> None:
    (tmp_path / "it.conf").write_text(f"X86_64_ARTIFACT={value}\n")
    script = '. ./it.conf; printf "%s" "$X86_64_ARTIFACT"'
    told = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    is_lost = value.endswith("|:")  # a shell assigns it in a subshell only
    wanted = "finch-12.qcow2" if is_lost else told.stdout
    assert conf.values(conf.read(tmp_path / "it.conf")) == {"X86_64_ARTIFACT": wanted}


def test_a_quotation_that_does_not_end_is_no_obstacle() -> None:
    assert conf.values("X86_64_ARTIFACT='finch\n") == {"X86_64_ARTIFACT": "'finch"}


def test_line_ends_that_a_shell_takes_for_part_of_a_value_are_renewed(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_bytes(
        f"# kept\r\n{NEW}".replace("12.qcow2\n", "12.qcow2\r\n").encode()
    )
    assert conf.edited(conf.read(tmp_path / "a.conf"), URL, [ARM, AMD]) == f"# kept\r\n{NEW}"


@pytest.mark.parametrize("kind", ["link", "dangling link", "FIFO", "folder"])
def test_only_a_regular_file_is_edited(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.conf"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "link").write_text("elsewhere")
        path.symlink_to(tmp_path / kind)
    with pytest.raises(HarnessError, match=r"a\.conf is not a regular file"):
        conf.read(path)
