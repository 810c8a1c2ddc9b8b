"""How the artifacts were made: an in-toto statement with a SLSA provenance predicate.

The formats are https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1. The statement
itself is not signed, but publishing lists its checksum in SHA512SUMS, which is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from scripts.build.manifest import Manifest, UsedMkosi
from scripts.mkosi.pin import Pin
from scripts.mkosi.source import UPSTREAM
from scripts.origin import Builder, Checkout
from scripts.stages.artifacts import Artifact
from scripts.system.text import json_text

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"

# Defines externalParameters. The specification asks each project for a URI of its own.
BUILD_TYPE = "https://github.com/runfinch/finch-core/finch-os-images/build/v1"


def to_json(
    artifacts: Iterable[Artifact],
    manifest: Manifest,
    materials: Mapping[str, str],
    packages: Mapping[str, str],
    pin: Pin,
    checkout: Checkout,
    builder: Builder,
    made: float,
) -> str:
    """Return the statement about artifacts as JSON.

    materials has the sha256, by name, of the files in the images that belong to no package of the
    distribution, packages that of the distribution's packages by package URL. pin is mkosi's. made
    is when the last artifact was finished, in seconds since 1970.
    """
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": one.name, "digest": {"sha512": one.sha512}} for one in artifacts],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "distribution": manifest.distribution,
                    "release": manifest.release,
                    "arch": manifest.arch.name,
                    "options": manifest.options.to_json(),
                },
                "internalParameters": _internal(manifest, checkout),
                "resolvedDependencies": [
                    *_materials(manifest.mkosi, materials, pin, checkout, builder),
                    *(
                        {"uri": uri, "digest": {"sha256": digest}}
                        for uri, digest in sorted(packages.items())
                    ),
                ],
            },
            "runDetails": {
                "builder": {"id": builder.id},
                "metadata": {
                    **({"invocationId": builder.invocation} if builder.invocation else {}),
                    "finishedOn": datetime.fromtimestamp(made, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                },
            },
        },
    }
    return json_text(statement)


def _internal(manifest: Manifest, checkout: Checkout) -> Mapping[str, Any]:
    """Return what decided the build besides what its user chose."""
    used = manifest.mkosi
    return {
        # The digest is our own, over the patched package; no other tool computes it.
        "mkosi": {"version": used.version, "source": used.source, "digest": used.digest},
        "stage_keys": {name: image.stage_key for name, image in manifest.images.items()},
        "modified": list(checkout.modified),
        **({} if checkout.commit else {"commit_unknown": checkout.reason}),
    }


def _materials(
    mkosi: UsedMkosi,
    materials: Mapping[str, str],
    pin: Pin,
    checkout: Checkout,
    builder: Builder,
) -> Sequence[Mapping[str, Any]]:
    """Return what the images were made of, with digests that anybody can check.

    A mkosi that is not the pinned tarball is left out: apt or the user answers for it.
    """
    found: list[Mapping[str, Any]] = []
    if checkout.commit:
        uri = {"uri": builder.repository} if builder.repository else {}
        found.append({"name": "sources", **uri, "digest": {"gitCommit": checkout.commit}})
    if mkosi.source == UPSTREAM:
        found.append({"name": "mkosi", "uri": pin.url, "digest": {"sha256": pin.sha256}})
    files = [
        *((f"mkosi/{name}", digest) for name, digest in mkosi.patches.items()),
        *sorted(materials.items()),
    ]
    return found + [{"name": name, "digest": {"sha256": digest}} for name, digest in files]
