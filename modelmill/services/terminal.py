"""A console for text that others wrote: pages, models and servers may be quoted, and cannot drive the terminal."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from modelmill.tasks.text.visible import visible


class PlainConsole(Console):
    """Rich's console, on which a string is only text: no markup, no emoji codes, no links, no control characters.

    Colours come as styles of `Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string before it is laid out, so that its width is that of what is shown."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is written, without what a terminal would obey; rich's own cursor movements are control segments."""
        for text, style, control in super().render(renderable, options):
            if control:
                yield Segment(text, style, control)
            else:
                yield Segment(visible(text), style.update_link(None) if style and style.link else style)
