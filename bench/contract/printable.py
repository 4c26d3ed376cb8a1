"""Text of others - names, option values, prompts, captions - in the outputs of this program: it can
break or forge none of them."""

from __future__ import annotations

import unicodedata

HIDDEN = (
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
)  # Unicode categories of what does not print, or changes how the rest prints


def visible(text: str) -> str:
    r"""`text` with what does not print as its code, such as \x1b or \u200b: no terminal command, no
    turned writing direction, one line."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_code(c) if unicodedata.category(c) in HIDDEN else c for c in text)


def _code(letter: str) -> str:
    number = ord(letter)
    return (
        f"\\x{number:02x}"
        if number < 0x100
        else f"\\u{number:04x}"
        if number < 0x10000
        else f"\\U{number:08x}"
    )


def lines(text: str) -> str:
    """As `visible`, for text of several lines."""
    return "\n".join(visible(line) for line in text.split("\n"))
