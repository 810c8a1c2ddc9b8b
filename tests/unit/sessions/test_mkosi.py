"""Which of the mkosi session's words are options of ours, and which mkosi gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts import arch
from scripts.mkosi import confinement
from scripts.sessions import mkosi
from scripts.system.errors import UsageError
from scripts.system.url import Url
from tests.unit.server import Server
from tests.unit.sessions.conftest import Site

MIRROR = "https://mirror.example/al2023"


@pytest.mark.parametrize(
    ("argv", "rest"),
    [
        ([], []),
        (["--image-id", "base", "build"], ["--image-id", "base", "build"]),
        (["--allow-missing", "tool", "-f", "build"], ["-f", "build"]),
        (["--third-party-mirror=http://a/b=c", "--allow-missing=x", "summary"], ["summary"]),
        (["--without-packages", "build"], ["build"]),
        (["--mirror", MIRROR, "--release=2023.12.20260930", "summary"], ["summary"]),
        (["vm", "--", "--force", "--work"], ["vm", "--", "--force", "--work"]),
    ],
)
def test_mkosi_gets_what_is_not_ours(argv: list[str], rest: list[str]) -> None:
    assert mkosi.split(argv)[1] == rest


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--force", "build"], ["--force", "build"]),
        (["--force", "--force", "build"], ["--force", "--force", "build"]),
        (["--offline", "build"], ["--cache-only", "always", "build"]),
        (["--image", "base", "summary"], ["--image-id", "base", "summary"]),
    ],
)
def test_what_means_something_to_mkosi_too_reaches_it_in_its_own_words(
    argv: list[str], words: list[str]
) -> None:
    assert mkosi.split(argv)[1] == words


def test_every_option_of_ours_reaches_our_options(tmp_path: Path) -> None:
    key = tmp_path / "key.asc"
    key.touch()
    argv = ["--mirror", MIRROR, "--signing-key", str(key), "--offline", "--architecture", "arm64"]

    options, _ = mkosi.split([*argv, "--work", str(tmp_path), "build"])

    assert options.sources.mirror == Url(MIRROR)
    assert options.sources.signing_key == key
    assert options.sources.offline
    assert options.target.arch is arch.AARCH64
    assert options.folders.work == tmp_path


def test_mkosi_s_short_names_reach_our_options_too() -> None:
    options, words = mkosi.split(["-d", "debian", "-r", "bookworm", "-m", MIRROR, "summary"])

    assert options.target.distribution.name == "debian"
    assert (options.target.release, options.sources.mirror) == ("bookworm", Url(MIRROR))
    assert words == ["summary"]


def test_an_option_without_its_value_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="third-party-pins"):
        mkosi.split(["build", "--third-party-pins"])


def test_mkosi_builds_one_image_at_a_time() -> None:
    with pytest.raises(UsageError, match="one image at a time"):
        mkosi.split(["--arch", "x86_64", "--image", "base", "--image", "os-image", "build"])


@pytest.fixture
def executed(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that this process would have turned into; site builds with a fake mkosi."""
    commands: list[list[str]] = []

    def execute(_program: str, command: list[str], variables: dict[str, str]) -> None:
        distribution = command[command.index("--distribution") + 1]
        place = site.folder / "work" / distribution / arch.native().name
        assert variables["FINCH_SANDBOX_TREE"] == os.fspath(place / "sandbox")
        commands.append(command)

    monkeypatch.setattr(os, "execve", execute)
    monkeypatch.setattr(os, "chdir", lambda _: None)
    assert site.built == []
    return commands


def test_a_summary_needs_no_tools(site: Site, executed: list[list[str]]) -> None:
    mkosi.main([*site.argv, "--image", "base", "summary"])

    [command] = executed
    assert command[-3:] == ["--image-id", "base", "summary"]
    assert "--tools-tree" not in command
    assert site.built == []


def test_the_latest_release_is_the_dated_one_that_the_mirror_lists(
    site: Site, executed: list[list[str]], server: Server
) -> None:
    server.files["/core/releasemd.xml"] = b'<release version="2023.12.20260831"/>'
    target = ["--distribution", "amazonlinux", "--release", "latest", "--mirror", server.url]
    mkosi.main([*site.argv, *target, "--image", "base", "summary"])

    [command] = executed
    at = command.index("--release")
    assert command[at : at + 4] == ["--release", "2023", "--snapshot", "2023.12.20260831"]


def test_a_build_has_the_tools_tree_of_our_own_builds(
    site: Site, executed: list[list[str]]
) -> None:
    mkosi.main([*site.argv, "--image", "base", "build"])

    [command] = executed
    tree = command[command.index("--tools-tree") + 1]
    assert tree == os.fspath(site.places.tools_tree)
    assert site.built == ["tools-tree"]
    assert (site.places.images.emulators / "usr/bin").is_dir()
    assert (site.places.images.additions / "mkosi.conf").is_file()


@pytest.mark.parametrize("verb", ["build", "summary", "clean"])
def test_a_plain_mkosi_that_may_run_package_scripts_is_confined(
    site: Site, executed: list[list[str]], verb: str
) -> None:
    mkosi.main([*site.argv, "--image", "base", verb])

    [command] = executed
    assert os.fspath(confinement.PROGRAM) in command
    assert command.index(os.fspath(confinement.PROGRAM)) < command.index(verb)


def test_a_plain_mkosi_that_runs_an_image_has_the_machine(
    site: Site, executed: list[list[str]]
) -> None:
    mkosi.main([*site.argv, "--image", "os-image", "vm"])

    [command] = executed
    assert os.fspath(confinement.PROGRAM) not in command


def test_a_build_does_not_trust_the_packages_that_are_kept_for_our_own_builds(
    site: Site, executed: list[list[str]]
) -> None:
    mkosi.main([*site.argv, "--image", "base", "build"])

    [command] = executed
    packages = Path(command[command.index("--package-cache-dir") + 1])
    kept = site.places.images.folder / "packages"  # which CI restores from a cache
    assert packages.is_dir()
    assert packages != kept
    assert kept not in packages.parents
