"""Programs that fail without a word are reported in one sentence all the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.distributions import debian, programs
from scripts.distributions.debian import Archive
from scripts.distributions.programs import Source
from scripts.publish import registry, signing
from scripts.system.errors import HarnessError, MachineError
from scripts.system.process import CommandError
from scripts.system.progress import Progress
from scripts.system.url import Url


@pytest.mark.parametrize("said", ["", "\n", "  \n\n"])
def test_a_download_that_fails_silently_names_the_program_and_the_command(
    said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download_all(*_: Sequence[str]) -> list[Path]:
        raise CommandError(["apt-get", "download"], 100, said)

    monkeypatch.setattr(debian, "find", lambda: Archive(Url("http://archive.example/")))
    monkeypatch.setattr(debian, "download_all", download_all)
    with pytest.raises(MachineError, match=r"skopeo cannot be downloaded from Debian: .*apt-get"):
        programs.obtain(
            "skopeo", Source("usr/bin/skopeo", ["skopeo"]), tmp_path, Progress(live=False)
        )


def test_a_cosign_that_fails_silently_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="SHA512SUMS cannot be signed: false sign-blob"):
        signing.Signer(["false"], None).sign(tmp_path / "SHA512SUMS")


def test_a_skopeo_that_fails_silently_is_named() -> None:
    with pytest.raises(HarnessError, match=r"localhost/finch cannot be used: .*false"):
        registry.Registry(["false"], "localhost/finch").digest("tag")
