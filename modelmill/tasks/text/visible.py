"""Any text → characters that are safe to show: none of them drives a terminal or reorders what stands around it."""

import re

# Terminal escapes and other control characters; marks that turn the direction of writing for what follows; line ends
# that not every program takes for one; format characters that are deprecated, frame
# annotations or are invisible tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with control characters and marks of writing direction as `⟨U+001B⟩`.

    A hostile page or model can then neither send a terminal commands nor reorder what stands around it. Each character
    is judged alone, so a text may be shown piece by piece.
    """
    return _UNSAFE.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text.replace("\r\n", "\n").replace("\r", "\n"))


def visible_line(text: str, limit: int = 200) -> str:
    """The same on one line, cut at `limit` characters: for a name, which must not look like lines of its own."""
    line = " ".join(visible(text[: 4 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
