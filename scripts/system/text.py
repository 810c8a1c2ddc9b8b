"""Text from outside, made safe to print."""

from __future__ import annotations

import unicodedata

# Unicode's categories of control characters, surrogates, unassigned code points and noncharacters,
# and of the separators of lines and paragraphs.
_CATEGORIES = frozenset({"Cc", "Cs", "Cn", "Zl", "Zp"})

# Unicode's controls of writing direction (UAX #9), which can make text look like other text.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    r"""Return text with each character that a terminal might obey written as \xNN or \uNNNN."""
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character not in _DIRECTIONS and unicodedata.category(character) not in _CATEGORIES:
        return character
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
