"""The chart of a boot, which a guest drew, opened alone."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from scripts.formats import svg

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'

PLOT = """\
<?xml version="1.0" standalone="no"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg width="800px" height="640px" version="1.1" xmlns="http://www.w3.org/2000/svg">
<!-- This file is a systemd-analyze SVG file. -->
<defs><style type="text/css"><![CDATA[
rect.box   { fill: rgb(240,240,240); stroke: rgb(192,192,192); }
text.left  { font-family: Verdana, Helvetica; font-size: 14px; text-anchor: start; }
]]></style></defs>
<rect class="background" width="100%" height="100%" />
<g transform="translate(20.000,100)">
<line x1="0" y1="0" x2="100.5" y2="0"/><text class="left" x="20" y="50">a &lt;b&gt; (1.2s)</text>
</g></svg>
"""


def test_a_chart_of_systemd_keeps_its_shapes_texts_and_styles() -> None:
    text = svg.clean(PLOT)
    root = ET.fromstring(text)
    assert root.tag == f"{{{svg.NAMESPACE}}}svg"
    assert root.get("width") == "800px"
    names = [element.tag.partition("}")[2] for element in root.iter()]
    assert names == ["svg", "defs", "style", "rect", "g", "line", "text"]
    assert "rect.box { fill: rgb(240,240,240); stroke: rgb(192,192,192) }" in text
    assert "font-family: Verdana, Helvetica; font-size: 14px; text-anchor: start" in text
    assert "a &lt;b&gt; (1.2s)" in text
    assert 'transform="translate(20.000,100)"' in text


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        '<rect onload="alert(1)" onclick="alert(1)"/>',
        '<a xlink:href="javascript:alert(1)"><text>x</text></a>',
        '<image href="http://evil.invalid/a.png"/>',
        '<use xlink:href="http://evil.invalid/a.svg#b"/>',
        '<foreignObject><body xmlns="http://www.w3.org/1999/xhtml"><script>1</script></body>'
        "</foreignObject>",
        '<animate attributeName="href" values="javascript:alert(1)"/>',
        '<set attributeName="onload" to="alert(1)"/>',
        '<rect fill="url(http://evil.invalid/#a)" style="background:url(http://evil.invalid)"/>',
        "<style>@import url(http://evil.invalid/a.css);</style>",
        "<style>rect { fill: url(http://evil.invalid); stroke: u\\72l(//evil.invalid) }</style>",
        "<style>@font-face { src: url(http://evil.invalid) } text{font: x}</style>",
        '<x:script xmlns:x="http://www.w3.org/2000/svg">alert(1)</x:script>',
        '<handler xmlns="http://www.w3.org/2001/xml-events">alert(1)</handler>',
        '<svg><svg><g><script href="http://evil.invalid/a.js"/></g></svg></svg>',
    ],
)
def test_a_chart_with_a_script_or_a_reference_loses_it(inside: str) -> None:
    text = svg.clean(f"{HEAD}><text>kept</text>{inside}</svg>")
    assert "kept" in text
    for word in ("script", "alert", "evil", "url(", "@", "onload", "onclick", "href"):
        assert word not in text, word


@pytest.mark.parametrize(
    "text",
    [
        "",
        "systemd-analyze: It is not yet finished",
        "<html><svg/></html>",
        f"{HEAD}>",
        '<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>',
        '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
    ],
)
def test_what_is_no_chart_is_refused(text: str) -> None:
    with pytest.raises(svg.SvgError):
        svg.clean(text)


def test_a_unit_called_with_an_escape_is_drawn_with_its_name_in_words() -> None:
    assert r"a\x1b]0;x\x07" in svg.clean(f"{HEAD}><text>a\x1b]0;x\x07</text></svg>")


def test_a_chart_of_many_levels_ends_at_some_level() -> None:
    text = svg.clean("<svg>" * 5000 + "</svg>" * 5000)
    assert text.count("<svg") == svg.DEPTH + 1
