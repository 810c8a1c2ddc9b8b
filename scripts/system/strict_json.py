"""Reads JSON that strangers may have written, and that has only one meaning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn


def loads(text: str | bytes) -> Any:
    """Return what text holds. Raises ValueError if it is not JSON in which every key is unique.

    RFC 8259 leaves it open which of two equal keys counts, so a program that checks the first and
    one that uses the last would see different values. NaN and the infinities are not JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key {twice!r} twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
