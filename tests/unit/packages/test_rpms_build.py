"""Building packages with a program in Docker's place, which writes RPMs as it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scripts.packages import rpms
from scripts.packages.engine import Engine
from scripts.packages.rpms import RpmPlan
from scripts.system.errors import HarnessError
from scripts.system.progress import Progress
from tests.unit.packages.given import opts, place

ENGINE = Engine("Docker", "28", "1.48", "unix:///nowhere", "default", True, True)

RPMS = ("cloud-init-25.1-1.finch1.noarch.rpm", "fuse-sshfs-3.7.3-12.finch1.x86_64.rpm")

# Writes its arguments down, then whatever a test appends; $to is where RPMs belong.
DOCKER = """\
#!/bin/sh
echo "$@" >> {calls}
for word; do case "$word" in type=local,dest=*) to="${{word#type=local,dest=}}";; esac; done
"""

MAKES_BOTH = 'mkdir -p "$to"; touch ' + " ".join(f'"$to/{name}"' for name in RPMS)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """The file with a line for each call of Docker."""
    return tmp_path / "calls"


@pytest.fixture
def planned(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> RpmPlan:
    """A plan that is due, with a layer cache, and a Docker that makes both RPMs."""
    docker(tmp_path, calls, MAKES_BOTH)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    plan = rpms.plan(opts(tmp_path, "--layer-cache", f"{tmp_path}/layers"), place(tmp_path))
    assert plan
    return replace(plan, engine=ENGINE)


def docker(folder: Path, calls: Path, does: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/docker").write_text(DOCKER.format(calls=calls) + does)
    (folder / "bin/docker").chmod(0o755)


def test_what_was_built_is_kept_with_its_record_and_not_due_any_more(
    planned: RpmPlan, tmp_path: Path
) -> None:
    added = rpms.build(planned, Progress(live=False))

    assert tuple(path.name for path in added.rpms) == RPMS
    assert added.packages == ("cloud-init", "fuse-sshfs")
    again = rpms.plan(planned.opts, place(tmp_path))
    assert again
    assert again.reason == ""


def test_a_build_that_fails_with_the_layer_cache_is_repeated_without_it(
    planned: RpmPlan, tmp_path: Path, calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = 'case "$*" in *--cache-to*) echo "ERROR: a broken layer" >&2; exit 1;; esac\n'
    docker(tmp_path, calls, broken + MAKES_BOTH)

    added = rpms.build(planned, Progress(live=False))

    assert len(added.rpms) == 2
    first, second = calls.read_text().splitlines()
    assert "--cache-to" in first
    assert "--cache-to" not in second
    assert "is repeated without it: a broken layer" in capsys.readouterr().err


def test_a_build_that_fails_leaves_earlier_rpms_and_names_the_log(
    planned: RpmPlan, tmp_path: Path, calls: Path
) -> None:
    rpms.build(planned, Progress(live=False))
    docker(tmp_path, calls, "echo 'ERROR: no space left on device' >&2; exit 1")

    with pytest.raises(HarnessError, match="the package build failed: no space left") as caught:
        rpms.build(planned, Progress(live=False))

    assert caught.value.log
    assert "no space left on device" in caught.value.log.read_text()
    assert len(list(planned.finished.glob("*.rpm"))) == 2


def test_a_layer_cache_that_cannot_be_written_is_a_warning(
    planned: RpmPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    rpms.build(replace(planned, engine=replace(ENGINE, exports_cache=False)), Progress(live=False))

    assert "warning: the layer cache is not written: Docker 28" in capsys.readouterr().err


def test_an_rpm_that_was_not_built_is_named(planned: RpmPlan, tmp_path: Path, calls: Path) -> None:
    docker(tmp_path, calls, f'mkdir -p "$to"; touch "$to/{RPMS[0]}"')

    with pytest.raises(HarnessError, match="did not produce fuse-sshfs"):
        rpms.build(planned, Progress(live=False))
