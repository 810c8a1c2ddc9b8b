"""Tries what Lima and Finch ask of a guest in the lab's Amazon Linux; CI's own step tries Debian.

The results are read as CI reads them: a JUnit file, and the console of each boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from defusedxml import ElementTree

from scripts import arch
from tests.e2e.checkout import Copy

pytestmark = pytest.mark.skipif(not arch.X86_64.is_native, reason="built on x86_64 machines only")

# The scenarios with several starts, for which CI has no time.
LONG = ("life", "lima-qemu")


def scenarios(checkout: Path) -> list[str]:
    """Return the names of all scenarios."""
    paths = sorted((checkout / "tests/contract").glob("*.toml"))
    return [path.stem for path in paths if "[[step]]" in path.read_text()]


def keeps_the_contract(copied: Copy, distribution: str, names: Sequence[str]) -> None:
    options = [option for name in names for option in ("--scenario", name)]
    session = f"boot-test(arch='{arch.X86_64}')"
    run = copied.nox(session, "--distribution", distribution, *options)
    assert run.wait(within=2400) == 0, run.output

    results = copied.root / f"out/{distribution}/{arch.X86_64}/contract"
    suite = ElementTree.fromstring((results / "junit.xml").read_text())
    assert suite.get("failures") == "0"
    tried = [case for case in suite.iter("testcase") if case.find("skipped") is None]
    assert {case.get("name", "").partition(".")[0] for case in tried} == {*names}
    for name in names:
        # A virtio console may lose the first lines of the kernel, but not systemd's.
        console = (results / f"console-{name}-1.log").read_text(errors="replace")
        assert "Reached target" in console, name


@pytest.mark.usefixtures("amazon_images")
def test_amazon_linux_keeps_the_contract(amazon_copy: Copy) -> None:
    names = [name for name in scenarios(amazon_copy.root) if name not in LONG]
    keeps_the_contract(amazon_copy, "amazonlinux", names)


@pytest.mark.full
@pytest.mark.usefixtures("amazon_images")
def test_amazon_linux_keeps_the_long_parts_of_the_contract(amazon_copy: Copy) -> None:
    keeps_the_contract(amazon_copy, "amazonlinux", LONG)


@pytest.mark.full
@pytest.mark.usefixtures("built")
def test_debian_keeps_the_long_parts_of_the_contract(checkout: Path) -> None:
    keeps_the_contract(Copy(checkout), "debian", LONG)
