from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts import arch, catalog
from scripts.build.workshop import Workshop
from scripts.description import writer
from scripts.mkosi.source import Mkosi
from scripts.options import Options
from scripts.sessions import arguments
from scripts.stages import artifacts
from scripts.stages.artifacts import Artifact
from scripts.stages.inputs import from_labels
from scripts.stages.places import Place, Places
from scripts.stages.records import Package, Record
from scripts.system.progress import Progress
from tests import builds

STATUS = """\
Package: {name}
Status: install ok installed
Architecture: amd64
Version: 1
"""


@pytest.fixture
def opts(tmp_path: Path) -> Options:
    """A checkout of a base, an initrd, and an os-image that stands on both."""
    for name, needs in {"base": "", "initrd": "", "os-image": "base initrd"}.items():
        folder = tmp_path / "mkosi.images" / name
        folder.mkdir(parents=True)
        (folder / "mkosi.conf").write_text(f"[Config]\nDependencies={needs}\n")
    (tmp_path / "mkosi").mkdir()
    shutil.copy(catalog.ROOT / "mkosi/pin.toml", tmp_path / "mkosi")
    shutil.copytree(catalog.ROOT / "binfmt", tmp_path / "binfmt")
    argv = ["--distribution", "debian", "--arch", "x86_64"]
    return arguments.parse(argv, {}, root=tmp_path)


@pytest.fixture
def at(opts: Options) -> Places:
    """Where the tree of the base is kept."""
    place = Place(
        opts.folders.work,
        catalog.DISTRIBUTIONS["debian"],
        "trixie",
        arch.X86_64,
        opts.folders.work / "sandbox",
    )
    tree = place.stage("base") / "base"
    for path, text in {
        "var/lib/dpkg/status": STATUS.format(name="bash"),
        "usr/lib/os-release": 'ID=debian\nVERSION_ID="13"\n',
    }.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    return Places(images=place, tools=place)


@pytest.fixture
def records(opts: Options) -> dict[str, Record]:
    """What is remembered of a build in which everything is up to date."""
    opts.artifacts.mkdir(parents=True)
    (opts.artifacts / "os-image.raw").write_text("disk")
    made = (Artifact.of(opts.artifacts, "os-image.raw"),)
    added = from_labels({"file /usr/bin/helper": "ab" * 32})
    return {
        "base": Record("key", added, 1, (), (Package("bash", "1", "amd64", "ba" * 32),), "b"),
        "initrd": Record("key", (), 1, (), (Package("kmod", "2", "amd64", "cd" * 32),), "i"),
        "os-image": Record(
            "key",
            (),
            1,
            made,
            (Package("grown", "3", "amd64", "ef" * 32),),
            "o",
            {"base": "b", "initrd": "i"},
        ),
    }


def write(opts: Options, at: Places, records: dict[str, Record]) -> None:
    manifest = builds.write_manifest(opts.artifacts, {"base": {"bash": "1"}}, "os-image.raw")
    shop = Workshop(opts, at, Progress(live=False))
    vars(shop)["mkosi"] = Mkosi(Path("/nowhere"), "27.1", "", "")
    writer.write(shop, records, manifest)


def parts(opts: Options, name: str) -> dict[str, Any]:
    bom = json.loads((opts.artifacts / name).read_text())
    return {part["name"]: part for part in bom["components"]}


def test_an_image_holds_its_base_s_packages_and_its_own_and_those_of_its_initrd(
    opts: Options, at: Places, records: dict[str, Record]
) -> None:
    write(opts, at, records)
    found = parts(opts, "os-image.sbom.cdx.json")

    assert {"bash", "grown", "initrd", "/usr/bin/helper"} <= found.keys()
    assert [part["name"] for part in found["initrd"]["components"]] == ["kmod"]


def test_all_that_is_promised_is_written(
    opts: Options, at: Places, records: dict[str, Record]
) -> None:
    write(opts, at, records)

    for name in (artifacts.SBOM, artifacts.PROVENANCE, artifacts.REPORT):
        assert (opts.artifacts / name).exists()
    statement = json.loads((opts.artifacts / artifacts.PROVENANCE).read_text())
    dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"name": "file /usr/bin/helper", "digest": {"sha256": "ab" * 32}} in dependencies


def test_each_package_has_the_digest_that_the_stage_noted_which_installed_it(
    opts: Options, at: Places, records: dict[str, Record]
) -> None:
    write(opts, at, records)
    found = parts(opts, "os-image.sbom.cdx.json")
    [kmod] = found["initrd"]["components"]
    statement = json.loads((opts.artifacts / artifacts.PROVENANCE).read_text())
    dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]

    for part, digest in ((found["bash"], "ba"), (found["grown"], "ef"), (kmod, "cd")):
        assert part["hashes"] == [{"alg": "SHA-256", "content": digest * 32}]
        assert {"uri": part["purl"], "digest": {"sha256": digest * 32}} in dependencies


def test_an_rpm_of_our_own_is_among_the_dependencies_once(
    opts: Options, at: Places, records: dict[str, Record]
) -> None:
    digest = "9a" * 32
    own = Package("own", "1-1", "noarch", digest)
    added = from_labels({"RPM own-1-1.noarch.rpm": digest})
    base = replace(records["base"], inputs=added, packages=(own,))
    os_image = replace(records["os-image"], packages=(own,))
    write(opts, at, records | {"base": base, "os-image": os_image})

    statement = (opts.artifacts / artifacts.PROVENANCE).read_text()
    assert statement.count(digest) == 1


def test_an_image_of_an_older_base_keeps_the_description_that_it_has(
    opts: Options, at: Places, records: dict[str, Record]
) -> None:
    write(opts, at, records)
    before = (opts.artifacts / "os-image.sbom.cdx.json").read_text()
    status = at.images.stage("base") / "base/var/lib/dpkg/status"
    status.write_text(STATUS.format(name="zsh"))
    write(opts, at, records | {"base": Record("key", (), 1, (), (), "b2")})

    assert (opts.artifacts / "os-image.sbom.cdx.json").read_text() == before


def test_an_image_that_somebody_wrote_to_is_not_described(
    opts: Options, at: Places, records: dict[str, Record]
) -> None:
    (opts.artifacts / "os-image.raw").write_text("another disk")
    write(opts, at, records)

    assert not (opts.artifacts / "os-image.sbom.cdx.json").exists()
