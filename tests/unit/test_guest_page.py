"""docs/guest.md: what it promises is what the boot test checks and what a build makes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from scripts import arch, catalog, options
from scripts.boot import needs
from scripts.boot.needs import Need

HEADS = {
    "programs": "program",
    "modules": "module",
    "sysctls": "setting",
    "controllers": "controller",
    "delegated": "controller",
}


@pytest.fixture(scope="module")
def page(checkout: Path) -> str:
    return (checkout / "docs/guest.md").read_text()


def table(kind: str) -> str:
    """The table of a kind of needs, as the page has it."""
    found = needs.table()[kind]
    heads = [HEADS[kind], "who needs it", "what for"]
    heads += ["where it may be missing"] if any(need.optional for need in found) else []
    rows = [row(names)[: len(heads)] for names in together(found)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows])


def together(found: Sequence[Need]) -> Iterator[list[Need]]:
    """The needs that share a row."""
    for _, group in itertools.groupby(
        found, lambda need: (need.client, need.reason, need.optional)
    ):
        yield list(group)


def row(group: Sequence[Need]) -> list[str]:
    first = group[0]
    excuses = (f"{catalog.DISTRIBUTIONS[key].title}: {why}" for key, why in first.optional.items())
    return [", ".join(map(named, group)), first.client, first.reason, "; ".join(excuses)]


def named(need: Need) -> str:
    if need.least:
        return f"`{need.name}` ≥ {need.least}"
    return f"`{need.name}` = {need.accepts}" if need.accepts else f"`{need.name}`"


@pytest.mark.parametrize("kind", needs.table())
def test_the_page_lists_what_the_boot_test_checks(page: str, kind: str) -> None:
    assert f"\n\n{table(kind)}\n\n" in page


def templates(page: str) -> list[dict[str, object]]:
    """The page's examples of lima.yaml."""
    return [
        YAML(typ="safe").load(text)
        for text in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    ]


def test_the_template_names_disks_that_a_build_makes(page: str) -> None:
    whole, _ = templates(page)
    images = whole["images"]
    assert isinstance(images, list)
    assert {image["arch"] for image in images} == {*arch.NAMES}
    for image in images:
        out, distribution, name, artifact = image["location"].split("/")
        assert out == catalog.OUT
        assert distribution in catalog.DISTRIBUTIONS
        assert name == image["arch"]
        assert artifact in catalog.artifacts(catalog.DISK)


def test_the_templates_mount_with_what_the_page_calls_the_default_of_the_driver(page: str) -> None:
    defaults = dict(re.findall(r"^\| (\S+), the default with (\w+) \|", page, re.MULTILINE))
    assert defaults == {"virtiofs": "vz", "reverse-sshfs": "QEMU"}
    for template in templates(page):
        driver = defaults[str(template["mountType"])]
        assert template["vmType"] == driver.lower()


def test_the_kernel_has_what_the_default_mounts_need() -> None:
    firm = {need.name for need in needs.table()["modules"] if not need.optional}
    assert firm >= {"virtiofs", "fuse", "isofs", "vsock"}


def test_the_page_sends_those_who_want_9p_to_the_profile(page: str, checkout: Path) -> None:
    [row] = re.findall(r"^\| 9p, .*$", page, re.MULTILINE)
    [profile] = {need.profile for need in needs.table()["modules"] if need.name == "9p"}
    assert f"`{profile}`" in row
    assert "(customise.md#build-with-a-profile)" in row
    assert "\n## Build with a profile\n" in (checkout / "docs/customise.md").read_text()


def test_every_profile_that_users_can_choose_is_described(checkout: Path) -> None:
    made = {path.stem for path in (checkout / "mkosi.profiles").glob("*.conf")}
    text = (checkout / "docs/customise.md").read_text()
    part = text.partition("\n## Build with a profile\n")[2].partition("\n## ")[0]
    described = set(re.findall(r"^\| `([\w-]+)` \|", part, re.MULTILINE))
    assert described == made - options.OWN_PROFILES


def test_artifacts_and_uki_have_the_names_that_a_build_gives_them(page: str) -> None:
    made = {name for image in catalog.IMAGES.values() for name in image.artifacts}
    named = set(re.findall(r"`((?:os-image|wsl-rootfs)[\w.-]*)`", page))
    assert named
    assert named <= made
    for name in arch.NAMES:
        assert arch.parse(name).boot_file.rpartition("/")[2] in page
