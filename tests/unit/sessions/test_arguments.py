"""What the command line and the environment come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import arch, catalog, options
from scripts.options import (
    BootOptions,
    BuildOptions,
    Folders,
    PackageBuild,
    Proxies,
    Sources,
    Target,
)
from scripts.sessions import arguments
from scripts.system.errors import UsageError, describe
from scripts.system.url import Url


def test_nothing_given_means_all_of_amazon_linux_for_this_machine(tmp_path: Path) -> None:
    given = arguments.parse([], {}, root=tmp_path)
    assert given == options.Options(
        target=Target(catalog.DISTRIBUTIONS["amazonlinux"], arch.native()),
        sources=Sources(),
        packages=PackageBuild(tmp_path / "al2023-package-build/packages.toml"),
        build=BuildOptions(force=False, jobs=2, binfmt=True),
        boot=BootOptions("auto"),
        folders=Folders(tmp_path, tmp_path / ".work", tmp_path / "out"),
    )


def test_artifacts_go_to_a_folder_of_the_distribution_and_the_arch(tmp_path: Path) -> None:
    given = arguments.parse(["--distribution", "debian", "--arch", "arm64"], {}, root=tmp_path)
    assert given.artifacts == tmp_path / "out/debian/aarch64"


def test_images_are_kept_in_their_order_each_once() -> None:
    argv = ["--image", "wsl-rootfs", "--image", "base", "--image", "wsl-rootfs"]
    assert arguments.parse([*argv, "--arch", "x86_64"], {}).target.images == ("wsl-rootfs", "base")


def test_profiles_of_mkosi_are_kept_in_their_order_each_once(tmp_path: Path) -> None:
    (tmp_path / "mkosi.profiles").mkdir()
    for name in ("mine", "full-kernel"):
        (tmp_path / f"mkosi.profiles/{name}.conf").touch()
    argv = ["--profile", "mine", "--profile", "full-kernel", "--profile", "mine"]
    given = arguments.parse(argv, {}, root=tmp_path)
    assert given.target.profiles == ("mine", "full-kernel")


@pytest.mark.parametrize("name", ["no-such-profile", "staged", "README", "../full-kernel"])
def test_a_profile_that_there_is_not_or_that_the_harness_chooses_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown profile") as caught:
        arguments.parse(["--profile", name], {})
    assert caught.value.hint.startswith("use one of full-kernel")


def test_the_harness_has_the_profiles_that_it_chooses_itself(checkout: Path) -> None:
    for name in options.OWN_PROFILES:
        assert (checkout / f"mkosi.profiles/{name}.conf").is_file()


def test_the_arch_of_the_environment_stands_in_for_the_option() -> None:
    assert arguments.parse([], {"ARCH": "arm64"}).target.arch is arch.AARCH64
    assert arguments.parse(["--arch", "amd64"], {"ARCH": "arm64"}).target.arch is arch.X86_64


def test_native_is_this_machine_whatever_the_environment_says() -> None:
    other = next(name for name in arch.NAMES if name != arch.native().name)
    assert arguments.parse(["--arch", "native"], {"ARCH": other}).target.arch is arch.native()


def test_the_last_of_an_option_counts_so_that_a_session_s_own_can_be_overridden() -> None:
    argv = ["--arch", "native", "--arch", "aarch64"]
    assert arguments.parse(argv, {}).target.arch is arch.AARCH64


def test_mkosi_s_source_comes_from_the_environment_as_an_absolute_path() -> None:
    given = arguments.parse([], {"MKOSI_SOURCE": "mkosi.tar.gz"})
    assert given.sources.mkosi_source == Path.cwd() / "mkosi.tar.gz"


@pytest.mark.parametrize(
    ("argv", "accepted"),
    [
        (["--arch", "riscv64"], "x86_64, x86-64, amd64, aarch64, arm64"),
        (["--distribution", "gentoo"], "amazonlinux, debian"),
        (["--arch", "x86_64", "--image", "iso"], "os-image, container-with-kernel, wsl-rootfs"),
        (["--arch", "aarch64", "--image", "wsl-rootfs"], "os-image, container-with-kernel, base"),
    ],
)
def test_an_unknown_name_is_wrong_usage_and_the_accepted_ones_are_listed(
    argv: list[str], accepted: str
) -> None:
    with pytest.raises(UsageError, match="unknown") as caught:
        arguments.parse(argv, {})
    assert accepted in caught.value.hint
    assert argv[-1] in caught.value.message


def test_an_unknown_arch_in_the_environment_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="'sparc'"):
        arguments.parse([], {"ARCH": "sparc"})


@pytest.mark.parametrize(
    "argv",
    [
        ["--colour"],
        ["--rel", "trixie"],
        ["--release"],
        ["--release", "../../etc"],
        ["--jobs", "0"],
        ["--jobs", "two"],
        ["--accel", "hvf"],
        ["leftover"],
    ],
)
def test_what_argparse_refuses_is_a_usage_error_like_any_other(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        arguments.parse(argv, {})
    assert "--help" in caught.value.hint
    assert capsys.readouterr().err == ""


def test_a_signing_key_comes_as_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.asc").touch()
    assert (
        arguments.parse(["--signing-key", "key.asc"], {}).sources.signing_key
        == tmp_path / "key.asc"
    )


def test_a_signing_key_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"key\.asc is not a file"):
        arguments.parse(["--signing-key", str(tmp_path / "key.asc")], {})


def test_a_signing_key_is_not_ignored_where_it_would_mean_nothing(tmp_path: Path) -> None:
    (tmp_path / "key.asc").touch()
    argv = ["--distribution", "debian", "--signing-key", str(tmp_path / "key.asc")]
    with pytest.raises(UsageError, match="debian"):
        arguments.parse(argv, {})


@pytest.mark.parametrize("url", ["http://mirror.test/debian", "file:///srv/debian"])
def test_a_mirror_may_be_a_server_or_a_folder(url: str) -> None:
    options = arguments.parse(["--distribution", "debian", "--mirror", url], {})
    assert options.sources.mirror == Url(url)


@pytest.mark.parametrize("option", ["--mirror", "--third-party-mirror"])
@pytest.mark.parametrize("text", ["nowhere", "ftp://archive.test/debian", "http://", "http:///x"])
def test_a_mirror_that_is_no_url_is_named_as_it_was_typed(option: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"^{option} '{text}' is not a URL of http"):
        arguments.parse([option, text], {})


MARKED = [
    "http://me:MARK#@mirror.test/al2023",
    "http://me:MA/RK@mirror.test/al2023",
    "http://me:MARK?@mirror.test/al2023",
    "http://me:12/MARK@mirror.test/al2023",
    "http://me:MARK[@mirror.test/al2023",
    "http://me:MARK\n@mirror.test/al2023",
    "http://me:MARK%0a@mirror.test/al2023",
    "http://me%3a:MARK@mirror.test/al2023",
    "http://me:MARK@mirror.test/?token=MARK",
    "http://me:MARK@mirror.test:0/",
    "http://me:MARK @mirror.test/",
    "me:MARK@mirror.test",
    "ftp://me:MARK@mirror.test",
]


@pytest.mark.parametrize("text", MARKED)
@pytest.mark.parametrize(
    "argv", [["--mirror"], ["--third-party-mirror"], ["--layer-cache"], ["--nonsense"]]
)
def test_a_url_that_is_refused_does_not_show_its_password(argv: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        arguments.parse([*argv, text], {})

    said = describe(caught.value)
    assert not any(part in said for part in ("MARK", "MA/", "RK@"))


@pytest.mark.parametrize("text", [text for text in MARKED if "token" not in text and "//" in text])
def test_a_proxy_that_is_refused_does_not_show_its_password(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        arguments.parse([], {"HTTPS_PROXY": text})

    assert "MARK" not in describe(caught.value)


def test_mirrors_may_come_from_the_environment_where_no_command_line_shows_them() -> None:
    environ = {
        "FINCH_MIRROR": "http://me:MARK@mirror.test/al2023",
        "FINCH_THIRD_PARTY_MIRROR": "http://me:MARK@files.test",
    }
    sources = arguments.parse([], environ).sources
    assert sources.mirror == Url(environ["FINCH_MIRROR"])
    assert sources.third_party_mirror == Url(environ["FINCH_THIRD_PARTY_MIRROR"])
    assert "MARK" not in repr(arguments.parse([], environ))


@pytest.mark.parametrize("option", ["--out", "--work"])
@pytest.mark.parametrize(
    "name",
    ["a:b", "a,b", "a@@b", "a?b", "a$HOME", "a%b", "a\nb", "a\x1b[2Jb", "a\u2028b", "a\udcffb"],
)
def test_a_folder_that_a_tool_would_misread_is_refused_in_a_sentence(
    option: str, name: str
) -> None:
    with pytest.raises(UsageError, match="would misunderstand") as caught:
        arguments.parse([option, f"/tmp/{name}"], {})

    assert caught.value.message.isprintable()
    assert option in caught.value.hint


def test_rpms_do_not_come_from_a_folder() -> None:
    with pytest.raises(UsageError, match="is a folder") as caught:
        arguments.parse(["--distribution", "amazonlinux", "--mirror", "file:///srv/x86_64"], {})

    assert "http.server" in caught.value.hint


def test_help_tells_of_every_option_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        arguments.parse(["--help"], {})
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name in (
        "distribution",
        "release",
        "mirror",
        "arch",
        "image",
        "profile",
        "force",
        "offline",
        "jobs",
    ):
        assert f"--{name}" in shown


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        ((Target,), ["--offline", "--layer-cache", "--force", "--accel", "--work"]),
        ((BootOptions, Folders), ["--distribution", "--mirror", "--packages", "--jobs"]),
    ],
)
def test_help_shows_only_the_options_that_mean_something_to_the_session(
    shown: tuple[type, ...], hidden: list[str]
) -> None:
    text = arguments.parser("some-session", "Does something.", shown).format_help()
    assert not [name for name in hidden if name in text.partition("Options of other")[0]]
    assert "./nox -s some-session --" in text


def test_options_of_other_sessions_are_accepted() -> None:
    parser = arguments.parser("boot-test", "Boots.", (BootOptions,))
    given = arguments.parse(["--jobs", "3", "--accel", "tcg"], {}, using=parser)
    assert (given.build.jobs, given.boot.accel) == (3, "tcg")


def test_an_os_image_is_there_to_boot_once_it_stands_under_its_final_name(tmp_path: Path) -> None:
    assert not arguments.is_built("x86_64", [], root=tmp_path)
    folder = tmp_path / "out/debian/x86_64"
    folder.mkdir(parents=True)
    (folder / "os-image.raw").touch()
    assert arguments.is_built("x86_64", [], root=tmp_path)
    assert not arguments.is_built("aarch64", [], root=tmp_path)


@pytest.mark.parametrize(
    ("built", "argv", "booted"),
    [
        (["debian"], [], "debian"),
        (["amazonlinux", "debian"], [], "amazonlinux"),
        (["amazonlinux", "debian"], ["--distribution", "debian"], "debian"),
        ([], [], "amazonlinux"),
    ],
)
def test_the_boot_test_means_amazon_linux_where_both_are_built(
    tmp_path: Path, built: list[str], argv: list[str], booted: str
) -> None:
    for name in built:
        folder = tmp_path / "out" / name / "x86_64"
        folder.mkdir(parents=True)
        (folder / "os-image.raw").touch()
    argv = ["--arch", "x86_64", *argv]
    assert arguments.parse_for_boot(argv, {}, root=tmp_path).target.distribution.name == booted


def test_the_boot_test_s_own_options_choose_where_an_os_image_is_looked_for(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere/debian/x86_64"
    folder.mkdir(parents=True)
    (folder / "os-image.raw").touch()
    elsewhere = ["--out", str(tmp_path / "elsewhere")]
    assert arguments.is_built("x86_64", elsewhere, root=tmp_path)
    assert not arguments.is_built("x86_64", [*elsewhere, "--distribution", "other"], root=tmp_path)


@pytest.mark.parametrize("argv", [["--help"], ["--distribution"]])
def test_the_boot_test_itself_answers_where_its_arguments_are_none_to_boot_with(
    argv: list[str], tmp_path: Path
) -> None:
    assert arguments.is_built("x86_64", argv, root=tmp_path)


def test_a_build_may_be_told_to_leave_the_machine_as_it_is() -> None:
    assert not arguments.parse(["--no-binfmt"], {}).build.binfmt


@pytest.mark.parametrize(
    ("text", "cache"),
    [
        ("1234.dkr.ecr.us-west-2.amazonaws.com/finch/cache", None),
        ("127.0.0.1:5000/cache", None),
        ("/var/cache/layers", Path("/var/cache/layers")),
        ("./layers", Path("layers").absolute()),
    ],
)
def test_a_layer_cache_is_a_repository_or_a_folder(text: str, cache: Path | None) -> None:
    assert arguments.parse([], {"ECR_CACHE_REPO": text}).packages.layer_cache == (cache or text)
    assert arguments.parse(["--layer-cache", text], {}).packages.layer_cache == (cache or text)


def test_a_home_that_nobody_has_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        arguments.parse(["--layer-cache", "~nobody-of-this-name/layers"], {})


@pytest.mark.parametrize("text", ["https://127.0.0.1/cache", "localhost", "127.0.0.1/cache:tag"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a registry's repository nor a folder"):
        arguments.parse([], {"ECR_CACHE_REPO": text})


@pytest.mark.parametrize("url", ["http://me:p[ss@proxy:3128", "http://me:p#1@127.0.0.1:3128"])
def test_a_proxy_that_is_no_url_is_not_shown(url: str) -> None:
    with pytest.raises(
        UsageError, match=r"^http_proxy in the environment (is not a URL of|has a char)"
    ) as caught:
        arguments.parse([], {"http_proxy": url})

    assert "p[ss" not in caught.value.hint


def test_a_proxy_is_taken_from_the_environment_in_small_and_in_capital_letters() -> None:
    environ = {"http_proxy": "http://a:1", "HTTPS_PROXY": "b:2", "NO_PROXY": "c", "no_proxy": ""}
    given = arguments.parse([], environ | {"ftp_proxy": "d"})
    assert given.sources.proxies == Proxies(
        {"http_proxy": Url("http://a:1"), "HTTPS_PROXY": Url("http://b:2")}, {"NO_PROXY": "c"}
    )


def test_packages_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        arguments.parse(["--packages", str(tmp_path / "none.toml")], {})


@pytest.mark.parametrize("text", ["yesterday", "-1", "1.5", "1 2", "١", "1" * 5000])  # noqa: RUF001
def test_a_time_for_files_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH must be a number of seconds"):
        arguments.parse([], {"SOURCE_DATE_EPOCH": text})


def test_without_a_time_for_files_there_is_none() -> None:
    assert arguments.parse([], {"SOURCE_DATE_EPOCH": ""}).build.epoch is None
