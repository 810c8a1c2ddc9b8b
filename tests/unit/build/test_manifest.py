from __future__ import annotations

from pathlib import Path

from scripts import arch, catalog, options
from scripts.build import manifest
from scripts.mkosi.source import Mkosi
from scripts.options import Options
from scripts.sessions import arguments
from scripts.stages import additions
from scripts.stages.places import Place
from scripts.stages.records import Record
from scripts.system.digests import file_digest


def parse(*argv: str) -> Options:
    return arguments.parse(["--arch", "x86_64", *argv], {})


def test_a_build_without_options_tells_of_none() -> None:
    assert manifest.given(parse("--image", "os-image", "--force", "--jobs", "4")) == {}


def test_the_packages_of_the_checkout_are_no_option_where_they_are_named() -> None:
    path = catalog.ROOT / options.PACKAGES
    assert manifest.given(parse("--packages", str(path))) == {}


def test_options_that_decide_what_an_image_holds_are_told_and_files_by_their_digest(
    tmp_path: Path,
) -> None:
    path = tmp_path / "own"
    path.write_text("own")

    told = manifest.given(
        parse(
            *("--mirror", "https://mirror.example/al2023", "--without-packages"),
            *("--third-party-mirror", "https://third.example", "--allow-missing", "pass"),
            *("--signing-key", str(path), "--third-party-pins", str(path), "--packages", str(path)),
        )
    )

    assert told == {
        "mirror": "https://mirror.example/al2023",
        "signing_key": file_digest(path),
        "third_party_mirror": "https://third.example",
        "third_party_pins": file_digest(path),
        "packages": file_digest(path),
        "without_packages": True,
        "allow_missing": ["pass"],
    }


def test_the_password_of_a_mirror_is_not_told() -> None:
    told = manifest.given(parse("--mirror", "https://user:secret@mirror.example:8443/al2023"))

    assert told == {"mirror": "https://mirror.example:8443/al2023"}


def test_a_build_tells_of_its_release_options_pins_patches_and_stages(tmp_path: Path) -> None:
    opts = parse("--distribution", "debian", "--allow-missing", "pass")
    using = Mkosi(tmp_path, "27.1", "upstream's tarball", "digest", {"0001.patch": "ab"})
    at = Place(
        tmp_path, catalog.DISTRIBUTIONS["debian"], "trixie", arch.X86_64, tmp_path / "sandbox"
    )
    records = {"base": Record("key", {"release": "trixie"}, 1.5, (), ())}

    told = manifest.of(opts, using, at, records, additions.NONE)

    assert told["release"] == "trixie"
    assert told["options"] == {"allow_missing": ["pass"]}
    assert told["pins"].keys() == {"binfmt/targets.toml", "mkosi/pin.toml"}
    assert told["mkosi"]["patches"] == {"0001.patch": "ab"}
    assert told["images"]["base"]["stage_key"] == "key"
    assert told["images"]["base"]["inputs"] == {"release": "trixie"}
