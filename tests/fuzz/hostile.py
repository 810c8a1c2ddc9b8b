"""Strategies of hypothesis for inputs that are nearly right, or not at all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

# What has broken parsers and terminals, here or elsewhere.
NASTY = (
    *("", " ", "\n", "\r", "\0", "\t", "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\x7f"),
    *("\u2028", "\u202e", "\ufffe", "\U0001ffff", "\udc9b", "\ufeff", "e\u0301", "ß", "İ"),
    *("::error::it broke", "\n::add-mask::a", "##[group]", "|", "`", "```", "<script>", "]]>"),
    *("../../../../tmp/escaped", "/etc/escaped", "..", ".", "~", "a/b", "a\\b", "-x", "--", "%s"),
    *("{", "}", "{}", "{0.__class__}", "$(id)", "${x}", "[", "]", "'", '"', "=", ":", ",", "#"),
    *("9" * 5000, "-1", "0", "1e999", "NaN", "²", "٣", "0x10", "1_0", "inf", "[" * 3000),
    *("http://[", "http://[::1", "http://x:99999", "http://\n", "file:///etc/passwd", "sha256:.."),
)

CHARACTERS = st.characters(exclude_categories=())
TEXT = st.one_of(
    st.sampled_from(NASTY),
    st.text(CHARACTERS, max_size=12),
    st.lists(st.sampled_from(NASTY), max_size=4).map("".join),
)
NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)

# JSON that is none, or that parsers disagree about.
ODD_JSON = (
    *(b"", b"null", b"[]", b"{}", b'""', b"0", b"\xff\xfe", b"\xef\xbb\xbf{}", b"{", b'{"a":1,}'),
    *(b'{"a":1,"a":2}', b"[NaN]", b"[Infinity]", b"[1e999]", b"9" * 5000, b"[" * 5_000),
    b'{"a":' * 5_000,
)


def encoded(text: str) -> bytes:
    """Text as a file may have it: lone surrogates become bytes that are no UTF-8."""
    return text.encode("utf-8", "surrogatepass")


@st.composite
def altered(draw: st.DrawFn, sample: Any) -> Any:
    """Sample with up to three of its values, at any depth, replaced, removed or added."""
    value = copy.deepcopy(sample)
    for _ in range(draw(st.integers(1, 3))):
        value = _altered_once(draw, value)
    return value


def _altered_once(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 0:
        return draw(JSON)
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    match draw(st.sampled_from(["into", "into", "into", "remove", "add", "rename"])):
        case "into":
            value[key] = _altered_once(draw, value[key])
        case "remove":
            del value[key]
        case "rename" if isinstance(value, dict):
            value[draw(TEXT)] = value.pop(key)
        case _ if isinstance(value, dict):
            value[draw(TEXT)] = draw(JSON)
        case _:
            value.append(draw(JSON))
    return value


@st.composite
def mutated(draw: st.DrawFn, *samples: bytes) -> bytes:
    """One of samples with some of its bytes changed, cut, doubled or inserted; or plain noise."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([1, 1, 2, 4, 8, 64])))
        match draw(st.sampled_from(["set", "set", "cut", "insert", "double", "end", "nasty"])):
            case "set":
                data[at:end] = draw(st.binary(min_size=end - at, max_size=end - at))
            case "cut":
                del data[at:end]
            case "insert":
                data[at:at] = draw(st.binary(max_size=8))
            case "double":
                data[at:at] = data[at:end]
            case "end":
                del data[at:]
            case _:
                data[at:at] = encoded(draw(st.sampled_from(NASTY)))
    return bytes(data)


def json_like(sample: Any) -> st.SearchStrategy[bytes]:
    """The text of JSON that is nearly sample, or nearly JSON."""
    near = altered(sample).map(lambda value: json.dumps(value).encode())
    return st.one_of(near, near, near, mutated(json.dumps(sample).encode()), odd_json())


def odd_json() -> st.SearchStrategy[bytes]:
    """JSON that is none, or that parsers disagree about."""
    return st.sampled_from(ODD_JSON)


@st.composite
def text_like(draw: st.DrawFn, *samples: str) -> bytes:
    """One of samples with some of its words replaced by nasty ones, or with its bytes mutated."""
    sample = draw(st.sampled_from(samples))
    if draw(st.booleans()):
        return draw(mutated(sample.encode()))
    lines = sample.split("\n")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        words = lines[at].split(" ")
        words[draw(st.integers(0, len(words) - 1))] = draw(TEXT)
        lines[at] = " ".join(words)
    return encoded("\n".join(lines))


def toml_like(path: Path) -> st.SearchStrategy[bytes]:
    """The text of a TOML file that is nearly the one at path."""
    text = path.read_text()
    deep = st.sampled_from([b"a=" + b"[" * 1200, b"a" + b".a" * 1200 + b"=1", b"[a" + b".a" * 1200])
    return st.one_of(text_like(text), _retyped(text), deep)


@st.composite
def _retyped(draw: st.DrawFn, text: str) -> bytes:
    """Text with the values of some keys replaced by values of other types."""
    values = ("1", "-1", "true", "[]", '["a"]', "{}", "{ a = 1 }", '""', "1979-05-27", "inf", "nan")
    lines = text.split("\n")
    places = [n for n, line in enumerate(lines) if "=" in line and not line.startswith("#")]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(places))
        value = draw(st.one_of(st.sampled_from(values), TEXT.map(json.dumps)))
        lines[at] = f"{lines[at].partition('=')[0]}= {value}"
    return encoded("\n".join(lines))


def fields_like(sample: Mapping[str, str]) -> st.SearchStrategy[dict[str, str]]:
    """A mapping of strings that is nearly sample."""
    return st.fixed_dictionaries(
        {}, optional={name: st.one_of(st.just(text), TEXT) for name, text in sample.items()}
    )


def put(path: Path, data: bytes) -> Path:
    """Write data to path and return it."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


Call = Callable[[Any], object]
