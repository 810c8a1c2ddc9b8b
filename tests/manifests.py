"""Checks manifests of builds against the schema that is shipped for them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from scripts.build import manifest

SCHEMA = Path(manifest.__file__).with_name("manifest.schema.json")


@cache
def _validator() -> Any:
    # Takes a tenth of a second to load, which most tests can do without.
    from jsonschema import Draft202012Validator

    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def check(path: Path) -> None:
    """Raise jsonschema's ValidationError if the manifest.json at path breaks the schema."""
    _validator().validate(json.loads(path.read_text()))
