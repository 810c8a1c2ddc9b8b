"""JSON and TOML that parsers disagree about."""

from __future__ import annotations

import pytest

from scripts.system import strict


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "key 'a' twice"),
        ("[NaN]", "NaN is not a number"),
        ("-Infinity", "is not a number"),
        ("[" * 5000, "nested too deeply"),
        ('{"a":' * 5000, "nested too deeply"),
        ("9" * 5000, "digits"),
        ("{", "Expecting"),
        (b"\xff\xfe{", "decode"),
    ],
)
def test_odd_json_is_refused_with_a_reason(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        strict.loads(text)


def test_json_is_read() -> None:
    assert strict.loads('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}


@pytest.mark.parametrize("text", ["a=" + "[" * 5000, "a = ", "a = 1\na = 2"])
def test_odd_toml_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        strict.toml(text)


def test_toml_is_read() -> None:
    assert strict.toml("a.b = 1") == {"a": {"b": 1}}
