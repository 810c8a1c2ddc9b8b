"""The pins of packages of our own: read, and told apart from nonsense."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts import options
from scripts.catalog import ROOT
from scripts.packages import recipes
from scripts.system.errors import UsageError


def test_the_projects_own_pins_are_those_that_finch_needs() -> None:
    pins = recipes.read(ROOT / options.PACKAGES)
    named = {recipe.name: recipe for recipe in pins.recipes}
    assert named["fuse-sshfs"].nevra.startswith("fuse-sshfs-3.7.3-")
    assert named["cloud-init"].source == recipes.AMAZON
    [patch] = named["cloud-init"].patches
    assert "\n-Patch10010: 0010-Repair-mounts-module.patch\n" in patch.read_text()
    assert all(source.key.is_file() for source in pins.sources.values())
    assert re.fullmatch(
        r"public\.ecr\.aws/amazonlinux/amazonlinux:2023@sha256:[0-9a-f]{64}", pins.reference
    )


# Of a package called a, as much as there has to be.
PINS = """\
[base-image]
name = 'x'
digest = ''
[package.a]
source = 'amazonlinux'
nevra = 'a'
patches = []
suffix = 'finch1'
rpms = ['a']
"""


def test_each_package_has_its_stage_in_the_dockerfile_and_no_syntax_is_pulled() -> None:
    text = (ROOT / recipes.FOLDER / "Dockerfile").read_text()
    for recipe in recipes.read(ROOT / options.PACKAGES).recipes:
        assert f"AS {recipe.name}\n" in text
        assert f"COPY --from={recipe.name} /build/out/ /\n" in text
    assert "\n# syntax=" not in f"\n{text}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[base-image", "is not TOML"),
        ("[base-image]\nname = 'x'\n", "is not complete: 'digest'"),
        ("base-image = 3\npackage = {}", "is not complete"),
        (PINS.replace("'amazonlinux'", "'nowhere'"), "a has the unknown source 'nowhere'"),
        (PINS.replace("['a']", "'fuse-sshfs'"), "rpms of package.a must be a list of strings"),
        (PINS.replace("['a']", "['a', 3]"), "rpms of package.a must be a list of strings"),
        (
            PINS.replace("patches = []", "patches = 'a.patch'"),
            "patches of .* must be a list",
        ),
        (
            PINS.replace("'finch1'", "'a/b c&'"),
            "suffix of package.a must .* not 'a/b c&'",
        ),
        (PINS.replace("'finch1'", "''"), "suffix of package.a must .* not ''"),
        (PINS.replace("'finch1'", "1"), "suffix of package.a must be a string, not 1"),
        (PINS.replace("digest = ''", "digest = 3"), "digest of base-image must be a string, not 3"),
        (
            PINS.replace("digest = ''", "digest = 'sha256:12'"),
            "digest of base-image must be sha256: and 64 hexadecimal digits, not 'sha256:12'",
        ),
        (
            f"{PINS}[source.b]\nbaseurl = 3\nkey = 'k'\n",
            "baseurl of source.b must be a string or a list of strings, not 3",
        ),
    ],
)
def test_pins_that_make_no_sense_are_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "packages.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        recipes.read(tmp_path / "packages.toml")


def test_a_source_may_have_several_addresses(tmp_path: Path) -> None:
    text = f"{PINS}[source.b]\nbaseurl = ['http://b.test/', 'http://old.test/']\nkey = 'k'\n"
    (tmp_path / "packages.toml").write_text(text)
    source = recipes.read(tmp_path / "packages.toml").sources["b"]

    lines = source.repository("source", check=False).splitlines()
    assert "baseurl=http://b.test/ http://old.test/" in lines


@pytest.mark.parametrize("baseurl", [3, None, {}, ["http://a.test/", 3]])
def test_addresses_that_are_no_strings_are_refused(baseurl: object) -> None:
    with pytest.raises(ValueError, match=r"^must be a string or a list of strings, not "):
        recipes.base_urls(baseurl)


def test_one_address_stands_for_a_list_of_one() -> None:
    assert recipes.base_urls("http://a.test/") == recipes.base_urls(["http://a.test/"])


def test_pins_that_are_no_text_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "packages.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        recipes.read(tmp_path / "packages.toml")


@pytest.mark.parametrize("url", ["http://me:MARK@source.test/x", "https://MARK@source.test/x"])
def test_a_password_in_a_file_whose_digest_is_published_is_refused(
    tmp_path: Path, url: str
) -> None:
    text = (ROOT / options.PACKAGES).read_text()
    start = text.index("baseurl = ")
    (tmp_path / "packages.toml").write_text(
        text[:start] + f'baseurl = "{url}"\nold = ' + text[start + len("baseurl = ") :]
    )
    with pytest.raises(UsageError, match="must have no password in it") as caught:
        recipes.read(tmp_path / "packages.toml")
    assert "MARK" not in caught.value.message
