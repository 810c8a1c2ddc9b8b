"""Where each target is built, and what mkosi is told of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts import arch, catalog
from scripts.distributions import amazonlinux
from scripts.sessions import arguments
from scripts.stages import places
from scripts.stages.places import Places
from scripts.system.errors import UsageError

MIRROR = "http://mirror.test/al2023"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.asc"
    path.write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    return path


def make(checkout: Path, work: Path, *argv: str) -> Places:
    given = ["--arch", "x86_64", *argv, "--work", str(work)]
    return Places.prepare(arguments.parse(given, {}, root=checkout))


def test_amazon_linux_comes_from_amazon_unless_a_mirror_is_named(
    checkout: Path, tmp_path: Path
) -> None:
    images = make(checkout, tmp_path).images

    assert images.mirror is None
    assert "--mirror" not in images.arguments()
    assert images.repository == "amazonlinux at https://cdn.amazonlinux.com/al2023"


def test_further_repositories_are_for_the_images_alone_and_decide_every_stage(
    checkout: Path, tmp_path: Path
) -> None:
    plain = make(checkout, tmp_path)
    further = plain.with_repositories(("spal",))
    arguments = further.images.arguments()

    assert arguments[arguments.index("--repositories") + 1] == "spal"
    assert "--repositories" not in [*plain.images.arguments(), *further.tools.arguments()]
    assert further.images.sources_digest != plain.images.sources_digest


def test_a_configuration_that_is_edited_during_a_build_is_built_as_it_was(
    checkout: Path, tmp_path: Path
) -> None:
    root = tmp_path / "checkout"
    shutil.copytree(checkout / "mkosi.conf.d", root / "mkosi.conf.d")
    prepared = make(root, tmp_path / "work")
    (root / "mkosi.conf.d/amazonlinux.conf").write_text("edited")

    copy = prepared.configuration / "mkosi.conf.d/amazonlinux.conf"
    assert copy.read_text() == (checkout / "mkosi.conf.d/amazonlinux.conf").read_text()


def test_mkosi_is_given_the_mirror_of_amazon_linux_as_its_own(
    checkout: Path, tmp_path: Path
) -> None:
    images = make(checkout, tmp_path, "--mirror", MIRROR).images
    arguments = images.arguments()

    assert arguments[arguments.index("--mirror") + 1] == MIRROR
    assert images.repository == f"amazonlinux at {MIRROR}"


def test_the_tools_tree_does_not_come_from_the_mirror_of_amazon_linux(
    checkout: Path, tmp_path: Path
) -> None:
    with_mirror = make(checkout, tmp_path, "--mirror", MIRROR).tools
    without = make(checkout, tmp_path).tools

    assert "--mirror" not in with_mirror.arguments()
    assert with_mirror.sources_digest == without.sources_digest


def test_a_signing_key_lies_where_mkosi_looks_for_amazon_s(
    checkout: Path, tmp_path: Path, key: Path
) -> None:
    images = make(checkout, tmp_path / "work", "--signing-key", str(key)).images

    assert (images.sandbox_tree / amazonlinux.AMAZON_KEY).read_text() == key.read_text()


def test_a_signing_key_is_not_remembered_for_a_build_without_it(
    checkout: Path, tmp_path: Path, key: Path
) -> None:
    make(checkout, tmp_path / "work", "--signing-key", str(key))
    images = make(checkout, tmp_path / "work").images

    assert not (images.sandbox_tree / "usr").exists()


def test_another_mirror_or_key_makes_other_images(
    checkout: Path, tmp_path: Path, key: Path
) -> None:
    digests = [
        make(checkout, tmp_path / "work", *argv).images.sources_digest
        for argv in ([], ["--mirror", MIRROR], ["--signing-key", str(key)])
    ]

    assert len(set(digests)) == 3


def test_dnf_gives_a_silent_server_up_within_a_minute(checkout: Path, tmp_path: Path) -> None:
    conf = (make(checkout, tmp_path).images.sandbox_tree / "etc/dnf/dnf.conf").read_text()

    assert "timeout=15\n" in conf
    assert "retries=2\n" in conf


def test_each_kind_of_packages_has_a_tools_tree_of_its_own(checkout: Path, tmp_path: Path) -> None:
    rpm = make(checkout, tmp_path).tools
    deb = make(checkout, tmp_path, "--distribution", "debian").tools

    assert rpm.profiles == ("rpm",)
    assert deb.profiles == ()
    assert rpm.folder != deb.folder


def test_what_boots_aarch64_is_in_a_tools_tree_of_its_own(checkout: Path, tmp_path: Path) -> None:
    other = make(checkout, tmp_path, "--distribution", "debian").tools
    arm = make(checkout, tmp_path, "--distribution", "debian", "--arch", "aarch64").tools

    assert arm.profiles == ("aarch64",)
    assert arm.folder != other.folder


def test_mkosi_is_told_where_the_emulators_are(checkout: Path, tmp_path: Path) -> None:
    place = make(checkout, tmp_path).images

    assert place.environment(tmp_path)[places.EMULATORS] == str(place.emulators)


@pytest.mark.parametrize("name", catalog.DISTRIBUTIONS)
def test_the_release_is_the_pinned_one_unless_another_is_named(
    checkout: Path, tmp_path: Path, name: str
) -> None:
    argv = ["--distribution", name]
    pinned = places.release_of(checkout, catalog.DISTRIBUTIONS[name])

    assert make(checkout, tmp_path, *argv).images.release == pinned
    assert make(checkout, tmp_path, *argv, "--release", "other").images.release == "other"


def test_the_tools_tree_is_native_whatever_is_built(checkout: Path, tmp_path: Path) -> None:
    assert make(checkout, tmp_path).tools.arch is arch.native()


@pytest.mark.parametrize(("name", "setting"), [("debian", "Release"), ("amazonlinux", "Snapshot")])
def test_a_distribution_whose_release_is_not_pinned_is_refused(
    tmp_path: Path, name: str, setting: str
) -> None:
    conf = tmp_path / catalog.DISTRIBUTIONS[name].conf
    conf.parent.mkdir()
    conf.write_text("[Distribution]\nRepositories=main\n")
    with pytest.raises(UsageError, match=f"pins no release of {name}") as caught:
        places.release_of(tmp_path, catalog.DISTRIBUTIONS[name])

    assert f"{setting}=" in caught.value.hint


def test_only_the_tools_tree_is_kept_apart_from_the_images(checkout: Path, tmp_path: Path) -> None:
    made = make(checkout, tmp_path)

    assert made.of_stage("os-image") is made.images
    assert made.of_stage(catalog.TOOLS_TREE) is made.tools
    assert made.stage("os-image") == tmp_path / "amazonlinux/x86_64/stages/os-image"
    assert made.tools_tree == made.tools.folder / "stages/tools-tree/tools-tree"
    assert made.tools.folder == tmp_path / "tools/debian-rpm"


def test_folders_for_stages_and_packages_are_made(checkout: Path, tmp_path: Path) -> None:
    made = make(checkout, tmp_path)

    for place in (made.images, made.tools):
        assert (place.folder / "stages").is_dir()
        assert (place.folder / "packages").is_dir()
        assert (place.additions / "mkosi.conf").is_file()


def test_additions_that_are_laid_out_are_kept(checkout: Path, tmp_path: Path) -> None:
    conf = make(checkout, tmp_path).images.additions / "mkosi.conf"
    conf.write_text("laid out by a build")
    make(checkout, tmp_path)

    assert conf.read_text() == "laid out by a build"


def test_mkosi_is_told_its_target_and_profiles(checkout: Path, tmp_path: Path) -> None:
    made = make(checkout, tmp_path, "--distribution", "debian", "--arch", "aarch64")

    assert made.images.arguments() == [
        "--distribution", "debian",
        "--release", made.images.release,
        "--architecture", "arm64",
        "--sandbox-tree", f"${places.SANDBOX_TREE}",
    ]  # fmt: skip
    assert made.tools.arguments()[6:8] == ["--profile", "aarch64"]


def test_mkosi_builds_images_with_the_profiles_that_were_asked_for_and_the_tools_without(
    checkout: Path, tmp_path: Path
) -> None:
    made = make(checkout, tmp_path, "--distribution", "debian", "--profile", "full-kernel")

    where = made.images.arguments().index("--profile")
    assert made.images.arguments()[where + 1] == "full-kernel"
    assert made.plain(tmp_path)[0].count("full-kernel") == 1
    assert "full-kernel" not in made.tools.arguments()


@pytest.mark.parametrize(
    ("given", "release"), [([], None), (["--release", "2023.12.20260831"], "2023.12.20260831")]
)
def test_a_dated_release_is_a_snapshot_to_mkosi(
    checkout: Path, tmp_path: Path, given: list[str], release: str | None
) -> None:
    place = make(checkout, tmp_path, *given).images
    expected = release or places.release_of(checkout, catalog.DISTRIBUTIONS["amazonlinux"])
    arguments = [str(arg) for arg in place.arguments()]

    assert place.release == expected
    assert arguments[2:6] == ["--release", "2023", "--snapshot", expected]


def test_packages_of_debian_come_from_a_mirror_through_the_sandbox_tree(
    checkout: Path, tmp_path: Path
) -> None:
    made = make(checkout, tmp_path, "--distribution", "debian", "--mirror", "http://debian.test")

    for place in (made.images, made.tools):
        [sources] = place.sandbox_tree.rglob("*.sources")
        assert "http://debian.test" in sources.read_text()
        assert place.mirror is None
        assert place.repository == ""


def test_a_mkosi_that_builds_everything_itself_is_told_all_folders(
    checkout: Path, tmp_path: Path
) -> None:
    made = make(checkout, tmp_path / "work")
    arguments, variables = made.plain(tmp_path / "output")

    assert arguments == [
        *made.images.arguments(),
        "--package-directory", f"${places.ADDITIONS}/rpms",
        "--output-directory", tmp_path / "output",
        "--tools-tree-sandbox-tree", f"${places.TOOLS_SANDBOX_TREE}",
    ]  # fmt: skip
    assert variables.pop("PATH").endswith(":/usr/sbin:/sbin")
    assert variables == {
        places.OUTPUT: str(tmp_path / "output"),
        places.SANDBOX_TREE: str(made.images.sandbox_tree),
        places.TOOLS_SANDBOX_TREE: str(made.tools.sandbox_tree),
        places.ADDITIONS: str(made.images.additions),
        places.EMULATORS: str(made.images.emulators),
    }


@pytest.mark.parametrize("distribution", catalog.DISTRIBUTIONS)
def test_a_password_changes_nothing_that_mkosi_is_told_or_that_is_published(
    checkout: Path, tmp_path: Path, distribution: str
) -> None:
    argv = ["--distribution", distribution, "--mirror"]
    plain = make(checkout, tmp_path / "work", *argv, MIRROR)
    before = [plain.images.arguments(), plain.images.sources_digest, plain.images.repository]
    marked = make(checkout, tmp_path / "work", *argv, MIRROR.replace("//", "//me:MARK@"))
    after = [marked.images.arguments(), marked.images.sources_digest, marked.images.repository]

    assert before == after
    assert "MARK" not in f"{after} {marked} {marked.plain(tmp_path)}"
    assert secrets_below(tmp_path) == {0o600}


def test_the_password_of_a_proxy_is_in_no_variable_and_no_argument_of_mkosi(
    checkout: Path, tmp_path: Path
) -> None:
    environ = {"https_proxy": "http://me:MARK@proxy.test:3128", "no_proxy": "intern.test"}
    options = arguments.parse(["--work", str(tmp_path)], environ, root=checkout)
    images = Places.prepare(options).images
    told, variables = images.arguments(), images.environment(tmp_path)

    assert told[told.index("--proxy-url") + 1] == "http://proxy.test:3128"
    assert variables["https_proxy"] == "http://proxy.test:3128"
    assert variables["no_proxy"] == "intern.test"
    assert "MARK" not in f"{told} {variables}"
    assert secrets_below(tmp_path) == {0o600}


def test_a_password_is_not_kept_for_a_build_without_it(checkout: Path, tmp_path: Path) -> None:
    make(checkout, tmp_path / "work", "--mirror", MIRROR.replace("//", "//me:MARK@"))
    make(checkout, tmp_path / "work", "--mirror", MIRROR)

    assert secrets_below(tmp_path) == set()


def secrets_below(folder: Path) -> set[int]:
    """The modes of the files below folder that have the password."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.stat().st_mode & 0o777 for path in files if b"MARK" in path.read_bytes()}
