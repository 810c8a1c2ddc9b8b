"""Reading what guests print: JSON and lines of NAME=value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.system import strict


def json_object(text: str) -> Mapping[str, Any]:
    """Return the JSON object in text, or an empty one if text is not JSON, such as a complaint.

    Raises ValueError if it is malformed JSON that `strict.loads` refuses.
    """
    if not text.startswith("{"):
        return {}
    return as_object(strict.loads(text))


def as_object(value: object) -> Mapping[str, Any]:
    """Return value if it is a JSON object. Raises TypeError if it is anything else."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not an object")
    return value


def as_objects(value: object) -> Sequence[Mapping[str, Any]]:
    """Return value if it is a list of objects. Raises TypeError if it is anything else."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return [as_object(one) for one in value]


def assignments(text: str) -> dict[str, str]:
    """The lines NAME=value of text, as name → value."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
