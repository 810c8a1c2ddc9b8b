"""How the artifacts were made: an in-toto statement with a SLSA provenance predicate.

Forms: https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1. The statement itself is
not signed. Publishing puts its checksum into SHA512SUMS, and signs that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from scripts.mkosi.pin import Pin
from scripts.mkosi.source import UPSTREAM
from scripts.origin import Builder, Checkout
from scripts.stages.artifacts import Artifact

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"

# What externalParameters mean; a name of our own, as the specification asks for.
BUILD_TYPE = "https://github.com/runfinch/finch-core/finch-os-images/build/v1"


def to_json(
    artifacts: Iterable[Artifact],
    manifest: Mapping[str, Any],
    materials: Mapping[str, str],
    pin: Pin,
    checkout: Checkout,
    builder: Builder,
    made: float,
) -> str:
    """The statement over artifacts.

    manifest is manifest.json's, materials the sha256 by name of the files that were put into the
    images beside packages, pin mkosi's, made when the last artifact was finished, in seconds since
    1970.
    """
    statement = {
        "_type": STATEMENT,
        "subject": [
            {"name": artifact.name, "digest": {"sha512": artifact.sha512}} for artifact in artifacts
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    name: manifest[name] for name in ("distribution", "release", "arch", "options")
                },
                "internalParameters": {
                    # A digest of our own over the patched package, which no other tool computes.
                    "mkosi": {
                        name: manifest["mkosi"][name] for name in ("version", "source", "digest")
                    },
                    "stage_keys": {
                        name: image["stage_key"] for name, image in manifest["images"].items()
                    },
                    "modified": list(checkout.modified),
                },
                "resolvedDependencies": _materials(
                    manifest["mkosi"], materials, pin, checkout, builder
                ),
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
    return json.dumps(statement, indent=2, ensure_ascii=False) + "\n"


def _materials(
    mkosi: Mapping[str, Any],
    materials: Mapping[str, str],
    pin: Pin,
    checkout: Checkout,
    builder: Builder,
) -> Sequence[Mapping[str, Any]]:
    """What the images were made of, each with a digest that anybody can compare.

    Of a mkosi that is not the pinned tarball there is none: apt or the user answers for it.
    """
    found: list[Mapping[str, Any]] = []
    if checkout.commit:
        uri = {"uri": builder.repository} if builder.repository else {}
        found.append({"name": "sources", **uri, "digest": {"gitCommit": checkout.commit}})
    if mkosi["source"] == UPSTREAM:
        found.append({"name": "mkosi", "uri": pin.url, "digest": {"sha256": pin.sha256}})
    files = [
        *((f"mkosi/{name}", digest) for name, digest in mkosi["patches"].items()),
        *sorted(materials.items()),
    ]
    return found + [{"name": name, "digest": {"sha256": digest}} for name, digest in files]
