"""The packages session, of a distribution that has everything itself."""

from __future__ import annotations

import pytest

from scripts.sessions import packages
from tests.unit.sessions.conftest import Site


def test_debian_has_every_package_in_its_own_archive(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    packages.main(site.argv)

    assert "in its own archive" in capsys.readouterr().out
    assert (site.places.images.additions / "mkosi.conf").is_file()
    assert site.built == []
