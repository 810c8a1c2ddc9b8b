"""Tries what Lima and Finch ask of a guest in the lab's Amazon Linux; CI's own step tries Debian.

The results are read as CI reads them: a JUnit file, and the console of each boot.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from defusedxml import ElementTree

from scripts import arch, catalog
from tests.e2e.checkout import Copy

pytestmark = pytest.mark.skipif(not arch.X86_64.is_native, reason="built on x86_64 machines only")


def test_amazon_linux_keeps_the_contract(amazon_images: Path, amazon_copy: Copy) -> None:
    session = f"boot-test(arch='{arch.X86_64}')"
    run = amazon_copy.nox(session, "--distribution", catalog.DEFAULT.name, "--contract")
    assert run.wait(within=2400) == 0, run.output

    results = amazon_images / "contract"
    suite = ElementTree.fromstring((results / "junit.xml").read_text())
    assert suite.get("failures") == "0"
    tried = [case for case in suite.iter("testcase") if case.find("skipped") is None]
    scenarios = {case.get("name", "").partition(".")[0] for case in tried}
    files = (amazon_copy.root / "tests/contract").glob("*.toml")
    assert scenarios == {path.stem for path in files if "[[step]]" in path.read_text()}
    for name in scenarios:
        assert "Linux version" in (results / f"console-{name}-1.log").read_text(errors="replace")
