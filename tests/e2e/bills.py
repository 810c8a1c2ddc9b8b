"""Reads which RPMs our bills of materials and a scanner's list, for comparing them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packageurl import PackageURL


@dataclass(frozen=True, order=True)
class Rpm:
    """An installed RPM; version has the release behind a hyphen."""

    name: str
    version: str
    arch: str
    epoch: str = "0"

    @classmethod
    def of(cls, purl: str) -> Rpm:
        """The RPM that a package URL names."""
        url = PackageURL.from_string(purl)
        qualifiers = url.qualifiers
        assert isinstance(qualifiers, Mapping)
        assert url.type == "rpm", purl
        assert url.version, purl
        return cls(url.name, url.version, qualifiers.get("arch", ""), qualifiers.get("epoch", "0"))

    def __str__(self) -> str:
        return f"{self.name} {self.epoch}:{self.version} {self.arch}"


def components(out: Path, image: str) -> list[dict[str, Any]]:
    """The components in the bill of materials of an image among the artifacts in out."""
    listed = json.loads((out / f"{image}.sbom.cdx.json").read_text())["components"]
    assert isinstance(listed, list)
    return listed


def packages(out: Path, image: str) -> set[Rpm]:
    """The RPMs in the bill of materials of an image among the artifacts in out."""
    return {Rpm.of(one["purl"]) for one in components(out, image) if one["type"] == "library"}
