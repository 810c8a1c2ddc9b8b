"""What manifest.json says of a build beside its artifacts: what was built from what, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.catalog import Distribution
from scripts.emulation import emulators
from scripts.mkosi.source import Mkosi
from scripts.options import PACKAGES, Options
from scripts.packages import recipes, thirdparty
from scripts.stages.additions import Additions
from scripts.stages.places import Place
from scripts.stages.records import Record
from scripts.system.digests import file_digest

# In the checkout.
MKOSI_PIN = "mkosi/pin.toml"


def of(
    opts: Options, using: Mkosi, at: Place, records: Mapping[str, Record], added: Additions
) -> dict[str, Any]:
    """The manifest of the build of opts, whose images are built at the place at."""
    return {
        "distribution": at.distribution.name,
        "release": at.release,
        "arch": at.arch.name,
        "options": given(opts),
        "pins": pins(opts.folders.root, at.distribution),
        "mkosi": {
            "version": using.version,
            "source": using.source,
            "digest": using.digest,
            "patches": using.patches,
        },
        "additions": {
            "packages": sorted(set(added.packages)),
            "rpms": sorted(path.name for path in added.rpms),
            "files": {path: file_digest(source) for path, source in sorted(added.files.items())},
        },
        "images": {
            name: {
                "stage_key": record.key,
                "inputs": record.inputs,
                "seconds": record.seconds,
                "packages": [asdict(package) for package in record.packages],
            }
            for name, record in records.items()
        },
    }


def pins(root: Path, distribution: Distribution) -> dict[str, str]:
    """The sha256 of each file of the checkout at root that pins what the images are made of.

    Those of mkosi.conf.d are among the inputs of the stages.
    """
    paths = [root / MKOSI_PIN, root / emulators.TABLE]
    if distribution.has_rpms:
        paths.append(root / thirdparty.PINS)
        paths += (root / recipes.FOLDER).rglob("*")
    found = sorted(path for path in paths if path.is_file() and path.name != "README.md")
    return {path.relative_to(root).as_posix(): file_digest(path) for path in found}


def given(opts: Options) -> dict[str, Any]:
    """The options that decide what an image holds, as far as they were given.

    A file is told by its sha256: its path means nothing elsewhere. What names neither a file nor a
    server is as it was given.
    """
    other = (
        opts.packages.recipes
        if opts.packages.recipes != (opts.folders.root / PACKAGES).absolute()
        else None
    )
    options: dict[str, Any] = {
        "mirror": _public(opts.sources.mirror),
        "signing_key": _digest(opts.sources.signing_key),
        "third_party_mirror": _public(opts.sources.third_party_mirror),
        "third_party_pins": _digest(opts.sources.third_party_pins),
        "packages": _digest(other),
        "without_packages": opts.packages.skipped,
        "allow_missing": list(opts.packages.allow_missing),
    }
    return {name: value for name, value in options.items() if value}


def _digest(path: Path | None) -> str:
    return file_digest(path) if path else ""


def _public(url: str | None) -> str:
    """A URL without the password that may be in it: what describes a build is published."""
    if not url:
        return ""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
