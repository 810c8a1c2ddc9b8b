"""Reading what guests print: JSON and lines of NAME=value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def json_object(text: str) -> Mapping[str, Any]:
    """The JSON object that text holds; an empty one if it holds none."""
    try:
        data = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def assignments(text: str) -> dict[str, str]:
    """The lines NAME=value of text, as name → value."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
