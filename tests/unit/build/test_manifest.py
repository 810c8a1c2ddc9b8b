"""What manifest.json says about a build, and how it is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError

from scripts import arch, catalog, options
from scripts.build import manifest
from scripts.build.manifest import (
    Added,
    BuiltImage,
    Contents,
    Given,
    ListedFile,
    Manifest,
    UsedMkosi,
    pins,
)
from scripts.mkosi.source import Mkosi
from scripts.options import Options
from scripts.sessions import arguments
from scripts.stages import additions
from scripts.stages.additions import Additions
from scripts.stages.artifacts import Artifact
from scripts.stages.inputs import from_labels
from scripts.stages.places import Place
from scripts.stages.records import Package, Record
from scripts.system.digests import file_digest
from scripts.system.errors import HarnessError, UsageError
from tests import manifests

# What the code before Manifest wrote for the build of `golden`.
GOLDEN = Path(__file__).with_name("golden-manifest.json")

SHA256 = "ab" * 32

MANIFEST = Manifest(
    distribution="amazonlinux",
    release="2023.1",
    arch=arch.X86_64,
    options=Given(),
    pins={},
    mkosi=UsedMkosi("27.1", "upstream's tarball", SHA256, {}),
    additions=Added(),
    images={"base": BuiltImage(SHA256, (), 1.5, ())},
    artifacts=(ListedFile("os-image.raw", 3, "ff" * 64),),
)


def parse(*argv: str) -> Options:
    return arguments.parse(["--arch", "x86_64", *argv], {})


def given(*argv: str) -> dict[str, Any]:
    return Given.of(parse(*argv)).to_json()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def golden(folder: Path) -> Manifest:
    """A build that has something of everything."""
    root = folder / "checkout"
    for name in (
        "mkosi/pin.toml",
        "binfmt/targets.toml",
        "third-party/pins.toml",
        "al2023-package-build/README.md",
        "al2023-package-build/packages.toml",
        "al2023-package-build/keys/key",
    ):
        write(root / name, f"{name}\n")
    key = write(folder / "key", "a key\n")
    program = write(folder / "download", "a program")
    opts = arguments.parse(
        [
            *("--distribution", "amazonlinux", "--arch", "x86_64", "--signing-key", str(key)),
            *("--mirror", "https://user:secret@mirror.example/al2023"),
            *("--allow-missing", "pass", "--allow-missing", "cosign"),
        ],
        {},
        root=root,
    )
    place = Place(
        folder, catalog.DISTRIBUTIONS["amazonlinux"], "2023.1", arch.X86_64, folder / "sandbox"
    )
    added = Additions((folder / "own-1-1.x86_64.rpm",), ("own",), {"/usr/bin/own": program})
    record = Record.read(folder)
    assert record
    return Manifest.of(
        opts,
        Mkosi(folder, "27.1", "upstream’s tarball", SHA256, {"0001.patch": "cd" * 32}),  # noqa: RUF001
        place,
        {"base": record, "initrd": Record("ef" * 32, (), 2, (), ())},
        added,
        [
            Artifact("os-image.raw", 3, 4, "ff" * 64),
            Artifact("container-with-kernel/index.json", 5, 6, "ee" * 64),
        ],
    )


def test_every_byte_of_the_file_is_as_it_was_before_there_was_a_type_for_it(
    tmp_path: Path, checkout: Path
) -> None:
    stage = (checkout / "tests/unit/stages/golden-stage.json").read_text()
    write(tmp_path / "stage.json", stage)
    golden(tmp_path).write(tmp_path)

    assert (tmp_path / manifest.NAME).read_bytes() == GOLDEN.read_bytes()


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = replace(
        MANIFEST,
        options=Given(
            mirror="https://mirror.example", allow_missing=("pass",), profile=("full-kernel",)
        ),
        additions=Added(("own",), ("own-1-1.noarch.rpm",), {"/usr/bin/own": SHA256}),
        images={
            "base": BuiltImage(
                SHA256, from_labels({"mkosi.conf": "1"}), 1, (Package("a", "1", "amd64"),)
            )
        },
    )
    whole.write(tmp_path)

    assert Manifest.read(tmp_path) == whole
    assert Manifest.read(tmp_path / manifest.NAME) == whole


def test_the_folder_without_a_build_gets_a_hint_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no .*manifest\.json") as caught:
        Manifest.read(tmp_path)
    assert "./nox -s build" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"distribution": "debian", "release": "trixie", "arch": "x86_64"}',
        '{"distribution": "", "release": "", "arch": "mips", "images": {}, "artifacts": []}',
        '{"distribution": "", "release": "", "arch": "x86_64", "images": [], "artifacts": []}',
        '{"distribution": "", "release": "", "arch": "x86_64", "images": {}, "artifacts": [1]}',
    ],
)
def test_a_damaged_manifest_is_one_clear_error_or_none_at_all(tmp_path: Path, text: str) -> None:
    write(tmp_path / manifest.NAME, text)

    with pytest.raises(HarnessError, match=r"manifest\.json is not the manifest of a build"):
        Manifest.read(tmp_path)
    assert Manifest.find(tmp_path) is None


def test_a_manifest_from_before_options_pins_and_additions_were_listed_is_read(
    tmp_path: Path,
) -> None:
    MANIFEST.write(tmp_path)
    data = json.loads((tmp_path / manifest.NAME).read_text())
    for name in ("options", "pins", "additions"):
        del data[name]
    write(tmp_path / manifest.NAME, json.dumps(data))

    assert Manifest.read(tmp_path) == MANIFEST


def test_a_manifest_that_breaks_the_schema_is_noticed_by_every_test_that_writes_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValidationError, match="'deadbeef' does not match"):
        replace(MANIFEST, pins={"mkosi/pin.toml": "deadbeef"}).write(tmp_path)


def test_the_schema_takes_the_keys_that_rpm_lists_without_an_architecture(tmp_path: Path) -> None:
    key = Package("gpg-pubkey", "d832c631-6515c85e", "")
    base = BuiltImage(SHA256, (), 1.5, (key,))

    replace(MANIFEST, images={"base": base}).write(tmp_path)

    assert Manifest.read(tmp_path).images["base"].packages == (key,)


def test_the_digest_of_a_package_is_listed_and_older_manifests_have_none(tmp_path: Path) -> None:
    packages = (Package("bash", "5.2", "amd64", SHA256), Package("old", "1", "amd64"))
    images = {"base": BuiltImage(SHA256, (), 1.5, packages)}
    replace(MANIFEST, images=images).write(tmp_path)

    listed = json.loads((tmp_path / manifest.NAME).read_text())["images"]["base"]["packages"]
    assert [package.get("sha256") for package in listed] == [SHA256, None]
    assert Manifest.read(tmp_path).images["base"].packages == packages


@pytest.mark.parametrize(
    "path", [(), ("options",), ("mkosi",), ("additions",), ("images", "base"), ("artifacts", 0)]
)
def test_the_schema_knows_every_key(tmp_path: Path, path: tuple[str | int, ...]) -> None:
    data = MANIFEST.to_json()
    place: Any = data
    for step in path:
        place = place[step]
    place["unheard-of"] = "1"

    with pytest.raises(ValidationError, match="unheard-of"):
        manifests.check(write(tmp_path / manifest.NAME, json.dumps(data)))


def test_without_options_none_are_listed() -> None:
    assert given("--image", "os-image", "--force", "--jobs", "4") == {}


def test_naming_the_packages_of_the_checkout_is_no_option() -> None:
    path = catalog.ROOT / options.PACKAGES
    assert given("--packages", str(path)) == {}


def test_options_that_decide_what_an_image_holds_are_listed_and_files_by_their_digest(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "own", "own")

    assert given(
        *("--mirror", "https://mirror.example/al2023", "--without-packages"),
        *("--third-party-mirror", "https://third.example", "--allow-missing", "pass"),
        *("--signing-key", str(path), "--third-party-pins", str(path), "--packages", str(path)),
        *("--profile", "full-kernel"),
    ) == {
        "mirror": "https://mirror.example/al2023",
        "signing_key": file_digest(path),
        "third_party_mirror": "https://third.example",
        "third_party_pins": file_digest(path),
        "packages": file_digest(path),
        "without_packages": True,
        "allow_missing": ("pass",),
        "profile": ("full-kernel",),
    }


def test_the_password_of_a_mirror_is_not_listed() -> None:
    told = given("--mirror", "https://user:secret@mirror.example:8443/al2023")

    assert told == {"mirror": "https://mirror.example:8443/al2023"}


def test_a_build_lists_its_release_options_pins_patches_and_stages(tmp_path: Path) -> None:
    opts = parse("--distribution", "debian", "--allow-missing", "pass")
    using = Mkosi(tmp_path, "27.1", "upstream's tarball", "digest", {"0001.patch": "ab"})
    at = Place(
        tmp_path, catalog.DISTRIBUTIONS["debian"], "trixie", arch.X86_64, tmp_path / "sandbox"
    )
    inputs = from_labels({"release": "trixie"})
    records = {"base": Record("key", inputs, 1.5, (), ())}

    told = Manifest.of(opts, using, at, records, additions.NONE, [])

    assert told.release == "trixie"
    assert told.options == Given(allow_missing=("pass",))
    assert told.pins.keys() == {"binfmt/targets.toml", "mkosi/pin.toml"}
    assert told.mkosi.patches == {"0001.patch": "ab"}
    assert told.images == {"base": BuiltImage("key", inputs, 1.5, ())}


def test_the_contents_of_a_build_tell_its_profiles() -> None:
    base = BuiltImage(SHA256, (), 1, ())
    told = replace(MANIFEST, options=Given(profile=("full-kernel",)), images={"base": base})
    assert Contents.of(told).profiles == {"full-kernel"}


def test_readmes_pin_nothing() -> None:
    found = pins(catalog.ROOT, catalog.DISTRIBUTIONS["amazonlinux"])

    assert "al2023-package-build/packages.toml" in found
    assert not [path for path in found if path.endswith("README.md")]


def test_the_contents_are_the_rpms_of_the_base_that_are_not_the_distributions() -> None:
    config = Package("own-config", "1-1.finch1", "noarch")
    told = replace(
        MANIFEST,
        options=Given(
            without_packages=True, allow_missing=("cosign", "pass"), third_party_pins=SHA256
        ),
        additions=Added(
            packages=("cosign", "tree"),
            rpms=(
                "cosign-3.0.5-1.x86_64.rpm",
                "own-config-1-1.finch1.noarch.rpm",
                "own-spare-1-1.finch1.noarch.rpm",
            ),
            files={"/usr/bin/docker-credential-pass": SHA256},
        ),
        images={"base": BuiltImage(SHA256, (), 1, (config,))},
    )

    assert Contents.of(told) == Contents(
        rpms=frozenset({"cosign-3.0.5-1.x86_64.rpm", "own-config-1-1.finch1.noarch.rpm"}),
        held=frozenset({"cosign", "docker-credential-pass", "tree"}),
        left_out=frozenset({"pass", manifest.PACKAGES}),
        other_pins=frozenset({manifest.THIRD_PARTY}),
    )


def test_what_came_from_a_further_repository_is_held_and_named(tmp_path: Path) -> None:
    package = Package("fuse-sshfs", "3.7.3-2.5.spal2023", "x86_64", SHA256, "spal")
    told = replace(
        MANIFEST,
        options=Given(without_packages=True),
        additions=Added(supplementary={"fuse-sshfs": "fuse-sshfs-3.7.3-2.5.spal2023"}),
        images={"base": BuiltImage(SHA256, (), 1, (package,))},
    )
    told.write(tmp_path)
    manifests.check(tmp_path / manifest.NAME)

    assert Manifest.read(tmp_path) == told
    assert Contents.of(told) == Contents(
        held=frozenset({"fuse-sshfs"}),
        left_out=frozenset({manifest.PACKAGES}),
        supplementary=frozenset({"fuse-sshfs"}),
    )


def test_without_a_manifest_or_a_base_nothing_is_said_to_be_left_out() -> None:
    without_base = replace(MANIFEST, images={}, options=Given(without_packages=True))

    assert Contents.of(None) == Contents()
    assert Contents.of(without_base) == Contents()
