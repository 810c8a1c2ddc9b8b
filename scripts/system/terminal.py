"""A terminal that shows foreign text literally."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from scripts.system.text import paragraph


class Terminal(Console):
    """A console of rich that takes every string literally, and prints no escape but its own.

    Brackets are no markup and `:name:` is no emoji. Whatever is not printable is shown as
    `text.paragraph` has it, even in a `Text`. Give styles with `Text`.
    """

    def __init__(
        self,
        *,
        stderr: bool = False,
        file: TextIO | None = None,
        width: int | None = None,
        soft_wrap: bool = True,
    ) -> None:
        super().__init__(
            stderr=stderr,
            file=file,
            width=width,
            soft_wrap=soft_wrap,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(self, text: str, **how: Any) -> Text:
        """Return text for the console, before its width is measured."""
        return super().render_str(paragraph(text), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of renderable, of which only rich's own may control the terminal."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield Segment(paragraph(segment.text), segment.style)
