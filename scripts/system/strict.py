"""Reads JSON and TOML from others, and raises ValueError for anything irregular."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from typing import Any, NoReturn

# The exceptions that a malformed JSON value can raise when it is used: a list in place of a number,
# a missing key, a number that is too large.
ODDITIES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def loads(text: str | bytes) -> Any:
    """Return the value that the JSON in text stands for.

    Raises ValueError if text is no JSON, if an object has a key twice (parsers differ in which one
    counts), if a number is none (NaN, Infinity; RFC 8259 has neither) or has thousands of digits,
    or if it is nested too deeply for Python.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def toml(text: str) -> dict[str, Any]:
    """Return what the TOML in text holds.

    Raises ValueError if text is not TOML, or is nested too deeply for Python.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key {twice!r} twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")
