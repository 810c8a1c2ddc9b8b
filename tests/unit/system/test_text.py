from __future__ import annotations

import sys

import pytest

from scripts.system.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Ä 漢 🐦", "plain Ä 漢 🐦"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\r\nb\x9bc\x7f", "a\\x0d\\x0ab\\x9bc\\x7f"),
        ("\u2028\u2029\ufffe", "\\u2028\\u2029\\ufffe"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\udc80", "\\udc80"),
        ("\U0001fffe", "\\U0001fffe"),
    ],
)
def test_what_a_terminal_obeys_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_whatever_text_holds_is_one_line_that_any_file_can_hold() -> None:
    shown = printable("".join(map(chr, range(sys.maxunicode + 1))))
    assert len(shown.splitlines()) == 1
    assert shown.encode()
