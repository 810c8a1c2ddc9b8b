"""Makes foreign text safe to show: in a terminal, a log of GitHub Actions, XML or Markdown.

A guest, a package, a server or a file name may hold anything. All text that the harness shows to a
person goes through exactly one of these functions. They are idempotent.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TextIO

# GitHub Actions runs the lines of a job's output that begin with "::", after any blanks, and what
# follows "##[" anywhere in a line (actions/runner, ActionCommand.cs).
_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#\[)")

# The characters that end a table's cell, or code, in Markdown.
_MARKDOWN = str.maketrans({"|": r"\x7c", "`": r"\x60"})


def printable(text: str) -> str:
    r"""Return text as one line: each character that is not printable as an escape, such as \x1b.

    Not printable are control characters (C0, DEL and C1), line and paragraph separators, characters
    that change the direction of text or that have no width, noncharacters and lone surrogates.
    """
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escaped(char) for char in text)
    return _COMMAND.sub(lambda match: f"{match[1] or ''}\\x{ord(match[0][-1]):x}", text)


def paragraph(text: str) -> str:
    r"""Return the lines of text, each as from `printable`, but with its tabs.

    Lines end with \n or \r\n, and no other character. All characters are allowed in XML 1.0.
    """
    if text.isprintable():
        return printable(text)
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in lines)


def markdown(text: str) -> str:
    """Return text as code in one cell of a Markdown table, or "" for no text."""
    shown = printable(text).translate(_MARKDOWN)
    return f"`{shown}`" if shown else ""


def json_text(data: object) -> str:
    """Return data as JSON of several lines, with escapes for characters that are not printable."""
    text = json.dumps(data, indent=2, ensure_ascii=False).replace("##[", r"\u0023#[")
    lines = text.split("\n")
    return "".join(f"{line if line.isprintable() else _json_escaped(line)}\n" for line in lines)


def cut(text: str, limit: int) -> str:
    """Return the first limit characters of text. A last line says so if there were more."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n… cut: {len(text) - limit} more characters"


def say(text: str, *, to: TextIO | None = None) -> None:
    """Print the lines of text to the stream to, by default stdout."""
    print(paragraph(text), file=to or sys.stdout)


def _json_escaped(line: str) -> str:
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
