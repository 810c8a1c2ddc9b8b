from __future__ import annotations

import pytest

from scripts.system import strict_json


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "has the key 'a' twice"),
        ('[{"b": {"a": 1, "a": 1}}]', "has the key 'a' twice"),
        ('{"a": 1, "\\u0061": 2}', "has the key 'a' twice"),
        ("NaN", "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "Expecting"),
    ],
)
def test_text_that_two_readers_could_understand_differently_is_refused(
    text: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        strict_json.loads(text)


def test_other_json_is_read() -> None:
    assert strict_json.loads('{"a": [1, null], "b": {"a": 2}}') == {"a": [1, None], "b": {"a": 2}}
