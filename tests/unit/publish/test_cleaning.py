"""Which images a registry may lose, judged from tags, digests and the files of deps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts.publish.cleaning import Named, judged
from scripts.system.errors import UsageError

NOTHING = Named(frozenset(), frozenset(), "")


def tag(run: int, arch: str = "arm64", date: str = "2026.9.30") -> str:
    return f"{date}-build-{run}-{arch}-with-kernel"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def leaving(tags: Mapping[str, str], named: Named = NOTHING, keep: int = 1) -> list[str]:
    return [one.tag for one in judged(tags, named, keep) if not one.reason]


def reasons(tags: Mapping[str, str], named: Named = NOTHING, keep: int = 1) -> dict[int, str]:
    return {one.run: one.reason for one in judged(tags, named, keep)}


def named(folder: Path, text: str) -> Named:
    (folder / "full-os.conf").write_text(text)
    return Named.read(folder)


def test_the_newest_runs_of_each_architecture_stay() -> None:
    tags = {tag(run): digest(run) for run in (9, 10, 11)}
    tags |= {tag(run, "x86-64"): digest(20 + run) for run in (9, 10)}

    assert leaving(tags, keep=2) == [tag(9)]
    assert leaving(tags, keep=1) == [tag(10), tag(9), tag(9, "x86-64")]
    assert leaving(tags, keep=3) == []


def test_a_run_counts_once_however_often_it_was_uploaded() -> None:
    tags = {
        tag(10, date="2026.9.30"): digest(1),
        tag(10, date="2026.10.1"): digest(2),
        tag(9): digest(3),
    }
    assert leaving(tags, keep=2) == []
    assert leaving(tags, keep=1) == [tag(9)]


@pytest.mark.parametrize(
    "other",
    [
        "latest-arm64", "arm64-with-kernel-4711", "qemu-build-arm64",
        "2026.09.30-build-4711-arm64-with-kernel", "2026.9.30-build-4711-arm64",
        "2026.9.30-build-4711-riscv64-with-kernel", "2026.13.1-build-4711-arm64-with-kernel",
        "x2026.9.30-build-4711-arm64-with-kernel",
    ],
)  # fmt: skip
def test_tags_of_another_form_are_never_touched(other: str) -> None:
    assert leaving({other: digest(1), tag(9999): digest(2)}) == []


def test_what_latest_refers_to_stays() -> None:
    tags = {tag(1): digest(1), tag(2): digest(2), tag(3): digest(3), "latest-arm64": digest(1)}
    assert reasons(tags) == {3: "among the newest", 2: "", 1: "also called latest-arm64"}


def test_what_another_image_that_stays_is_made_of_stays() -> None:
    # The same image was built by two runs.
    tags = {tag(1): digest(1), tag(2): digest(1), tag(3): digest(3)}
    assert leaving(tags) == [tag(2), tag(1)]
    assert leaving(tags, keep=2) == []


def test_a_run_that_deps_names_stays_for_both_architectures(tmp_path: Path) -> None:
    found = named(tmp_path, "AARCH64_ARTIFACT=finch-al2023-os-image-arm64-25872286438.qcow2\n")
    runs = (25872286438, 25872286439, 258722864380, 5872286438)
    tags = {tag(run, arch): digest(run) for run in runs for arch in ("arm64", "x86-64")}

    assert reasons(tags, found) == {
        258722864380: "among the newest",
        25872286439: "",
        25872286438: "named in deps",
        5872286438: "",
    }


@pytest.mark.parametrize(
    "text",
    [f"IMAGE={tag(1)}", f"IMAGE=host/finch:{tag(1)}", f"IMAGE=host/finch@{digest(1)}"],
)
def test_a_tag_or_a_digest_that_deps_names_stays(tmp_path: Path, text: str) -> None:
    tags = {tag(1): digest(1), tag(3): digest(3)}
    assert reasons(tags, named(tmp_path, text))[1] == "named in deps"


def test_a_digest_is_not_taken_for_a_run(tmp_path: Path) -> None:
    found = named(tmp_path, f"X86_64_512_DIGEST=a4711b{'0' * 122}\nSUM={'4711' * 32}\n")
    assert leaving({tag(4711): digest(1), tag(9999): digest(2)}, found) == [tag(4711)]


def test_without_files_of_deps_nothing_is_judged(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("another folder\n")
    with pytest.raises(UsageError, match=r"has no full-os\.conf or rootfs\.conf") as caught:
        Named.read(tmp_path)
    assert "--deps" in caught.value.hint
