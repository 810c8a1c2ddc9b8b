"""Makes the chart of `systemd-analyze plot`, which a guest drew, safe to open by itself.

A browser runs the scripts of an SVG that is opened alone, and fetches what it refers to. So the
chart is drawn again from what such a chart consists of: boxes, lines and text in a few styles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import defusedxml.ElementTree
from defusedxml import DefusedXmlException

from scripts.system.text import paragraph

NAMESPACE = "http://www.w3.org/2000/svg"

# The elements and attributes that systemd draws with (src/analyze/analyze-plot.c).
ELEMENTS = frozenset({"svg", "defs", "g", "rect", "line", "text", "style"})
ATTRIBUTES = frozenset(
    {"class", "height", "transform", "version", "width", "x", "x1", "x2", "y", "y1", "y2"}
)
VALUE = re.compile(r"[\w.,%+ -]{0,100}|translate\([\d., -]{1,60}\)", re.ASCII)

# A rule of a style sheet, and the declarations in it that name no resource and call no function.
RULE = re.compile(r"([\w. ,-]{1,100}?)\s*\{([^{}]{0,1000})\}", re.ASCII)
DECLARATION = re.compile(
    r"((?:fill|stroke|font|text)[a-z-]{0,20})\s*:\s*"
    r"((?:[\w#.%, -]|rgb\([\d, ]{1,20}\)){1,100})",
    re.ASCII,
)

# systemd's charts are three levels deep.
DEPTH = 20


class SvgError(Exception):
    """The text is not an SVG."""


def clean(text: str) -> str:
    """Return the SVG in text with only the shapes, texts and styles of systemd's charts.

    Everything else is left out with its contents: scripts, event handlers, links, images, other
    style sheets. Raises SvgError if text is not an SVG.
    """
    try:
        found = defusedxml.ElementTree.fromstring(paragraph(text))
    except (ET.ParseError, DefusedXmlException, ValueError) as error:
        raise SvgError(f"it cannot be read: {error}") from None
    if _name(found) != "svg":
        raise SvgError("its root element is not <svg>")
    drawn = _drawn(found, DEPTH)
    drawn.set("xmlns", NAMESPACE)
    return ET.tostring(drawn, encoding="unicode", xml_declaration=True) + "\n"


def _drawn(found: ET.Element, depth: int) -> ET.Element:
    """Return a copy of found with only the allowed parts, down to depth levels."""
    name = _name(found)
    drawn = ET.Element(
        name, {key: value for key, value in found.items() if _is_allowed(key, value)}
    )
    text = found.text or ""
    drawn.text = "\n".join(_styles(text)) if name == "style" else paragraph(text)
    drawn.tail = "\n"
    if depth and name != "style":
        drawn.extend(_drawn(child, depth - 1) for child in found if _name(child) in ELEMENTS)
    return drawn


def _name(element: ET.Element) -> str:
    """The name of an element in SVG's namespace or in none; "" for any other."""
    return element.tag.removeprefix(f"{{{NAMESPACE}}}")


def _is_allowed(name: str, value: str) -> bool:
    return name in ATTRIBUTES and bool(VALUE.fullmatch(value))


def _styles(sheet: str) -> Iterator[str]:
    """Yield the rules of a style sheet, without declarations that are not allowed."""
    for selector, body in RULE.findall(sheet):
        pairs = (DECLARATION.fullmatch(part.strip()) for part in body.split(";"))
        kept = "; ".join(f"{pair[1]}: {pair[2]}" for pair in pairs if pair)
        yield f"{selector.strip()} {{ {kept} }}"
